/** What an example guest is made of: a folder each with guestos.yaml, recipe.ts and, for a Debian, files/ and a lock of packages. */

export type DebianRecipe = {
  readonly is: "debian";
  /** mmdebstrap's: "essential" has no apt inside, "minbase" has. */
  readonly variant: "essential" | "minbase";
  readonly packages: readonly string[];
  /** Trees beside the recipe that are copied over the root, in this order. */
  readonly trees: readonly string[];
  /** systemd units and generators that are masked. */
  readonly masks: { readonly units: readonly string[]; readonly generators: readonly string[] };
  /** Lines of sh, run in the new root after packages and trees, before the masks. */
  readonly commands: readonly string[];
  /** Files that keep their setuid or setgid bit; every other loses it. */
  readonly setuid: readonly string[];
  readonly limits: Limits;
};

export type ProgramRecipe = {
  readonly is: "program";
  /** One freestanding C file beside the recipe -> `path` in the image. */
  readonly source: string;
  readonly path: string;
  readonly limits: Limits;
};

export type Recipe = DebianRecipe | ProgramRecipe;

/** What check.ts holds an image to. */
export type Limits = {
  readonly imageBytes: number;
  /** Regular files with an execute bit. */
  readonly executables: number;
};

/** Directories that the start of a container mounts on. */
export const mountPoints = ["dev", "proc", "run", "sys", "tmp"];

/**
 * dpkg path patterns that stay out of every image: nobody reads them on a device, and they are a third of the files.
 * Copyright files stay: licences ask for them.
 */
export const leanPaths: readonly string[] = [
  "path-exclude=/usr/share/doc/*",
  "path-include=/usr/share/doc/*/copyright",
  "path-exclude=/usr/share/man/*",
  "path-exclude=/usr/share/info/*",
  "path-exclude=/usr/share/groff/*",
  "path-exclude=/usr/share/locale/*",
  "path-exclude=/usr/share/i18n/*",
  "path-exclude=/usr/share/lintian/*",
  "path-exclude=/usr/share/linda/*",
  "path-exclude=/usr/share/bug/*",
  "path-exclude=/usr/share/zsh/*",
  "path-exclude=/usr/share/fish/*",
  "path-exclude=/usr/share/polkit-1/*",
  "path-exclude=/usr/include/*",
];

/**
 * Units that act on a machine and not on a container, or on what an image that is never written needs not: each is one
 * process less at every start.
 */
export const machineUnits: readonly string[] = [
  "dev-hugepages.mount",
  "fstrim.timer",
  "getty-static.service",
  "getty@tty1.service",
  "ldconfig.service",
  "proc-sys-fs-binfmt_misc.automount",
  "proc-sys-fs-binfmt_misc.mount",
  "sys-fs-fuse-connections.mount",
  "sys-kernel-config.mount",
  "sys-kernel-debug.mount",
  "sys-kernel-tracing.mount",
  "systemd-binfmt.service",
  "systemd-firstboot.service",
  "systemd-journal-catalog-update.service",
  "systemd-machine-id-commit.service",
  "systemd-modules-load.service",
  "systemd-network-generator.service",
  "systemd-pcrextend.socket",
  "systemd-pcrlock.socket",
  "systemd-pstore.service",
  "systemd-remount-fs.service",
  "systemd-sysusers.service",
  "systemd-tmpfiles-setup-dev-early.service",
  "systemd-tmpfiles-setup-dev.service",
  "systemd-update-done.service",
];

/** Generators look for partitions, kernel words and consoles of a machine; the ssh one would open a socket unasked. */
export const machineGenerators: readonly string[] = [
  "systemd-cryptsetup-generator",
  "systemd-debug-generator",
  "systemd-fstab-generator",
  "systemd-getty-generator",
  "systemd-gpt-auto-generator",
  "systemd-hibernate-resume-generator",
  "systemd-integritysetup-generator",
  "systemd-rc-local-generator",
  "systemd-run-generator",
  "systemd-ssh-generator",
  "systemd-system-update-generator",
  "systemd-sysv-generator",
  "systemd-tpm2-generator",
  "systemd-veritysetup-generator",
];
