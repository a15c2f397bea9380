/**
 * A private apt of Debian 13 (trixie) beside the host's own: other suite, other state, same archive, same keyring. The
 * mirror is the one that the host's apt uses; apt verifies the signatures as always, and nothing of the host's
 * package state is read or written.
 */
import { existsSync } from "node:fs";
import { mkdir, readdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { GimbalError } from "../../init/errors.ts";
import { cacheRoot, digestOf } from "../../initramfs/cache.ts";
import { command } from "../../initramfs/command.ts";

export type Architecture = "amd64" | "arm64";

export type Source = { readonly uri: string; readonly suites: readonly string[] };
/** Where Debian 13 comes from on this machine, for apt and mmdebstrap. `mirror` ends with a slash. */
export type DebianSources = {
  readonly mirror: string;
  readonly securityMirror: string;
  readonly keyring: string;
  readonly suite: "trixie";
  readonly suites: readonly Source[];
  /** The same as lines of a sources.list. */
  readonly lines: readonly string[];
};

const keyring = "/usr/share/keyrings/debian-archive-keyring.gpg";

/** @throws GimbalError "build-failed" where neither the host's apt nor GIMBAL_DEBIAN_MIRROR names a Debian archive */
export async function debianSources(): Promise<DebianSources> {
  if (!existsSync(keyring)) {
    throw new GimbalError("build-failed", {
      tried: "verify",
      on: "Debian packages",
      why: `${keyring} is missing`,
      todo: "install debian-archive-keyring",
    });
  }
  const { mirror, securityMirror } = await hostMirrors();
  const suites: readonly Source[] = [
    { uri: mirror, suites: ["trixie", "trixie-updates"] },
    { uri: securityMirror, suites: ["trixie-security"] },
  ];
  const lines = suites.flatMap((source) =>
    source.suites.map((suite) => `deb [signed-by=${keyring}] ${source.uri} ${suite} main`),
  );
  return { mirror, securityMirror, keyring, suite: "trixie", suites, lines };
}

/** The archives that the host's apt is configured for; this asks apt and touches no network. */
async function hostMirrors(): Promise<{ mirror: string; securityMirror: string }> {
  const override = process.env["GIMBAL_DEBIAN_MIRROR"];
  const uris = override ? [] : await hostUris();
  const mirror = override ?? uris.find((uri) => /\/debian\/?$/.test(uri));
  if (mirror === undefined) {
    throw new GimbalError("build-failed", {
      tried: "find",
      on: "a Debian archive",
      why: "the host's apt sources name none",
      todo: "set GIMBAL_DEBIAN_MIRROR to the address of one, ending in /debian/",
    });
  }
  const base = mirror.replace(/\/*$/, "");
  const security =
    process.env["GIMBAL_DEBIAN_SECURITY_MIRROR"] ??
    uris.find((uri) => /debian-security\/?$/.test(uri)) ??
    `${base}-security`;
  return { mirror: `${base}/`, securityMirror: `${security.replace(/\/*$/, "")}/` };
}

async function hostUris(): Promise<string[]> {
  const printed = (await command("apt-get", ["update", "--print-uris"])).toString();
  const uris = [...printed.matchAll(/^'([^']+)\/dists\/[^']+'/gm)].map((match) => match[1] ?? "");
  return [...new Set(uris)];
}

/** apt with its own state folder. Every method works offline once the lists were read. */
export class PrivateApt {
  readonly #folder: string;
  readonly #options: readonly string[];
  #updated = false;

  private constructor(folder: string, architecture: Architecture) {
    this.#folder = folder;
    const options = {
      "APT::Architecture": architecture,
      "APT::Architectures::": architecture,
      "Dir::State": join(folder, "state"),
      "Dir::State::status": "/dev/null",
      "Dir::Cache": join(folder, "cache"),
      "Dir::Etc::sourcelist": join(folder, "trixie.list"),
      "Dir::Etc::sourceparts": "/dev/null",
      "Dir::Etc::preferences": "/dev/null",
      "Dir::Etc::preferencesparts": join(folder, "preferences.d"),
      "APT::Sandbox::User": "",
      "Acquire::Languages": "none",
      "Acquire::Retries": "3",
    };
    this.#options = Object.entries(options).flatMap(([name, value]) => ["-o", `${name}=${value}`]);
  }

  static async open(architecture: Architecture): Promise<PrivateApt> {
    const { lines } = await debianSources();
    const folder = join(cacheRoot, "apt", `trixie-${architecture}-${digestOf(...lines).slice(0, 12)}`);
    for (const sub of ["state/lists/partial", "cache/archives/partial", "preferences.d"]) {
      await mkdir(join(folder, sub), { recursive: true });
    }
    await writeFile(join(folder, "trixie.list"), `${lines.join("\n")}\n`);
    return new PrivateApt(folder, architecture);
  }

  /** Reads the package lists anew, once per process. Without a network the lists of last time serve, if there are any. */
  async update(): Promise<void> {
    if (this.#updated) return;
    this.#updated = true;
    try {
      await command("apt-get", [...this.#options, "-o", "APT::Update::Error-Mode=any", "-q", "update"]);
    } catch (error) {
      const lists = await readdir(join(this.#folder, "state/lists"));
      if (!lists.some((name) => name.endsWith("_Packages"))) throw error;
    }
  }

  /**
   * What the archive offers under each of `wanted`, which are names ("libc6": the newest) or names with a version
   * ("libc6=2.41-12"). What it has none of is absent.
   */
  async show(wanted: readonly string[]): Promise<ReadonlyMap<string, Offer>> {
    const found = new Map<string, Offer>();
    const args = [...this.#options, "show", "--no-all-versions"];
    const all = await command("apt-cache", [...args, ...wanted]).catch(() => undefined);
    const stanzas =
      all
        ?.toString()
        .split(/\n\n+/)
        .map(offerOf)
        .filter((each) => each !== undefined) ?? [];
    for (const each of wanted) {
      const name = each.split("=")[0] ?? "";
      let offer = stanzas.find((stanza) => stanza.name === name);
      if (all === undefined) {
        // apt-cache fails as a whole where one of several is unknown: ask one by one
        const one = await command("apt-cache", [...args, each]).catch(() => undefined);
        offer = one === undefined ? undefined : offerOf(one.toString());
      }
      if (offer !== undefined) found.set(each, offer);
    }
    return found;
  }

  /** Downloads .deb files into `folder`; apt checks them against the signed lists. `wanted` as in `show`, with versions. */
  async download(wanted: readonly string[], folder: string): Promise<void> {
    await mkdir(folder, { recursive: true });
    await command("apt-get", [...this.#options, "-q", "download", ...wanted], { cwd: folder });
  }
}

function offerOf(stanza: string): Offer | undefined {
  const field = (key: string) => new RegExp(`^${key}: (.*)$`, "m").exec(stanza)?.[1];
  const [name, version, sha256, size] = [field("Package"), field("Version"), field("SHA256"), field("Size")];
  if (name === undefined || version === undefined || sha256 === undefined || size === undefined)
    return undefined;
  return { name, version, sha256, sizeBytes: Number(size), depends: field("Depends") ?? "" };
}

export type Offer = {
  readonly name: string;
  readonly version: string;
  readonly sha256: string;
  readonly sizeBytes: number;
  readonly depends: string;
};
