/**
 * Who signs the example guests: guestos-signer.key and .crt beside the product's other keys, a leaf with the GuestOS signing role
 * under the platform CA. Made at first use for development; a production build wants it made by hand.
 */
import { existsSync } from "node:fs";
import { readFile, rename, rm } from "node:fs/promises";
import { join } from "node:path";
import type { Keys } from "../board/keys.ts";
import { GimbalError } from "../init/errors.ts";
import { certificatesInPem } from "../init/trust/pem.ts";
import { roles } from "../init/trust/roles.ts";
import { temporaryOf } from "../initramfs/cache.ts";
import { command } from "../initramfs/command.ts";
import { step } from "../initramfs/step.ts";

export type Signer = {
  /** PEM. */
  readonly key: string;
  /** DER, the leaf first. */
  readonly chain: readonly Uint8Array[];
};

/** @throws GimbalError "build-failed" where a production build has none */
export async function guestosSigner(keys: Keys): Promise<Signer> {
  const [key, certificate] = [
    join(keys.folder, "guestos-signer.key"),
    join(keys.folder, "guestos-signer.crt"),
  ];
  if (!existsSync(key) || !existsSync(certificate)) {
    if (!keys.development) {
      throw new GimbalError("build-failed", {
        tried: "sign GuestOSes with",
        on: `the keys in ${keys.folder}`,
        why: "guestos-signer.key or guestos-signer.crt is missing",
        todo: 'make them as guestos/README.md, "Production signer", says',
      });
    }
    await step("KEYS", "development signer of GuestOSes", () => makeSigner(keys, key, certificate));
  }
  const chain = certificatesInPem(await readFile(certificate, "utf8"), 6) ?? [];
  return { key: await readFile(key, "utf8"), chain };
}

async function makeSigner(keys: Keys, key: string, certificate: string): Promise<void> {
  const [newKey, newCertificate] = [temporaryOf(key), temporaryOf(certificate)];
  try {
    await command("openssl", [
      ...[
        "req",
        "-new",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-sha256",
      ],
      ...["-CA", keys.platformCaCertificate, "-CAkey", keys.platformCaKey, "-days", "3650"],
      ...["-subj", "/CN=gimbal DEVELOPMENT guests/", "-addext", "basicConstraints=critical,CA:FALSE"],
      ...["-addext", "keyUsage=critical,digitalSignature"],
      ...["-addext", `extendedKeyUsage=critical,${roles.guestosSigning}`],
      ...["-keyout", newKey, "-out", newCertificate],
    ]);
    await rename(newKey, key);
    await rename(newCertificate, certificate);
  } finally {
    await rm(newKey, { force: true });
    await rm(newCertificate, { force: true });
  }
}

/**
 * PKCS#7 over the hex root hash by the product's db key: the kernel compares it with the firmware's db, dm-verity's
 * root_hash_sig_key_desc. DER; the same input gives the same octets.
 */
export async function signRootHash(
  keys: Pick<Keys, "dbKey" | "dbCertificate">,
  rootHash: string,
): Promise<Uint8Array> {
  const form = ["-nocerts", "-noattr", "-binary", "-outform", "der"];
  return await command(
    "openssl",
    ["smime", "-sign", ...form, "-md", "sha256", "-inkey", keys.dbKey, "-signer", keys.dbCertificate],
    { input: rootHash },
  );
}
