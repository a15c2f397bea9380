/**
 * The mark of an initialisation that has begun: 4,096 octets at the end of the partition, written before the first octet of a
 * LUKS header and taken away once a header labelled `unfinishedLabel` says the same. Between the two cryptsetup has
 * filled the key slots' area with random octets and written no header yet: without the mark that would look foreign.
 */
import { constants } from "node:fs";
import { open } from "node:fs/promises";

export const markerBytes = 4096;

const marker = (() => {
  const octets = new Uint8Array(markerBytes);
  octets.set(new TextEncoder().encode("gimbal: initialisation of the data volume has begun, version 1\n"));
  return octets;
})();

/** True where the last octets of a device are the mark. */
export const endsWithMarker = (last: Uint8Array): boolean =>
  last.length >= markerBytes && Buffer.compare(last.subarray(-markerBytes), marker) === 0;

/** Writes the mark, or takes it away; on the disk when this resolves. */
export async function setMarker(path: string, sizeBytes: bigint, on: boolean): Promise<void> {
  const handle = await open(path, constants.O_WRONLY);
  try {
    const position = Number(sizeBytes) - markerBytes;
    await handle.write(on ? marker : new Uint8Array(markerBytes), 0, markerBytes, position);
    await handle.sync();
  } finally {
    await handle.close();
  }
}
