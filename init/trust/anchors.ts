/** Trust anchors: the CAs in the signed image, and those that the owner registered. */
import type { X509Certificate } from "node:crypto";
import { closeSync, constants, fstatSync, openSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { GimbalError, quoted, reasonOf } from "../errors.ts";
import { parseCertificate } from "./certificate.ts";
import { certificatesInPem } from "./pem.ts";

export type Anchor = {
  readonly certificate: X509Certificate;
  /** "platform": in the signed image. "registered": by the owner, under /data/trust. */
  readonly origin: "platform" | "registered";
};

export type SkippedAnchor = { readonly path: string; readonly why: string };

const maxFileBytes = 64 * 1024;
const maxPerFile = 8;
const maxAnchors = 64;

/**
 * The certificates in the *.crt files of a folder, in the order of their names. What is no CA is skipped and told. An absent
 * folder has none.
 */
export function readAnchors(
  folder: string,
  origin: Anchor["origin"],
): { readonly anchors: readonly Anchor[]; readonly skipped: readonly SkippedAnchor[] } {
  const anchors: Anchor[] = [];
  const skipped: SkippedAnchor[] = [];
  for (const name of namesIn(folder)) {
    const path = join(folder, name);
    try {
      const certificates = parseAnchors(readBounded(path, name), name);
      if (anchors.length + certificates.length > maxAnchors)
        throw refuse(name, `there are ${maxAnchors} CAs already`);
      for (const certificate of certificates) anchors.push({ certificate, origin });
    } catch (error) {
      skipped.push({ path, why: reasonOf(error) });
    }
  }
  return { anchors, skipped };
}

/**
 * The CAs in a PEM text.
 * @throws {GimbalError} "ca-refused" where it holds none, something else, or a certificate that is no CA
 */
export function parseAnchors(pem: string, name: string): readonly X509Certificate[] {
  const ders = pem.length > maxFileBytes ? undefined : certificatesInPem(pem, maxPerFile);
  if (!ders || ders.length === 0)
    throw refuse(name, `it holds no certificate in PEM, or more than ${maxPerFile}`);
  return ders.map((der, index) => {
    const parsed = parseCertificate(der);
    if (parsed.is === "refused") throw refuse(name, `certificate ${index + 1} ${parsed.why}`);
    const { isCa, x509, name: subject } = parsed.certificate;
    if (!isCa) throw refuse(name, `${subject} is no CA`);
    return x509;
  });
}

/** Reads a regular file only: a folder that an owner writes to must not make PID 1 wait for a pipe. */
function readBounded(path: string, name: string): string {
  const fd = openSync(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
  try {
    const stat = fstatSync(fd);
    if (!stat.isFile()) throw refuse(name, "it is no regular file");
    if (stat.size > maxFileBytes) throw refuse(name, `it has more than ${maxFileBytes} octets`);
    return readFileSync(fd, "utf8");
  } finally {
    closeSync(fd);
  }
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

function refuse(name: string, why: string): GimbalError {
  return new GimbalError("ca-refused", {
    tried: "take as CA",
    on: quoted(name),
    why,
    todo: "give a PEM file with a CA certificate",
  });
}
