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

  /** What apt would install for `name` at `version`, or at its newest version; undefined where the archive has none. */
  async show(name: string, version?: string): Promise<Offer | undefined> {
    const wanted = version === undefined ? name : `${name}=${version}`;
    const text = await command("apt-cache", [...this.#options, "show", "--no-all-versions", wanted]).catch(
      () => undefined,
    );
    if (text === undefined) return undefined;
    const field = (key: string) => new RegExp(`^${key}: (.*)$`, "m").exec(text.toString())?.[1];
    const [found, sha256, size] = [field("Version"), field("SHA256"), field("Size")];
    if (found === undefined || sha256 === undefined || size === undefined) return undefined;
    return { version: found, sha256, sizeBytes: Number(size), depends: field("Depends") ?? "" };
  }

  /** Downloads one .deb into `folder`; apt checks it against the signed lists. Returns its path. */
  async download(name: string, version: string, folder: string): Promise<string> {
    await mkdir(folder, { recursive: true });
    await command("apt-get", [...this.#options, "-q", "download", `${name}=${version}`], { cwd: folder });
    const file = (await readdir(folder)).find(
      (entry) => entry.startsWith(`${name}_`) && entry.endsWith(".deb"),
    );
    if (file === undefined) throw new Error(`apt-get download ${name}=${version} left no file`);
    return join(folder, file);
  }
}

export type Offer = {
  readonly version: string;
  readonly sha256: string;
  readonly sizeBytes: number;
  readonly depends: string;
};
