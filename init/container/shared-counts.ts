/**
 * What a guest makes in its user namespace counts, in the kernel's books, against the root of this machine as well
 * (user_namespaces(7), "user" in /proc/sys): a guest that makes namespaces or watches without end would leave none for
 * the next start of another. These counts are raised out of the way; what really bounds a guest is the memory limit of its cgroup,
 * to which each of these objects is charged.
 */
import { existsSync, readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";

const shared = /^max_(\w+_namespaces|inotify_(instances|watches)|fanotify_(groups|marks))$/;
const enough = 2 ** 31 - 1;

/** Once at boot, by the root of the first user namespace. Returns what was raised. */
export function raiseSharedCounts(folder = "/proc/sys/user"): readonly string[] {
  if (!existsSync(folder)) return []; // a kernel without user namespaces starts no guest anyhow
  const names = readdirSync(folder).filter((name) => shared.test(name));
  for (const name of names) writeFileSync(join(folder, name), String(enough));
  return names;
}
