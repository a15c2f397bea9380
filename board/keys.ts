/**
 * The keys of a product, one folder:
 *   PK KEK db        RSA-2048 (what UEFI firmware surely knows), .key .crt .esl: who may boot
 *   release          P-256, .key .pub: who says which kernel image opens the disk (PCR policies)
 *   platform-ca      P-384, .key .crt: anchor of the GuestOSes that come with the image
 * Development keys are made at first use into build/keys/ and are never committed. A production build refuses them.
 */
import { existsSync } from "node:fs";
import { mkdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { GimbalError } from "../init/errors.ts";
import { temporaryOf } from "../initramfs/cache.ts";
import { command } from "../initramfs/command.ts";
import { step } from "../initramfs/step.ts";

export type Keys = {
  readonly folder: string;
  readonly development: boolean;
  readonly dbKey: string;
  readonly dbCertificate: string;
  /** EFI signature lists, in the order in which firmware takes them: PK last. */
  readonly signatureLists: Readonly<Record<"db" | "KEK" | "PK", string>>;
  readonly releaseKey: string;
  readonly releasePublicKey: string;
  readonly platformCaKey: string;
  readonly platformCaCertificate: string;
};

const repository = join(import.meta.dirname, "..");
export const developmentKeysFolder = join(repository, "build/keys");
const efiNames = ["PK", "KEK", "db"] as const;
/** In the subject of every development certificate, and the name of a file beside the keys. */
const developmentMark = "DEVELOPMENT";
/** Owner GUID of the signature lists; it only tells owners apart. */
const ownerGuid = "6d1c0c1e-55a0-4ae5-9c9b-7b1d6f3a9e10";

/**
 * The keys to build with: GIMBAL_KEYS names their folder, else the development keys. With PRODUCTION=1 development keys
 * are refused.
 */
export async function keysForBuild(env: NodeJS.ProcessEnv = process.env): Promise<Keys> {
  const folder = env["GIMBAL_KEYS"] ?? developmentKeysFolder;
  const production = env["PRODUCTION"] === "1";
  if (folder === developmentKeysFolder && !production && !existsSync(folder))
    await makeDevelopmentKeys(folder);
  const keys = keysIn(folder, !production);
  await checkKeys(keys, production);
  return keys;
}

function keysIn(folder: string, development: boolean): Keys {
  const at = (name: string) => join(folder, name);
  return {
    folder,
    development,
    dbKey: at("db.key"),
    dbCertificate: at("db.crt"),
    signatureLists: { db: at("db.esl"), KEK: at("KEK.esl"), PK: at("PK.esl") },
    releaseKey: at("release.key"),
    releasePublicKey: at("release.pub"),
    platformCaKey: at("platform-ca.key"),
    platformCaCertificate: at("platform-ca.crt"),
  };
}

async function checkKeys(keys: Keys, production: boolean): Promise<void> {
  const { folder, development: _, ...files } = keys;
  const paths = Object.values(files).flatMap((each) =>
    typeof each === "string" ? [each] : Object.values(each),
  );
  const isDevelopment =
    production && (existsSync(join(folder, developmentMark)) || (await hasDevelopmentCertificate(paths)));
  const missing = paths.find((path) => !existsSync(path));
  if (missing === undefined && !isDevelopment) return;
  throw new GimbalError("build-failed", {
    tried: production ? "make a production image with" : "build with",
    on: `the keys in ${folder}`,
    why: isDevelopment ? "they are development keys" : `${missing} is missing`,
    todo: 'make real ones as docs/boards.md, "Production keys", says and name their folder in GIMBAL_KEYS',
  });
}

async function hasDevelopmentCertificate(paths: readonly string[]): Promise<boolean> {
  for (const path of paths.filter((each) => each.endsWith(".crt") && existsSync(each))) {
    const subject = await command("openssl", ["x509", "-in", path, "-noout", "-subject"]);
    if (subject.includes(developmentMark)) return true;
  }
  return false;
}

/** Makes all keys in a new folder, which appears whole. */
export async function makeDevelopmentKeys(folder: string): Promise<void> {
  await step("KEYS", "development keys in build/keys", async () => {
    const temporary = temporaryOf(folder);
    await mkdir(temporary, { recursive: true, mode: 0o700 });
    try {
      await writeFile(
        join(temporary, developmentMark),
        "Made by a build for trying things out. Never for a product.\n",
      );
      for (const name of efiNames) await makeEfiKey(temporary, name);
      await makeReleaseKey(temporary);
      await makePlatformCa(temporary);
      await rename(temporary, folder);
    } catch (error) {
      await rm(temporary, { recursive: true, force: true });
      if (!existsSync(folder)) throw error; // another build made them in the meantime
    }
  });
}

async function makeEfiKey(folder: string, name: (typeof efiNames)[number]): Promise<void> {
  const at = (extension: string) => join(folder, `${name}.${extension}`);
  await command("openssl", [
    ...["req", "-new", "-x509", "-newkey", "rsa:2048", "-nodes", "-sha256", "-days", "7300"],
    ...["-subj", `/CN=gimbal ${developmentMark} ${name}/`, "-keyout", at("key"), "-out", at("crt")],
  ]);
  await command("cert-to-efi-sig-list", ["-g", ownerGuid, at("crt"), at("esl")]);
}

async function makeReleaseKey(folder: string): Promise<void> {
  const [key, publicKey] = [join(folder, "release.key"), join(folder, "release.pub")];
  await command("openssl", [
    "genpkey",
    "-algorithm",
    "EC",
    "-pkeyopt",
    "ec_paramgen_curve:P-256",
    "-out",
    key,
  ]);
  await command("openssl", ["pkey", "-in", key, "-pubout", "-out", publicKey]);
}

/** A root that may sign GuestOS signers directly (path length 0 would forbid an issuing CA in between; 1 allows one). */
async function makePlatformCa(folder: string): Promise<void> {
  await command("openssl", [
    ...["req", "-new", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-384", "-nodes", "-sha384"],
    ...["-days", "7300", "-subj", `/CN=gimbal ${developmentMark} platform CA/`],
    ...["-addext", "basicConstraints=critical,CA:TRUE,pathlen:1"],
    ...["-addext", "keyUsage=critical,keyCertSign,cRLSign"],
    ...["-keyout", join(folder, "platform-ca.key"), "-out", join(folder, "platform-ca.crt")],
  ]);
}

/** OVMF variables with our PK, KEK and db enrolled, Secure Boot on, written to `target`, which appears by rename. */
export async function enrolVariables(keys: Keys, emptyVariables: string, target: string): Promise<void> {
  const temporary = temporaryOf(target);
  await writeFile(temporary, await readFile(emptyVariables));
  // PK last: setting it ends setup mode
  for (const name of ["db", "KEK", "PK"] as const)
    await command("flash-var", [temporary, name, keys.signatureLists[name]]);
  await rename(temporary, target);
}
