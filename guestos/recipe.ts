/** What an example guest is made of; a folder each. */

export type RootFile = {
  readonly path: string;
  readonly content: string;
  readonly mode?: number;
};

export type DebianRecipe = {
  readonly is: "debian";
  /** Beside mmdebstrap's essential set. */
  readonly packages: readonly string[];
  /** dpkg path patterns that are left out, mmdebstrap --dpkgopt=path-exclude. */
  readonly withoutPaths: readonly string[];
  readonly files: readonly RootFile[];
  /** Symbolic links: [target, path]. */
  readonly links: readonly (readonly [target: string, path: string])[];
  /** Run by sh in a chroot of the new root, after packages and files. */
  readonly commands: readonly string[];
};

export type ProgramRecipe = {
  readonly is: "program";
  /** One freestanding C file beside the recipe -> `path` in the image. */
  readonly source: string;
  readonly path: string;
  /** Empty directories that the start needs as mount points. */
  readonly folders: readonly string[];
};

export type Recipe = DebianRecipe | ProgramRecipe;

/** Every guest image needs these as mount points. */
export const mountPoints = ["dev", "proc", "run", "sys", "tmp", "etc"];

/** Documentation, locales and caches: a tenth of the image and of no use in it. */
export const leanPaths: readonly string[] = [
  "/usr/share/doc/*",
  "/usr/share/man/*",
  "/usr/share/info/*",
  "/usr/share/locale/*",
  "/usr/share/lintian/*",
  "/usr/share/bash-completion/*",
  "/usr/share/zsh/*",
];

/** Units that would act on the machine, not on a container. */
export const maskedUnits: readonly string[] = [
  "systemd-udevd.service",
  "systemd-udevd-control.socket",
  "systemd-udevd-kernel.socket",
  "systemd-udev-trigger.service",
  "systemd-modules-load.service",
  "systemd-remount-fs.service",
  "systemd-firstboot.service",
  "systemd-machine-id-commit.service",
  "sys-kernel-debug.mount",
  "sys-kernel-tracing.mount",
  "dev-hugepages.mount",
  "proc-sys-fs-binfmt_misc.automount",
  "proc-sys-fs-binfmt_misc.mount",
  "getty@tty1.service",
  "fstrim.timer",
  "e2scrub_all.timer",
  "e2scrub_reap.service",
  "apt-daily.timer",
  "apt-daily-upgrade.timer",
  "dpkg-db-backup.timer",
];
