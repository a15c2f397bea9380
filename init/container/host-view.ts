/**
 * What a guest sees of the machine at /run/host: a read-only mount of a small folder in PID 1's /run, with the notify
 * socket, the name server, and who runs it (systemd's container interface).
 */
import { closeSync } from "node:fs";
import { mkdir, rm, writeFile } from "node:fs/promises";
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

export type HostView = AsyncDisposable & { readonly notify: NotifySocket; readonly mount: number };

export async function makeHostView(
  kernel: Kernel,
  runPath: string,
  guest: { readonly uuid: string; readonly idBase: number; readonly dnsServer: string | undefined },
): Promise<HostView> {
  await using undo = new AsyncDisposableStack();
  const own = join(runPath, guest.uuid);
  await rm(own, { recursive: true, force: true }); // of a life that was cut
  undo.defer(() => rm(own, { recursive: true, force: true }));
  const folder = join(own, "host");
  await mkdir(folder, { recursive: true, mode: 0o755 });
  await writeFile(join(folder, "container-manager"), "gimbal\n", { mode: 0o444 });
  await writeFile(join(folder, "container-uuid"), `${guest.uuid}\n`, { mode: 0o444 });
  if (guest.dnsServer !== undefined) {
    await writeFile(join(folder, "resolv.conf"), `nameserver ${guest.dnsServer}\n`, { mode: 0o444 });
  }
  const notify = undo.use(bindNotifySocket(kernel, join(folder, "notify"), guest.idBase));
  const mount = hostMount(kernel, folder);
  undo.defer(() => closeSync(mount));
  const owned = undo.move();
  return { notify, mount, [Symbol.asyncDispose]: () => owned.disposeAsync() };
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
