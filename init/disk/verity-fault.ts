/** What the kernel says when a block does not verify (drivers/md/dm-verity-target.c, verity_handle_err). */

export type VerityFault = {
  /** "7:3": the device with the image, below dm-verity. */
  readonly device: string;
  /** A block of the data, or of the hash tree. */
  readonly kind: "data" | "metadata";
  readonly block: number;
};

export function parseVerityFault(text: string): VerityFault | undefined {
  const match = /^device-mapper: verity: (\d+:\d+): (data|metadata) block (\d+) is corrupted$/.exec(text);
  const [device, kind, block] = match?.slice(1) ?? [];
  if (device === undefined || (kind !== "data" && kind !== "metadata")) return undefined;
  return { device, kind, block: Number(block) };
}
