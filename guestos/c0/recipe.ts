/**
 * c0, the core container: a small Debian 13 from which people manage the device. It owns the network interface. In a
 * development image the user `dev` logs in on the console without a password; a production image has no console login.
 */
import { type DebianRecipe, leanPaths, maskedUnits } from "../recipe.ts";

const controlGroup = 900;

const terminalSize = `# A serial line does not tell its size: ask the terminal where its last corner is.
case "$(tty)" in
/dev/console)
  if [ -t 0 ] && [ -n "$PS1" ]; then
    saved=$(stty -g)
    stty raw -echo min 0 time 5
    printf '\\0337\\033[r\\033[999;999H\\033[6n\\0338' >/dev/tty
    IFS='[;R' read -r -d R _ rows columns _ </dev/tty
    stty "$saved"
    case "$rows$columns" in
    '' | *[!0-9]*) ;;
    *) stty rows "$rows" columns "$columns" ;;
    esac
    unset saved rows columns
  fi
  ;;
esac
`;

const message = `
This is c0, the core container of this device. The device is managed from here:

  control list            the containers and their states
  control start debian    start one
  control run debian bash a shell in it
  control --help          all commands
  poweroff                shut the device down in order

`;

export function c0(development: boolean): DebianRecipe {
  return {
    is: "debian",
    packages: [
      "systemd",
      "systemd-sysv",
      "dbus",
      "iproute2",
      "openssh-server",
      "less",
      "vim-tiny",
      "procps",
      "libstdc++6",
      "libgcc-s1",
    ],
    withoutPaths: leanPaths,
    files: [
      {
        path: "/usr/bin/control",
        content: '#!/bin/sh\nLD_LIBRARY_PATH=/usr/lib/gimbal/lib exec /usr/lib/gimbal/control "$@"\n',
        mode: 0o755,
      },
      {
        path: "/etc/systemd/network/20-uplink.network",
        content: "[Match]\nName=en* eth*\n\n[Network]\nDHCP=yes\n",
      },
      { path: "/etc/motd", content: message },
      { path: "/etc/hostname", content: "c0\n" },
      { path: "/etc/profile.d/terminal-size.sh", content: terminalSize },
      ...(development
        ? [
            {
              path: "/etc/systemd/system/console-getty.service.d/autologin.conf",
              content:
                "[Service]\nExecStart=\nExecStart=-/sbin/agetty --autologin dev --noclear --keep-baud 115200,57600,38400,9600 - ${TERM}\n",
            },
            // `poweroff` and `reboot` by dev go through control: there is no polkit here, and the device is meant.
            { path: "/usr/local/bin/poweroff", content: "#!/bin/sh\nexec control poweroff\n", mode: 0o755 },
            { path: "/usr/local/bin/reboot", content: "#!/bin/sh\nexec control reboot\n", mode: 0o755 },
          ]
        : []),
    ],
    links: maskedUnits.map((unit) => ["/dev/null", `/etc/systemd/system/${unit}`] as const),
    commands: [
      `groupadd --gid ${controlGroup} gimbal`,
      "mkdir -p /usr/lib/gimbal",
      "systemctl disable ssh.service ssh.socket || true",
      "systemctl enable systemd-networkd.service",
      "systemctl disable systemd-networkd-wait-online.service || true",
      development
        ? `useradd --create-home --shell /bin/bash --groups gimbal,systemd-journal dev && passwd --delete dev && systemctl enable console-getty.service`
        : "systemctl mask console-getty.service",
      "passwd --lock root",
    ],
  };
}
