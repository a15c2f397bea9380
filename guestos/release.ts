/**
 * Which version a build gets, and its signed manifest. A device never takes other content under a version that it has, so a development
 * build counts on from guestos.yaml's number whenever the content changes: guestos-versions.json beside the development keys. A
 * production build has exactly the number in guestos.yaml.
 */
import { existsSync, readFileSync } from "node:fs";
import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { Keys } from "../board/keys.ts";
import { manifestContentType } from "../init/guestos/manifest-format.ts";
import { signEnvelope } from "../init/trust/cose.ts";
import { cached, digestOf, writeAtomic } from "../initramfs/cache.ts";
import type { Signer } from "./signer.ts";
import { type BuildFacts, type GuestosSource, manifestOf } from "./source.ts";

type Versions = Readonly<Record<string, { readonly content: string; readonly version: number }>>;

export type SignedManifest = { readonly path: string; readonly version: number };

/** Signs once per content and signer: the same content gives the same octets again, so a device sees that it has it. */
export async function signedManifest(
  source: GuestosSource,
  keys: Keys,
  signer: Signer,
  facts: Pick<BuildFacts, "upstreamVersion" | "images">,
): Promise<SignedManifest> {
  const content = digestOf("1", manifestOf(source, { ...facts, version: 1, buildDate: 0 }), ...signer.chain);
  const version = keys.development ? await countedVersion(keys.folder, source, content) : source.version;
  const result = await cached("guest-manifest", digestOf(content, String(version)), async (target) => {
    const payload = manifestOf(source, { ...facts, version, buildDate: buildDate() });
    await mkdir(target);
    await writeFile(
      join(target, "manifest.cose"),
      signEnvelope(payload, manifestContentType, signer.chain, signer.key),
    );
  });
  return { path: join(result.path, "manifest.cose"), version };
}

function buildDate(): number {
  const given = process.env["SOURCE_DATE_EPOCH"];
  return given !== undefined && /^\d+$/.test(given) ? Number(given) : Math.floor(Date.now() / 1000);
}

/** The version of this content: the one it had, else one more than the last of this guest. */
export async function countedVersion(
  folder: string,
  source: GuestosSource,
  content: string,
): Promise<number> {
  const path = join(folder, "guestos-versions.json");
  const versions: Versions = existsSync(path) ? JSON.parse(readFileSync(path, "utf8")) : {};
  const last = versions[source.name];
  if (last?.content === content && last.version >= source.version) return last.version;
  const version = Math.max(source.version, (last?.version ?? 0) + 1);
  await writeAtomic(path, `${JSON.stringify({ ...versions, [source.name]: { content, version } })}\n`);
  return version;
}
