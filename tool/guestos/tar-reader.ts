/**
 * Reads the entries of a tar archive: ustar (POSIX.1-1988), pax (POSIX.1-2001) and GNU long names and sparse files, as it streams by.
 * Contents are passed over. Left out: multi-volume archives, old formats without a magic.
 */
import { createReadStream } from "node:fs";
import { open } from "node:fs/promises";
import type { Readable } from "node:stream";
import { createGunzip, createZstdDecompress } from "node:zlib";

export type TarEntry = {
  /** As it stands in the archive. */
  readonly path: string;
  readonly type: "file" | "hard-link" | "symlink" | "directory" | "character" | "block" | "fifo";
  readonly link: string;
  readonly uid: number;
  readonly gid: number;
  /** Names of extended attributes and, as "acl", access lists. */
  readonly attributes: readonly string[];
};

/** What is wrong with the archive as such. */
export class TarError extends Error {}

const blockBytes = 512;
const maxExtensionBytes = 1 << 20;
const types: Record<string, TarEntry["type"]> = {
  "0": "file",
  "\0": "file",
  "7": "file",
  S: "file",
  "1": "hard-link",
  "2": "symlink",
  "3": "character",
  "4": "block",
  "5": "directory",
  "6": "fifo",
};

/** Opens a tar file, also one packed with gzip or zstd. */
export async function tarStream(path: string): Promise<Readable> {
  const magic = Buffer.alloc(6);
  {
    await using file = await open(path, "r");
    await file.read(magic, 0, magic.length, 0);
  }
  const stream = createReadStream(path, { highWaterMark: 1 << 20 });
  const unpacked = (through: NodeJS.ReadWriteStream) => {
    stream.on("error", (error) => (through as unknown as Readable).destroy(error));
    return stream.pipe(through) as unknown as Readable;
  };
  if (magic.readUInt16BE(0) === 0x1f8b) return unpacked(createGunzip());
  if (magic.readUInt32LE(0) === 0xfd2fb528) return unpacked(createZstdDecompress());
  if (magic.subarray(1, 6).toString("latin1") === "7zXZ\0" || magic.subarray(0, 3).toString() === "BZh") {
    stream.destroy();
    throw new TarError("it is packed with xz or bzip2: unpack it first");
  }
  return stream;
}

/** The entries in their order. @throws {TarError} */
export async function* tarEntries(stream: AsyncIterable<Uint8Array>): AsyncGenerator<TarEntry> {
  const input = new Blocks(stream);
  let pax = new Map<string, string>();
  const globals = new Map<string, string>();
  let longName: string | undefined;
  let longLink: string | undefined;
  for (;;) {
    const header = await input.take(blockBytes);
    if (!header) throw new TarError("it ends too early");
    if (header.every((octet) => octet === 0)) break;
    checkSum(header);
    const type = String.fromCharCode(header[156] ?? 0);
    const fields = headerFields(header);
    const size = sizeOf(pax.get("size") ?? globals.get("size"), fields.size);
    if ("xgLK".includes(type)) {
      const content = await input.content(size);
      if (type === "x") pax = paxRecords(content);
      if (type === "g") for (const [key, value] of paxRecords(content)) globals.set(key, value);
      if (type === "L") longName = textUntilNul(content);
      if (type === "K") longLink = textUntilNul(content);
      continue;
    }
    const kind = types[type];
    if (!kind) throw new TarError(`an entry has the unknown type ${JSON.stringify(type)}`);
    if (type === "S") await sparseHeaders(input, header);
    // Readers differ in whether content follows; one that is misread would hide entries.
    if (kind === "hard-link" && size > 0) throw new TarError("a hard link has content of its own");
    const value = (key: string) => pax.get(key) ?? globals.get(key);
    const path = value("GNU.sparse.name") ?? value("path") ?? longName ?? fields.path;
    yield {
      path,
      type: kind === "file" && path.endsWith("/") ? "directory" : kind,
      link: value("linkpath") ?? longLink ?? fields.link,
      uid: numberOf(value("uid"), fields.uid),
      gid: numberOf(value("gid"), fields.gid),
      attributes: attributesOf([...globals.keys(), ...pax.keys()]),
    };
    await input.skip(kind === "file" ? size : 0);
    pax = new Map();
    longName = undefined;
    longLink = undefined;
  }
}

function headerFields(header: Buffer) {
  const text = (from: number, length: number) => textUntilNul(header.subarray(from, from + length));
  const isUstar = text(257, 5) === "ustar";
  const isGnu = header.subarray(257, 265).toString("latin1") === "ustar  \0";
  if (!isUstar) throw new TarError("an entry has no ustar header");
  const prefix = isGnu ? "" : text(345, 155);
  return {
    path: prefix === "" ? text(0, 100) : `${prefix}/${text(0, 100)}`,
    link: text(157, 100),
    uid: binaryOrOctal(header.subarray(108, 116)),
    gid: binaryOrOctal(header.subarray(116, 124)),
    size: binaryOrOctal(header.subarray(124, 136)),
  };
}

/** Octal digits, or where the first bit is set a big-endian number. */
function binaryOrOctal(field: Buffer): number {
  if (((field[0] ?? 0) & 0x80) === 0) {
    const digits = textUntilNul(field).trim();
    if (!/^[0-7]*$/.test(digits)) throw new TarError("an entry has a number that is none");
    return digits === "" ? 0 : Number.parseInt(digits, 8);
  }
  let value = (field[0] ?? 0) & 0x7f;
  for (const octet of field.subarray(1)) value = value * 256 + octet;
  if (!Number.isSafeInteger(value)) throw new TarError("an entry has a number that is too large");
  return value;
}

/** Sum of the header's octets, its own field taken as spaces. */
function checkSum(header: Buffer): void {
  const field = header.subarray(148, 156);
  let sum = 8 * 0x20;
  for (const [at, octet] of header.entries()) if (at < 148 || at >= 156) sum += octet;
  if (binaryOrOctal(field) !== sum) throw new TarError("an entry's header is damaged");
}

/** "<length> <key>=<value>\n", where length counts itself. */
function paxRecords(content: Buffer): Map<string, string> {
  const found = new Map<string, string>();
  for (let at = 0; at < content.length; ) {
    const space = content.indexOf(0x20, at);
    const length = Number(content.subarray(at, space).toString("latin1"));
    const record = content.subarray(space + 1, at + length - 1);
    const equals = record.indexOf(0x3d);
    const isWhole = Number.isSafeInteger(length) && length > 0 && content[at + length - 1] === 0x0a;
    if (space < 0 || !isWhole || equals < 0) throw new TarError("an entry's extended header is damaged");
    found.set(record.subarray(0, equals).toString("utf8"), record.subarray(equals + 1).toString("utf8"));
    at += length;
  }
  return found;
}

/** Old GNU sparse files have their map in blocks behind the header. */
async function sparseHeaders(input: Blocks, header: Buffer): Promise<void> {
  let isExtended = header[482] === 1;
  while (isExtended) {
    const more = await input.take(blockBytes);
    if (!more) throw new TarError("it ends too early");
    isExtended = more[504] === 1;
  }
}

function attributesOf(keys: readonly string[]): string[] {
  const names = keys.flatMap((key) => {
    if (key.startsWith("SCHILY.xattr.")) return [key.slice("SCHILY.xattr.".length)];
    return key.startsWith("SCHILY.acl.") ? ["acl"] : [];
  });
  return [...new Set(names)];
}

const sizeOf = (text: string | undefined, otherwise: number): number => numberOf(text, otherwise);

function numberOf(text: string | undefined, otherwise: number): number {
  if (text === undefined) return otherwise;
  const value = Number(text);
  if (!/^\d+$/.test(text) || !Number.isSafeInteger(value))
    throw new TarError("an entry has a number that is none");
  return value;
}

function textUntilNul(octets: Buffer): string {
  const end = octets.indexOf(0);
  return octets.subarray(0, end < 0 ? octets.length : end).toString("utf8");
}

/** A stream, taken in pieces of a wanted length. */
class Blocks {
  readonly #chunks: AsyncIterator<Uint8Array>;
  #rest: Buffer = Buffer.alloc(0);

  constructor(stream: AsyncIterable<Uint8Array>) {
    this.#chunks = stream[Symbol.asyncIterator]();
  }

  /** Exactly `length` octets, or undefined at the end. */
  async take(length: number): Promise<Buffer | undefined> {
    while (this.#rest.length < length) {
      const next = await this.#next();
      if (!next) return undefined;
      this.#rest = Buffer.concat([this.#rest, next]);
    }
    const taken = this.#rest.subarray(0, length);
    this.#rest = this.#rest.subarray(length);
    return taken;
  }

  /** The content of an extension, without its padding. */
  async content(size: number): Promise<Buffer> {
    if (size > maxExtensionBytes) throw new TarError("an entry has an extended header of more than 1 MiB");
    const content = await this.take(padded(size));
    if (!content) throw new TarError("it ends too early");
    return content.subarray(0, size);
  }

  async skip(size: number): Promise<void> {
    let left = padded(size);
    while (left > this.#rest.length) {
      left -= this.#rest.length;
      this.#rest = Buffer.alloc(0);
      const next = await this.#next();
      if (!next) throw new TarError("it ends too early");
      this.#rest = next;
    }
    this.#rest = this.#rest.subarray(left);
  }

  async #next(): Promise<Buffer | undefined> {
    try {
      const { value, done } = await this.#chunks.next();
      return done ? undefined : Buffer.from(value.buffer, value.byteOffset, value.length);
    } catch (error) {
      throw new TarError(error instanceof Error ? error.message : "it cannot be read", { cause: error });
    }
  }
}

const padded = (size: number): number => Math.ceil(size / blockBytes) * blockBytes;
