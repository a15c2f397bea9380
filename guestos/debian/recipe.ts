/** A full Debian 13 with systemd as its init: the kind of guest most users bring. */
import { type DebianRecipe, leanPaths, maskedUnits } from "../recipe.ts";

export const debian: DebianRecipe = {
  is: "debian",
  packages: [
    "systemd",
    "systemd-sysv",
    "dbus",
    "cron",
    "iproute2",
    "procps",
    "less",
    "vim-tiny",
    "apt",
    "ca-certificates",
  ],
  withoutPaths: leanPaths,
  files: [{ path: "/etc/hostname", content: "debian\n" }],
  links: maskedUnits.map((unit) => ["/dev/null", `/etc/systemd/system/${unit}`] as const),
  commands: ["mkdir -p /srv", "systemctl enable console-getty.service", "passwd --lock root"],
};
