/** GuestOSes with one fault each, made of a good one and signed as the fault needs it: what a device must refuse, and how. */
import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { cpSync, mkdirSync, readdirSync, readFileSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type CborValue, decodeCbor, encodeCbor } from "../../../init/bytes/cbor.ts";
import { parseManifest } from "../../../init/guestos/manifest.ts";
import { manifestContentType } from "../../../init/guestos/manifest-format.ts";
import { signEnvelope } from "../../../init/trust/cose.ts";
import { certificatesInPem } from "../../../init/trust/pem.ts";
import { roles } from "../../../init/trust/roles.ts";
import {
  algorithms,
  certificateDer,
  type Identity,
  type Kind,
  makeIdentity,
  privatePem,
  readIdentity,
} from "../../../tool/pki/certificates.ts";

export const builtFolder = "build/guestos";
const keysFolder = "build/keys";
const key = (name: string) => readFileSync(join(keysFolder, name), "utf8");

type Fields = ReadonlyMap<string, CborValue>;
export type Signer = { readonly key: string; readonly chain: readonly Uint8Array[] };

/** The folder of a guest that guestos/build.ts made. */
export function builtGuest(name: string): string {
  const id = readdirSync(builtFolder).find((each) => each.replace(/-\d+$/, "") === name);
  if (id === undefined) throw new Error(`build/guestos has no ${name}`);
  return join(builtFolder, id);
}

export const goodSigner = (): Signer => ({
  key: key("guestos-signer.key"),
  chain: certificatesInPem(key("guestos-signer.crt"), 4) ?? [],
});

const platformCa = (): Promise<Identity> => readIdentity(key("platform-ca.crt"), key("platform-ca.key"));

/** A signer under the platform's CA or one of its own. */
export async function signer(
  kind: Kind,
  ca: Identity,
  from = new Date(Date.now() - 86_400_000),
): Promise<Signer> {
  const common = { commonName: "test signer", organisation: "Test", algorithm: algorithms.p256 };
  const leaf = await makeIdentity({ ...common, kind, from, years: 1 }, ca);
  return { key: privatePem(leaf.keys), chain: [certificateDer(leaf)] };
}

export const foreignCa = (): Promise<Identity> =>
  makeIdentity({
    commonName: "foreign CA",
    organisation: "Test",
    kind: { is: "ca", pathLength: 0 },
    algorithm: algorithms.p256,
    from: new Date(Date.now() - 86_400_000),
    years: 1,
  });

/** Writes `to`/<name>-<version>: the fields of a good GuestOS, changed, and signed. Images are copied. */
export function remade(
  good: string,
  to: string,
  name: string,
  change: { fields?: (fields: Fields) => Fields; signer?: Signer; version?: number } = {},
): string {
  const { fields: changed = (fields) => fields, signer = goodSigner(), version = 1 } = change;
  const { envelope } = parseManifest(readFileSync(join(good, "manifest.cose")));
  const decoded = decodeCbor(envelope.payload, { maxBytes: 262_144 });
  if (decoded.is !== "value") throw new Error(decoded.reason);
  const fields = new Map([...(decoded.value as Fields), ["name", name], ["version", version]] as const);
  const folder = join(to, `${name}-${version}`);
  mkdirSync(folder, { recursive: true });
  for (const file of readdirSync(good).filter((each) => each.endsWith(".img")))
    execFileSync("cp", ["--sparse=always", join(good, file), join(folder, file)]);
  const payload = encodeCbor(changed(fields));
  writeFileSync(
    join(folder, "manifest.cose"),
    signEnvelope(payload, manifestContentType, signer.chain, signer.key),
  );
  return folder;
}

/** Changes keys of the first mount. */
export const withRootMount =
  (change: (mount: Fields) => readonly (readonly [string, CborValue])[]) =>
  (fields: Fields): Fields => {
    const [root, ...rest] = fields.get("mounts") as readonly Fields[];
    if (!root) throw new Error("no mounts");
    return new Map([...fields, ["mounts", [new Map([...root, ...change(root)]), ...rest]]]);
  };

/** A GuestOS whose image has one bit flipped, though digest and signature are right: only dm-verity sees it. */
export function withFlippedBlock(good: string, to: string, name: string, at: number): string {
  const image = readFileSync(join(good, "root.img"));
  image[at] = (image[at] ?? 0) ^ 1;
  const digest = createHash("sha256").update(image).digest();
  const folder = remade(good, to, name, { fields: withRootMount(() => [["image_sha256", digest]]) });
  writeFileSync(join(folder, "root.img"), image);
  return folder;
}

export type Harmed = {
  readonly folder: string;
  readonly name: string;
  readonly code: string;
  readonly sentence: RegExp;
};

/** What is refused when it is installed. */
export async function harmedGuestoses(good: string, to: string): Promise<readonly Harmed[]> {
  const leaf = { is: "leaf", role: roles.guestosSigning } as const;
  const found: Harmed[] = [];
  const add = (name: string, code: string, sentence: RegExp, make: (name: string) => string) =>
    found.push({ folder: make(name), name, code, sentence });
  const [ca, foreign] = [await platformCa(), await foreignCa()];
  const signers = {
    foreign: await signer(leaf, foreign),
    noRole: await signer({ is: "leaf", role: "1.3.6.1.5.5.7.3.2" }, ca),
    expired: await signer(leaf, ca, new Date("2020-01-01T00:00:00Z")),
    later: await signer(leaf, ca, new Date(Date.now() + 30 * 86_400_000)),
  };
  add("foreign", "guestos-untrusted", /no trusted CA has signed "test signer"/, (name) =>
    remade(good, to, name, { signer: signers.foreign }),
  );
  add("no-role", "guestos-role", /"test signer" has no GuestOS signing role/, (name) =>
    remade(good, to, name, { signer: signers.noRole }),
  );
  add("expired", "guestos-expired", /"test signer" was valid until .*the clock says/, (name) =>
    remade(good, to, name, { signer: signers.expired }),
  );
  add("not-yet-valid", "guestos-expired", /"test signer" is valid from .*the clock says/, (name) =>
    remade(good, to, name, { signer: signers.later }),
  );
  add("altered", "guestos-signature", /altered after signing/, (name) => {
    const folder = remade(good, to, name);
    const path = join(folder, "manifest.cose");
    const bytes = readFileSync(path);
    const at = bytes.length - 10; // in the signature
    bytes[at] = (bytes[at] ?? 0) ^ 1;
    writeFileSync(path, bytes);
    return folder;
  });
  add("other-hardware", "guestos-hardware", /it is for arm64, this machine is x86-64/, (name) =>
    remade(good, to, name, { fields: (fields) => new Map([...fields, ["hardware", "arm64"]]) }),
  );
  add("truncated", "image-truncated", /root\.img has 4096 octets/, (name) => {
    const folder = remade(good, to, name);
    truncateSync(join(folder, "root.img"), 4096);
    return folder;
  });
  add("flipped", "guestos-altered", /digest of its image root\.img/, (name) => {
    const folder = remade(good, to, name);
    const image = readFileSync(join(folder, "root.img"));
    image[100] = (image[100] ?? 0) ^ 1;
    writeFileSync(join(folder, "root.img"), image);
    return folder;
  });
  add("of-later", "unsupported", /mount type FLASH is not supported/, (name) =>
    remade(good, to, name, {
      fields: (fields) => {
        const [root] = fields.get("mounts") as readonly Fields[];
        if (!root) throw new Error("no mounts");
        const part = new Map([
          ...root,
          ["image_file", "part.img"],
          ["mount_type", "FLASH"],
          ["mount_point", "/x"],
        ]);
        return new Map([...fields, ["mounts", [root, part]]]);
      },
    }),
  );
  return found;
}

/** A folder with a copy of a built guest, as it is. */
export function copyOf(name: string, to: string): string {
  const from = builtGuest(name);
  const folder = join(to, from.split("/").at(-1) ?? name);
  cpSync(from, folder, { recursive: true });
  return folder;
}
