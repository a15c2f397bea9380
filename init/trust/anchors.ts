/** Trust anchors: the CAs in the signed image, and those that the owner registered. */
import { X509Certificate } from "node:crypto";
import { readdirSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { GimbalError, quoted } from "../errors.ts";
import { isWholeCertificate } from "./der.ts";
import { certificatesInPem } from "./pem.ts";

export type Anchor = {
  readonly certificate: X509Certificate;
  /** "platform": in the signed image. "registered": by the owner, under /data/trust. */
  readonly origin: "platform" | "registered";
};

export type SkippedAnchor = { readonly path: string; readonly why: string };

const maxFileBytes = 64 * 1024;
const maxAnchors = 64;

/** The certificates in the *.crt files of a folder. What is no CA is skipped and told. An absent folder has none. */
export function readAnchors(
  folder: string,
  origin: Anchor["origin"],
): { readonly anchors: readonly Anchor[]; readonly skipped: readonly SkippedAnchor[] } {
  const anchors: Anchor[] = [];
  const skipped: SkippedAnchor[] = [];
  for (const name of namesIn(folder)) {
    const path = join(folder, name);
    try {
      if (statSync(path).size > maxFileBytes) throw refuse(name, "it is too large");
      for (const certificate of parseAnchors(readFileSync(path, "utf8"), name))
        anchors.push({ certificate, origin });
    } catch (error) {
      skipped.push({ path, why: error instanceof Error ? error.message : String(error) });
    }
  }
  return { anchors: anchors.slice(0, maxAnchors), skipped };
}

/** @throws {GimbalError} "ca-refused" where the text is no PEM of CA certificates */
export function parseAnchors(pem: string, name: string): readonly X509Certificate[] {
  const ders = certificatesInPem(pem, 8);
  if (!ders || ders.length === 0) throw refuse(name, "it holds no certificate in PEM, or more than 8");
  return ders.map((der) => {
    if (!isWholeCertificate(der)) throw refuse(name, "a certificate is no DER");
    let certificate: X509Certificate;
    try {
      certificate = new X509Certificate(der);
    } catch (error) {
      throw refuse(name, "a certificate cannot be read", error);
    }
    if (!certificate.ca) throw refuse(name, `${quoted(certificate.subject)} is no CA`);
    return certificate;
  });
}

function namesIn(folder: string): string[] {
  try {
    return readdirSync(folder)
      .filter((name) => name.endsWith(".crt"))
      .sort();
  } catch (error) {
    if (error instanceof Error && "code" in error && error.code === "ENOENT") return [];
    throw error;
  }
}

function refuse(name: string, why: string, cause?: unknown): GimbalError {
  return new GimbalError(
    "ca-refused",
    { tried: "take as CA", on: quoted(name), why, todo: "give a PEM file with a CA certificate" },
    cause,
  );
}
