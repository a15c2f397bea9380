/**
 * What an image must not hold, looked at after it was unpacked for the last time: setuid programs that nobody listed, device nodes,
 * passwords, identities that each device makes for itself, names of the machine that built it.
 */
import { GimbalError } from "../init/errors.ts";
import { mountPoints, type Recipe } from "./recipe.ts";

/** One file of a root; `path` begins with "/". */
export type Entry = {
  readonly path: string;
  /** As find(1) has it: f, d, l, b, c, p, s. */
  readonly type: string;
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  readonly sizeBytes: number;
};

export type Root = {
  readonly entries: readonly Entry[];
  /** Files with capabilities. */
  readonly capable: readonly string[];
  /** Undefined where there is no such file. */
  readonly read: (path: string) => Promise<string | undefined>;
};

/** Arguments of find(1) that print what `parseListing` reads. */
export const listingFormat = "%y %m %U %G %s /%P\\0";

export function parseListing(text: string): Entry[] {
  const lines = text.split("\0").filter((line) => line !== "");
  return lines.map((line) => {
    const match = /^(.) ([0-7]+) (\d+) (\d+) (\d+) (\/.*)$/s.exec(line);
    if (!match) throw new Error(`find printed ${JSON.stringify(line)}`);
    const [type, mode, uid, gid, size, path] = match.slice(1) as [
      string,
      string,
      string,
      string,
      string,
      string,
    ];
    return {
      path,
      type,
      mode: Number.parseInt(mode, 8),
      uid: Number(uid),
      gid: Number(gid),
      sizeBytes: Number(size),
    };
  });
}

export type Expectation = {
  readonly name: string;
  readonly recipe: Recipe;
  /** Of the manifest, besides those that every start needs. */
  readonly mountPoints: readonly string[];
  /** Host names that must stand nowhere in it. */
  readonly hostNames: readonly string[];
};

/** @throws GimbalError "build-failed" that lists everything found */
export async function checkRoot(root: Root, expected: Expectation): Promise<void> {
  const complaints = [
    ...checkTypes(root, expected.recipe),
    ...checkDirectories(root, expected.mountPoints),
    ...checkIdentities(root),
    ...(await checkPasswords(root)),
    ...(await checkNames(root, expected.hostNames)),
  ];
  if (complaints.length === 0) return;
  throw new GimbalError("build-failed", {
    tried: "use",
    on: `the root file system of ${expected.name}`,
    why: complaints.slice(0, 20).join("; "),
    todo: `mend guestos/${expected.name}/recipe.ts`,
  });
}

/** Regular files that can be executed. */
export const executablesOf = ({ entries }: Root): string[] =>
  entries.filter(({ type, mode }) => type === "f" && (mode & 0o111) !== 0).map(({ path }) => path);

function* checkTypes(root: Root, recipe: Recipe): Generator<string> {
  if (root.entries.length === 0) yield "it is empty";
  for (const file of root.capable) yield `${file} has file capabilities`;
  const allowed = new Set(recipe.is === "debian" ? recipe.setuid : []);
  for (const { path, type, mode } of root.entries) {
    if (!"fdl".includes(type)) yield `${path} is a node of type ${type}`;
    if (type === "f" && (mode & 0o6000) !== 0 && !allowed.delete(path)) yield `${path} is setuid or setgid`;
    if (type === "f" && (mode & 0o002) !== 0) yield `everybody may write ${path}`;
    if (type === "d" && (mode & 0o1002) === 0o002) yield `everybody may write in ${path}`;
  }
  for (const path of allowed) yield `${path}, which may be setuid, is not or is absent`;
  const count = executablesOf(root).length;
  const limit = recipe.limits.executables;
  if (count === 0 || count > limit) yield `it has ${count} executables, 1 to ${limit} are expected`;
}

function* checkDirectories(root: Root, wanted: readonly string[]): Generator<string> {
  const directories = new Set(root.entries.filter(({ type }) => type === "d").map(({ path }) => path));
  for (const path of [...mountPoints.map((name) => `/${name}`), ...wanted]) {
    if (!directories.has(path)) yield `the mount point ${path} is missing`;
  }
}

const leftovers: readonly RegExp[] = [
  /^\/etc\/ssh\/ssh_host_/,
  /^\/var\/lib\/apt\/lists\/./,
  /^\/var\/cache\/apt\/.*\.(bin|deb)$/,
  /^\/var\/lib\/systemd\/random-seed$/,
  /^\/var\/lib\/dbus\/machine-id$/,
  /^\/(tmp|run|dev)\/./,
  /^\/root\/\.(bash_history|ssh)/,
];

function* checkIdentities({ entries }: Root): Generator<string> {
  for (const { path, type, sizeBytes } of entries) {
    if (path === "/etc/machine-id" && sizeBytes > 0) yield `${path} is not empty`;
    if (type === "f" && path.startsWith("/var/log/")) yield `${path} is a log`;
    if (type !== "d" && sizeBytes > 0 && leftovers.some((pattern) => pattern.test(path)))
      yield `${path} is left over`;
  }
}

/** A locked account's field begins with ! or *. */
async function checkPasswords({ read }: Root): Promise<string[]> {
  const lines = ((await read("/etc/shadow")) ?? "").split("\n").filter((line) => line !== "");
  return lines
    .map((line) => line.split(":"))
    .filter(([, password]) => !/^[!*]/.test(password ?? ""))
    .map(([name]) => `the account ${name} is not locked`);
}

async function checkNames({ entries, read }: Root, hostNames: readonly string[]): Promise<string[]> {
  const places = entries.filter(
    ({ type, path, sizeBytes }) =>
      type === "f" && sizeBytes < 1 << 20 && /^\/(etc|root|home|var\/lib\/(apt|dpkg\/status$))/.test(path),
  );
  const found: string[] = [];
  for (const { path } of places) {
    const text = (await read(path)) ?? "";
    for (const name of hostNames) if (text.includes(name)) found.push(`${path} names ${name}`);
  }
  return found;
}
