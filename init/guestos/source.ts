/** Where a GuestOS is installed from. Nothing of a source is believed: the store verifies what it reads. */
import { constants } from "node:fs";
import { type FileHandle, open } from "node:fs/promises";
import { join } from "node:path";
import { GimbalError, quoted } from "../errors.ts";

export type SourceFile = AsyncDisposable & {
  readonly sizeBytes: number;
  /** Reads at `position`, which only ever grows; 0 at the end. */
  read(buffer: Uint8Array, position: number): Promise<number>;
};

export interface Source {
  /** @throws {GimbalError} "guestos-incomplete" where there is no such file */
  open(name: string): Promise<SourceFile>;
}

export const manifestFile = "manifest.cose";

/** A folder that PID 1 itself reads, such as one of the boot partition: links are not followed, pipes not waited for. */
export function folderSource(folder: string): Source {
  return {
    async open(name) {
      const path = join(folder, name);
      const flags = constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK;
      const handle = await open(path, flags).catch((cause: unknown) => {
        throw incomplete(folder, name, "is missing or cannot be read", cause);
      });
      const stat = await handle.stat();
      if (stat.isFile()) return fileOf(handle, stat.size);
      await handle.close();
      throw incomplete(folder, name, "is no regular file");
    },
  };
}

function fileOf(handle: FileHandle, sizeBytes: number): SourceFile {
  return {
    sizeBytes,
    read: async (buffer, position) => (await handle.read(buffer, 0, buffer.length, position)).bytesRead,
    [Symbol.asyncDispose]: () => handle.close(),
  };
}

/** A small file as a whole. @throws {GimbalError} "manifest-malformed" where it is larger than `maxBytes` */
export async function readWhole(source: Source, name: string, maxBytes: number): Promise<Uint8Array> {
  await using file = await source.open(name);
  const buffer = new Uint8Array(Math.min(file.sizeBytes, maxBytes) + 1);
  let length = 0;
  while (length < buffer.length) {
    const count = await file.read(buffer.subarray(length), length);
    if (count === 0) return buffer.slice(0, length);
    length += count;
  }
  throw new GimbalError("manifest-malformed", {
    tried: "read",
    on: quoted(name),
    why: `it has more than ${Math.min(file.sizeBytes, maxBytes)} octets`,
  });
}

function incomplete(folder: string, name: string, why: string, cause?: unknown): GimbalError {
  return new GimbalError(
    "guestos-incomplete",
    {
      tried: "read",
      on: `the GuestOS in ${quoted(folder)}`,
      why: `${quoted(name)} ${why}`,
      todo: "get it again",
    },
    cause,
  );
}
