/**
 * Recipe -> root file system. A Debian comes by mmdebstrap from the archive that the host's apt uses, apt verifying as always, and is
 * customised inside: trees copied in, units masked, setuid bits taken, traces of this machine removed. No privilege is needed.
 */
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { debianSources } from "../board/debian/apt.ts";
import { command } from "../initramfs/command.ts";
import { type PackageSet, parseStanzas, pinsOf } from "./lock.ts";
import { imageEpochSeconds } from "./pack.ts";
import { type DebianRecipe, leanPaths, mountPoints, type ProgramRecipe } from "./recipe.ts";

/** Debian's own name for its archive: what an image says, whichever mirror it was built from. */
const publicSources = `Types: deb
URIs: http://deb.debian.org/debian
Suites: trixie trixie-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://deb.debian.org/debian-security
Suites: trixie-security
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
`;

/**
 * Writes root.tar into `work`, a folder of the caller's.
 * @param folder where the recipe's trees lie
 * @param locked versions to take where the archive has them
 * @returns what is inside
 */
export async function debianRoot(
  work: string,
  folder: string,
  recipe: DebianRecipe,
  locked: PackageSet,
): Promise<PackageSet> {
  const sources = await debianSources();
  const at = (name: string) => join(work, name);
  await writeFile(at("pins"), pinsOf(locked));
  await writeFile(at("customise.sh"), customisation(recipe));
  for (const tree of recipe.trees) await packTree(join(folder, tree), at(`${tree}.tar`));
  const setup = ['mkdir -p "$1"/etc/apt/preferences.d', `upload ${at("pins")} /etc/apt/preferences.d/lock`];
  const customise = [
    recordPackages,
    `download /packages.record ${at("packages.record")}`,
    ...recipe.trees.map((tree) => `tar-in ${at(`${tree}.tar`)} /`),
    `upload ${at("customise.sh")} /customise.sh`,
    'chroot "$1" /bin/sh /customise.sh',
    'rm "$1"/customise.sh "$1"/packages.record "$1"/etc/apt/preferences.d/lock',
  ];
  await command(
    "mmdebstrap",
    [
      `--mode=${process.getuid?.() === 0 ? "root" : "unshare"}`,
      `--variant=${recipe.variant}`,
      "--format=tar",
      `--include=${recipe.packages.join(",")}`,
      '--aptopt=Acquire::Languages "none"',
      ...leanPaths.map((option) => `--dpkgopt=${option}`),
      ...setup.map((hook) => `--setup-hook=${hook}`),
      ...customise.map((hook) => `--customize-hook=${hook}`),
      sources.suite,
      at("root.tar"),
      ...sources.lines,
    ],
    {
      env: { SOURCE_DATE_EPOCH: String(imageEpochSeconds), TMPDIR: process.env["TMPDIR"] ?? "/tmp" },
      todo: "check that the Debian archive can be reached; what was built once needs no network",
    },
  );
  return parseStanzas(await readFile(at("packages.record"), "utf8"));
}

/** apt's word on what was installed: it read these digests from signed lists and compared each file with them. */
const recordPackages = [
  `chroot "$1" dpkg-query -W -f '\${Package}=\${Version}\\n'`,
  'APT_CONFIG="$MMDEBSTRAP_APT_CONFIG" xargs apt-cache show --no-all-versions > "$1"/packages.record',
].join(" | ");

/** All files are root's; which of them are programs is what git keeps of their modes. */
async function packTree(tree: string, tar: string): Promise<void> {
  const owner = ["--owner=0", "--group=0", "--numeric-owner", "--mode=u=rwX,go=rX"];
  const order = ["--sort=name", `--mtime=@${imageEpochSeconds}`, "--format=gnu"];
  await command("tar", ["--create", ...owner, ...order, "--file", tar, "--directory", tree, "."]);
}

function customisation({ commands, masks, setuid }: DebianRecipe): string {
  const keep = setuid.map((path) => `! -path ${path}`).join(" ");
  return `set -eu
${commands.join("\n")}

# Masks
mkdir -p /etc/systemd/system-generators
for unit in ${masks.units.join(" ")}; do ln -sf /dev/null /etc/systemd/system/$unit; done
for name in ${masks.generators.join(" ")}; do ln -sf /dev/null /etc/systemd/system-generators/$name; done

# Of setuid and setgid programs stay those that the recipe names
find / -xdev -type f -perm /6000 ${keep} -exec chmod ug-s {} +

# What each device makes for itself, and what tells where this was built
rm -rf /etc/apt/sources.list /etc/apt/sources.list.d/* /etc/ssh/ssh_host_* /etc/.pwd.lock /etc/passwd- /etc/group- /etc/shadow- /etc/gshadow-
[ ! -d /etc/apt ] || { mkdir -p /etc/apt/sources.list.d; cat >/etc/apt/sources.list.d/debian.sources; } <<'END'
${publicSources}END
rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin /var/cache/debconf/*-old /var/lib/dpkg/*-old /var/lib/systemd/random-seed
find /var/log -type f -delete
: >/etc/machine-id
rm -f /etc/resolv.conf /var/lib/dbus/machine-id
: >/etc/resolv.conf
`;
}

/** A folder with one freestanding program and the directories that a start mounts on. */
export async function programRoot(root: string, folder: string, recipe: ProgramRecipe): Promise<void> {
  for (const path of [...mountPoints, "etc"]) await mkdir(join(root, path), { recursive: true });
  await writeFile(join(root, "etc/resolv.conf"), "");
  await command("gcc", [
    ...["-static", "-nostdlib", "-ffreestanding", "-fno-stack-protector", "-fno-asynchronous-unwind-tables"],
    ...["-Os", "-s", "-Wall", "-Wextra", "-Werror", "-Wl,--build-id=none", "-Wl,-z,noexecstack"],
    ...[join(folder, recipe.source), "-o", join(root, recipe.path)],
  ]);
}
