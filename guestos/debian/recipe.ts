/** A full Debian 13 with systemd as its init: the kind of guest most users bring. */
import { type DebianRecipe, machineGenerators, machineUnits } from "../recipe.ts";

export const debian: DebianRecipe = {
  is: "debian",
  variant: "minbase",
  packages: [
    "systemd",
    "systemd-sysv",
    "libpam-systemd",
    "dbus",
    "dbus-user-session",
    "cron",
    "iproute2",
    "less",
    "login",
    "nano",
    "passwd",
    "procps",
    "vim-tiny",
    "ca-certificates",
  ],
  trees: ["files"],
  masks: {
    units: [
      ...machineUnits,
      // Lists and upgrades would go into memory: this root is an image with a tmpfs over it.
      "apt-daily-upgrade.timer",
      "apt-daily.timer",
      // Nobody has a password here: `control run debian bash` is the way in.
      "console-getty.service",
    ],
    generators: machineGenerators.filter(
      (name) => !["systemd-sysv-generator", "systemd-rc-local-generator"].includes(name),
    ),
  },
  commands: ["passwd --lock root"],
  setuid: [
    "/usr/bin/chage",
    "/usr/bin/chfn",
    "/usr/bin/chsh",
    "/usr/bin/expiry",
    "/usr/bin/gpasswd",
    "/usr/bin/mount",
    "/usr/bin/newgrp",
    "/usr/bin/passwd",
    "/usr/bin/su",
    "/usr/bin/umount",
    "/usr/lib/dbus-1.0/dbus-daemon-launch-helper",
    "/usr/sbin/unix_chkpwd",
  ],
  limits: { imageBytes: 160 * 2 ** 20, executables: 1200 },
};
