/**
 * What a guest sees of the machine at /run/host: a read-only mount of a small folder in PID 1's /run, with the notify
 * socket, the name server, and who runs it (systemd's container interface).
 */
import { closeSync, existsSync, mkdirSync, readdirSync, rmdirSync, unlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { Kernel } from "../kernel.ts";
import {
  AT_EMPTY_PATH,
  AT_FDCWD,
  MOUNT_ATTR_NODEV,
  MOUNT_ATTR_NOEXEC,
  MOUNT_ATTR_NOSUID,
  MOUNT_ATTR_RDONLY,
  OPEN_TREE_CLONE,
} from "../linux.ts";
import { bindNotifySocket, type NotifySocket } from "./notify.ts";

const quietReadOnly = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC;

export type HostView = Disposable & { readonly notify: NotifySocket; readonly mount: number };

/** The folder lies in a tmpfs: each step is some microseconds. */
export function makeHostView(
  kernel: Kernel,
  runPath: string,
  guest: { readonly uuid: string; readonly idBase: number; readonly dnsServer: string | undefined },
): HostView {
  using undo = new DisposableStack();
  const folder = join(runPath, guest.uuid);
  const remove = () => {
    for (const name of readdirSync(folder)) unlinkSync(join(folder, name));
    rmdirSync(folder);
  };
  if (existsSync(folder)) remove(); // of a life that was cut
  mkdirSync(folder, { mode: 0o755 }); // not recursive: node:fs repeats that for ever where a parent cannot be made
  undo.defer(remove);
  writeFileSync(join(folder, "container-manager"), "gimbal\n", { mode: 0o444 });
  writeFileSync(join(folder, "container-uuid"), `${guest.uuid}\n`, { mode: 0o444 });
  if (guest.dnsServer !== undefined) {
    writeFileSync(join(folder, "resolv.conf"), `nameserver ${guest.dnsServer}\n`, { mode: 0o444 });
  }
  const notify = undo.use(bindNotifySocket(kernel, join(folder, "notify"), guest.idBase));
  const mount = hostMount(kernel, folder);
  undo.defer(() => closeSync(mount));
  const owned = undo.move();
  return { notify, mount, [Symbol.dispose]: () => owned.dispose() };
}

/** A read-only detached mount of a file or folder of the root namespace; the caller owns it. */
export function hostMount(kernel: Kernel, path: string, executable = false): number {
  const mount = kernel.openTree(AT_FDCWD, path, OPEN_TREE_CLONE);
  try {
    const attributes = executable ? quietReadOnly & ~MOUNT_ATTR_NOEXEC : quietReadOnly;
    kernel.mountSetattr(mount, "", AT_EMPTY_PATH, {
      set: attributes,
      ...(executable ? { clear: MOUNT_ATTR_NOEXEC } : {}),
    });
    return mount;
  } catch (error) {
    closeSync(mount);
    throw error;
  }
}
