/** Looks at a root before it becomes an image: what would only fail at the start on a device is told now. */
import type { Root } from "../../guestos/check.ts";
import { mountPoints } from "../../guestos/recipe.ts";
import { type GuestosSource, mountPointsOf } from "../../guestos/source.ts";
import { GimbalError } from "../../init/errors.ts";

const idCount = 65_536;
const maxShown = 8;

/**
 * @returns what is odd but allowed, a sentence each
 * @throws {GimbalError} "build-failed"
 */
export function inspectRoot(root: Root, source: GuestosSource): string[] {
  const types = new Map(root.entries.map(({ path, type }) => [path, type]));
  const faults = [
    ...[...mountPoints.map((name) => `/${name}`), ...mountPointsOf(source)]
      .filter((path) => types.get(path) !== "d")
      .map((path) => `${path} is no directory in it, and something is mounted there`),
    ...root.entries
      .filter(({ type }) => type === "b" || type === "c")
      .map(({ path }) => `${path} is a device`),
    ...root.entries
      .filter(({ uid, gid }) => uid >= idCount || gid >= idCount)
      .map(({ path, uid, gid }) => `${path} belongs to ${uid}:${gid}, which no container has`),
    ...initFaults(types, root, source["init_path"]),
  ];
  if (faults.length === 0) return oddities(root, source);
  const rest = faults.length > maxShown ? `; and ${faults.length - maxShown} more` : "";
  throw new GimbalError("build-failed", {
    tried: "use",
    on: `the root file system of ${source.name}`,
    why: faults.slice(0, maxShown).join("; ") + rest,
  });
}

function initFaults(types: ReadonlyMap<string, string>, root: Root, path: unknown): string[] {
  if (typeof path !== "string") return []; // the manifest's own check names it
  if (isBehindLink(types, path)) return [];
  const entry = root.entries.find((each) => each.path === path);
  if (!entry) return [`init_path ${path} is not in it`];
  if (entry.type === "l") return [];
  const isProgram = entry.type === "f" && (entry.mode & 0o111) !== 0;
  return isProgram ? [] : [`init_path ${path} is no program`];
}

/** Where a link leads is not followed here; the device does, within the root. */
function isBehindLink(types: ReadonlyMap<string, string>, path: string): boolean {
  const parts = path.split("/");
  return parts.some((_, index) => types.get(parts.slice(0, index).join("/")) === "l");
}

function oddities(root: Root, source: GuestosSource): string[] {
  if (source["setuid"] === true || source["profile"] !== "service") return [];
  const raised = root.entries.filter(({ type, mode }) => type === "f" && (mode & 0o6000) !== 0);
  const paths = [...raised.map(({ path }) => path), ...root.capable];
  if (paths.length === 0) return [];
  const shown = paths.slice(0, maxShown).join(" ");
  return [`without "setuid: true" these programs have no more rights than their caller: ${shown}`];
}
