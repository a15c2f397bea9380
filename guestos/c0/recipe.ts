/**
 * c0, the core container: a small Debian 13 from which people manage the device. It owns the network interface. In a development
 * image the user `dev` logs in on the console without a password; a production image has no console login.
 */
import { type DebianRecipe, machineGenerators, machineUnits } from "../recipe.ts";

/** PID 1 gives the control socket to this group (init/boot). */
const controlGroup = 900;

export function c0(development: boolean): DebianRecipe {
  return {
    is: "debian",
    variant: "essential",
    packages: [
      "systemd",
      "systemd-sysv",
      "dbus",
      "iproute2",
      "openssh-server",
      "less",
      "passwd",
      "procps",
      "vim-tiny",
    ],
    trees: development ? ["files", "files.development"] : ["files"],
    masks: {
      units: [
        ...machineUnits,
        "console-getty.service",
        "dpkg-db-backup.timer",
        "run-lock.mount",
        "systemd-ask-password-console.path",
        "systemd-ask-password-wall.path",
        "systemd-hostnamed.socket",
        "systemd-initctl.socket",
        // The journal is in memory.
        "systemd-journal-flush.service",
        // Sessions are nobody's matter here: there is one user, and no pam_systemd.
        "systemd-logind.service",
        "systemd-networkd-persistent-storage.service",
        "systemd-networkd-wait-online.service",
        "systemd-sysctl.service",
        "systemd-sysext.socket",
        // It would keep people out until the network is there.
        "systemd-user-sessions.service",
        // All of the root is a tmpfs.
        "tmp.mount",
      ],
      generators: machineGenerators,
    },
    commands: [
      `groupadd --system --gid ${controlGroup} gimbal`,
      "mkdir -p /usr/lib/gimbal",
      "rm /etc/update-motd.d/10-uname",
      // No /run/nologin: nobody would take it away, see systemd-user-sessions.
      "ln -s /dev/null /etc/tmpfiles.d/systemd-nologin.conf",
      "systemctl set-default multi-user.target",
      "systemctl disable ssh.service ssh.socket",
      "systemctl enable systemd-networkd.service",
      "systemctl add-wants multi-user.target name-servers.path",
      ...(development
        ? [
            // Locked: no password opens it. The console logs in without asking, ssh takes keys.
            "useradd --create-home --shell /bin/bash --uid 1000 --groups gimbal,systemd-journal dev",
            "systemctl enable console-shell.service",
          ]
        : []),
      "passwd --lock root",
    ],
    setuid: [],
    limits: { imageBytes: 120 * 2 ** 20, executables: 800 },
  };
}
