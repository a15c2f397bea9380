/**
 * LUKS2 through the cryptsetup program. Keys go through its standard input only. pbkdf2 at the smallest cost: the keys are 256
 * random bits, and argon2id would cost seconds and buy nothing (facts of the x86 boot, section 5).
 */
import { join } from "node:path";
import { GimbalError } from "../errors.ts";
import { lastWords, type RunTool, type ToolResult } from "../machine/process.ts";
import { cipher } from "./luks-check.ts";

export type Luks = {
  /** Makes a new volume; all that was on `path` is lost. `key` opens slot 0. */
  format(path: string, key: Uint8Array, names: LuksNames): Promise<void>;
  /** Adds `added` as slot `slot`; `existing` proves the right to. */
  addKey(path: string, existing: Uint8Array, added: Uint8Array, slot: number): Promise<void>;
  /** Destroys slot `slot`; `remaining` must open another one. */
  removeSlot(path: string, slot: number, remaining: Uint8Array): Promise<void>;
  setNames(path: string, names: LuksNames): Promise<void>;
  importToken(path: string, tokenId: number, token: object): Promise<void>;
  /** The token's JSON. */
  exportToken(path: string, tokenId: number): Promise<unknown>;
  removeToken(path: string, tokenId: number): Promise<void>;
  /** The slot that `key` opens. Throws "luks-key-refused" where there is none. */
  slotOfKey(path: string, key: Uint8Array, header?: string): Promise<number>;
  /** Opens as /dev/mapper/<name>. `header` names a file with the header to believe instead of the disk's own. */
  open(path: string, name: string, key: Uint8Array, header?: string): Promise<void>;
  close(name: string): Promise<void>;
  /** "/dev/mapper/<name>" */
  pathOf(name: string): string;
  /** Writes the second header over a damaged first one, or the other way round. */
  repair(path: string): Promise<void>;
};

export type LuksNames = { readonly label: string; readonly subsystem: string };

/** Iterations of the smallest pbkdf2 that the format allows. */
const minimalKdf = ["--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", "--hash", "sha256"];
const timeoutMs = 120_000;
/** cryptsetup's own exit status for "no key slot opens with this key". */
const wrongKey = 2;

/** The operations over the program at `program`. Each throws "tool-failed" where cryptsetup gives up. */
export function luks(runTool: RunTool, program = "/usr/sbin/cryptsetup", mapper = "/dev/mapper"): Luks {
  const pathOf = (name: string) => join(mapper, name);
  const run = async (tried: string, on: string, args: readonly string[], stdin?: Uint8Array) => {
    const result = await runTool(program, ["-q", ...args], { timeoutMs, ...(stdin ? { stdin } : {}) });
    if (result.status === 0) return result;
    throw result.status === wrongKey ? keyRefused(on) : toolFailed(tried, on, result);
  };
  const unlocking = (header?: string) => [
    "open",
    "--type",
    "luks2",
    "--key-file=-",
    "--disable-external-tokens",
    ...(header === undefined ? [] : ["--header", header]),
  ];
  return {
    async format(path, key, { label, subsystem }) {
      const shape = ["--type", "luks2", "--cipher", cipher, "--key-size", "512", "--key-slot", "0"];
      // Small areas: 8 slots, and a header that is quickly read whole and kept in memory while it is used.
      const areas = ["--luks2-metadata-size", "16k", "--luks2-keyslots-size", "2m"];
      const names = ["--label", label, "--subsystem", subsystem];
      const args = ["luksFormat", ...shape, ...areas, ...minimalKdf, ...names, "--key-file=-", path];
      await run("encrypt", path, args, key);
    },
    async addKey(path, existing, added, slot) {
      const both = new Uint8Array(existing.length + added.length);
      both.set(existing);
      both.set(added, existing.length);
      const from = [
        "--key-file=-",
        `--keyfile-size=${existing.length}`,
        `--new-keyfile-size=${added.length}`,
      ];
      const args = ["luksAddKey", ...from, "--key-slot", String(slot), ...minimalKdf, path, "-"];
      try {
        await run("add a key to", path, args, both);
      } finally {
        both.fill(0);
      }
    },
    async removeSlot(path, slot, remaining) {
      await run(
        "remove a key slot of",
        path,
        ["luksKillSlot", "--key-file=-", path, String(slot)],
        remaining,
      );
    },
    async setNames(path, { label, subsystem }) {
      await run("label", path, ["config", "--label", label, "--subsystem", subsystem, path]);
    },
    async importToken(path, tokenId, token) {
      const args = ["token", "import", "--token-id", String(tokenId), "--json-file=-", path];
      await run("write a token to", path, args, new TextEncoder().encode(JSON.stringify(token)));
    },
    async exportToken(path, tokenId) {
      const { stdout } = await run("read a token of", path, [
        "token",
        "export",
        "--token-id",
        String(tokenId),
        path,
      ]);
      return JSON.parse(new TextDecoder().decode(stdout)) as unknown;
    },
    async removeToken(path, tokenId) {
      await run("remove a token of", path, ["token", "remove", "--token-id", String(tokenId), path]);
    },
    async slotOfKey(path, key, header) {
      const args = [...unlocking(header), "--test-passphrase", "-v", path];
      const result = await run("try a key on", path, args, key);
      const slot = /Key slot ([0-9]{1,2}) unlocked/.exec(new TextDecoder().decode(result.stdout))?.[1];
      if (slot === undefined) throw toolFailed("try a key on", path, result);
      return Number(slot);
    },
    async open(path, name, key, header) {
      await run("open", path, [...unlocking(header), path, name], key);
    },
    async close(name) {
      await run("close", pathOf(name), ["close", name]);
    },
    pathOf,
    async repair(path) {
      await run("repair the header of", path, ["repair", path]);
    },
  };
}

const keyRefused = (path: string) =>
  new GimbalError("luks-key-refused", {
    tried: "open",
    on: path,
    why: "no key slot opens with this key",
    todo: "enter the recovery key of this very disk",
  });

const toolFailed = (tried: string, on: string, { status, stderr }: ToolResult) =>
  new GimbalError("tool-failed", { tried, on, why: `cryptsetup ended with ${status}${lastWords(stderr)}` });
