/**
 * The keys of a product as a folder, as board/keys.ts reads them:
 *   PK KEK db         RSA-2048, .key .crt .esl: who may boot
 *   release           P-256, .key .pub: who says which kernel image opens the disk
 *   platform-ca       P-384, .key .crt: anchor of the GuestOSes that come with the image
 *   guestos-signer    P-256, .key .crt: a leaf under the platform CA with the GuestOS signing role
 * The folder appears whole or not at all, and nothing in it is ever overwritten.
 */
import { randomUUID } from "node:crypto";
import { existsSync } from "node:fs";
import { mkdir, open, readFile, rename, rm } from "node:fs/promises";
import { dirname, join } from "node:path";
import { GimbalError } from "../../init/errors.ts";
import { roles } from "../../init/trust/roles.ts";
import { temporaryOf } from "../../initramfs/cache.ts";
import {
  algorithms,
  certificateDer,
  certificatePem,
  type Identity,
  makeIdentity,
  makeKeys,
  privatePem,
  publicPem,
  readIdentity,
} from "./certificates.ts";
import { signatureList } from "./signature-list.ts";

export type ProductOptions = {
  /** In the subjects of all certificates. */
  readonly name: string;
  readonly now: Date;
};

type Files = ReadonlyMap<string, { readonly content: string | Uint8Array; readonly mode: number }>;

/** Long, as a firmware's and an image's keys cannot be changed from afar. */
const anchorYears = 20;
/** A signer's last day ends no device, only signing: it is made anew. */
const signerYears = 3;
/** Certificates are valid from a day before, so that a device whose clock is a little behind takes them. */
const dayMs = 86_400_000;

/** @throws {GimbalError} "build-failed" where the folder is there already */
export async function makeProduct(folder: string, options: ProductOptions): Promise<readonly string[]> {
  const files = new Map<string, { content: string | Uint8Array; mode: number }>();
  const owner = randomUUID();
  for (const name of ["PK", "KEK", "db"]) {
    const identity = await makeIdentity({
      ...subject(options, name),
      kind: { is: "firmware" },
      algorithm: algorithms.rsa2048,
      years: anchorYears,
    });
    add(files, name, identity);
    files.set(`${name}.esl`, { content: signatureList(owner, certificateDer(identity)), mode: 0o644 });
  }
  const release = await makeKeys(algorithms.p256);
  files.set("release.key", { content: privatePem(release), mode: 0o600 });
  files.set("release.pub", { content: publicPem(release), mode: 0o644 });
  const ca = await makeIdentity({
    ...subject(options, "platform CA"),
    // 1 allows an issuing CA between this one and the signers
    kind: { is: "ca", pathLength: 1 },
    algorithm: algorithms.p384,
    years: anchorYears,
  });
  add(files, "platform-ca", ca);
  add(files, "guestos-signer", await makeSigner(ca, options));
  await writeFolder(folder, files);
  return [...files.keys()];
}

/**
 * A new signer of GuestOSes under the CA of a folder that `makeProduct` made, or of any P-384 or P-256 CA.
 * @throws {GimbalError} "build-failed" where the files are there already, or the CA cannot be read
 */
export async function makeAnotherSigner(
  caFiles: { readonly key: string; readonly certificate: string },
  out: { readonly key: string; readonly certificate: string },
  options: ProductOptions,
): Promise<void> {
  const there = [out.key, out.certificate].find(existsSync);
  if (there !== undefined) throw refuse("write", there, "it is there already", "choose another name");
  const ca = await readCa(caFiles);
  const signer = await makeSigner(ca, options);
  await writeNew(out.key, privatePem(signer.keys), 0o600);
  await writeNew(out.certificate, certificatePem(signer), 0o644);
}

const makeSigner = (ca: Identity, options: ProductOptions): Promise<Identity> =>
  makeIdentity(
    {
      ...subject(options, "GuestOS signer"),
      kind: { is: "leaf", role: roles.guestosSigning },
      algorithm: algorithms.p256,
      years: signerYears,
    },
    ca,
  );

const subject = ({ name, now }: ProductOptions, what: string) => ({
  commonName: `${name} ${what}`,
  organisation: name,
  from: new Date(Math.floor(now.getTime() / dayMs) * dayMs - dayMs),
});

function add(
  files: Map<string, { content: string | Uint8Array; mode: number }>,
  name: string,
  identity: Identity,
) {
  files.set(`${name}.key`, { content: privatePem(identity.keys), mode: 0o600 });
  files.set(`${name}.crt`, { content: certificatePem(identity), mode: 0o644 });
}

async function readCa(files: { readonly key: string; readonly certificate: string }): Promise<Identity> {
  try {
    return await readIdentity(await readFile(files.certificate, "utf8"), await readFile(files.key, "utf8"));
  } catch (cause) {
    throw refuse(
      "use the CA of",
      files.certificate,
      "key or certificate is no P-256 or P-384 CA",
      undefined,
      cause,
    );
  }
}

async function writeFolder(folder: string, files: Files): Promise<void> {
  if (existsSync(folder))
    throw refuse(
      "make keys in",
      folder,
      "it is there already, and keys are never overwritten",
      "name a new folder",
    );
  await mkdir(dirname(folder), { recursive: true });
  const temporary = temporaryOf(folder);
  await mkdir(temporary, { mode: 0o700 });
  try {
    for (const [name, { content, mode }] of files) await writeNew(join(temporary, name), content, mode);
    await rename(temporary, folder);
  } catch (error) {
    await rm(temporary, { recursive: true, force: true });
    throw error;
  }
}

async function writeNew(path: string, content: string | Uint8Array, mode: number): Promise<void> {
  await using file = await open(path, "wx", mode);
  await file.writeFile(content);
  await file.sync();
}

function refuse(tried: string, on: string, why: string, todo?: string, cause?: unknown): GimbalError {
  return new GimbalError("build-failed", { tried, on, why, ...(todo === undefined ? {} : { todo }) }, cause);
}
