/** Finds the partition with a GPT label among the block devices of sysfs. */
import { closeSync, openSync, readdirSync, readFileSync, readSync, realpathSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { GimbalError, quoted } from "../errors.ts";
import { parseGpt } from "./gpt.ts";

export type Partition = {
  /** "/dev/vda2" */
  readonly path: string;
  /** "vda2" */
  readonly name: string;
  /** "vda" */
  readonly disk: string;
  readonly label: string;
  readonly sizeBytes: bigint;
  /** What the disk says of itself; text from outside. */
  readonly diskSerial?: string;
  /** Unique partition id in the GPT. */
  readonly partuuid?: string;
};

export type FindOptions = {
  /** How long to wait for the first partition of that label: disks on USB or SCSI come late. */
  readonly waitMs?: number;
  /** How long to look on for a second one after that. */
  readonly settleMs?: number;
  /** Every so often. */
  readonly pollMs?: number;
  readonly sysfs?: string;
  readonly dev?: string;
};

/**
 * The one partition with this GPT label. Throws "disk-absent" after `waitMs`, "disk-duplicate" where two have the label:
 * a copy must never be taken for the real one, so both are named and neither is used.
 */
export async function findPartition(label: string, options: FindOptions = {}): Promise<Partition> {
  const { waitMs = 0, settleMs = 0, pollMs = 100 } = options;
  const deadline = performance.now() + waitMs;
  let found = listPartitions(options).filter((partition) => partition.label === label);
  while (found.length === 0 && performance.now() < deadline) {
    await sleep(pollMs);
    found = listPartitions(options).filter((partition) => partition.label === label);
  }
  if (found.length > 0 && settleMs > 0) {
    await sleep(settleMs);
    found = listPartitions(options).filter((partition) => partition.label === label);
  }
  return theOnly(label, found, waitMs, options);
}

/** Every partition that has a GPT label, as the kernel lists them now. */
export function listPartitions(options: FindOptions = {}): readonly Partition[] {
  const { sysfs = "/sys", dev = "/dev" } = options;
  const folder = join(sysfs, "class/block");
  return readdirSync(folder)
    .sort()
    .flatMap((name) => {
      const facts = factsOf(join(folder, name, "uevent"));
      const label = facts.get("PARTNAME");
      if (facts.get("DEVTYPE") !== "partition" || label === undefined) return [];
      const real = realpathSync(join(folder, name)); // .../block/vda/vda2
      const sectors = textOf(join(real, "size"));
      if (sectors === undefined || !/^[0-9]{1,18}$/.test(sectors)) return []; // it went away meanwhile
      const diskFolder = dirname(real);
      const disk = basename(diskFolder);
      const serial = serialOf(diskFolder);
      const partuuid = partuuidOf(join(dev, disk), Number(facts.get("PARTN")), diskFolder);
      return [
        {
          path: join(dev, facts.get("DEVNAME") ?? name),
          name,
          disk,
          label,
          sizeBytes: BigInt(sectors) * 512n,
          ...(serial === undefined ? {} : { diskSerial: serial }),
          ...(partuuid === undefined ? {} : { partuuid }),
        },
      ];
    });
}

function theOnly(
  label: string,
  found: readonly Partition[],
  waitedMs: number,
  options: FindOptions,
): Partition {
  const [first, second] = found;
  const on = `the partition ${quoted(label)}`;
  if (first === undefined) {
    const others = listPartitions(options).map(({ path, label }) => `${path} ${quoted(label)}`);
    throw new GimbalError("disk-absent", {
      tried: "find",
      on,
      why: `no disk has it${waitedMs > 0 ? ` after ${waitedMs} ms` : ""}; seen: ${others.slice(0, 8).join(", ") || "no partitions"}`,
      todo: "check that the disk is connected and was flashed for this device",
    });
  }
  if (second !== undefined)
    throw new GimbalError("disk-duplicate", {
      tried: "choose",
      on,
      why: `more than one has this name: ${found.map(described).join(" and ")}`,
      todo: "remove the disk that does not belong to this device",
    });
  return first;
}

/** "/dev/vdb2 (disk serial "...")": for sentences. */
export function described({ path, diskSerial, partuuid }: Partition): string {
  const facts = [
    ...(diskSerial === undefined ? [] : [`disk serial ${quoted(diskSerial)}`]),
    ...(partuuid === undefined ? [] : [`id ${partuuid}`]),
  ];
  return facts.length > 0 ? `${path} (${facts.join(", ")})` : path;
}

function factsOf(path: string): ReadonlyMap<string, string> {
  const lines = (textOf(path) ?? "").split("\n").filter((line) => line.includes("="));
  return new Map(lines.map((line) => [line.slice(0, line.indexOf("=")), line.slice(line.indexOf("=") + 1)]));
}

/** virtio and MMC say it in the disk's folder, NVMe in its device, SCSI in a vital product data page. */
function serialOf(diskFolder: string): string | undefined {
  for (const file of ["serial", "device/serial"]) {
    const text = textOf(join(diskFolder, file));
    if (text !== undefined && text !== "") return text;
  }
  const page = textOf(join(diskFolder, "device/vpd_pg80"));
  const serial = page?.slice(4).replace(/[^\x21-\x7e]/g, "");
  return serial ? serial : undefined;
}

/** Undefined where the disk cannot be read: then its partitions are told apart by path and serial only. */
function partuuidOf(disk: string, number: number, diskFolder: string): string | undefined {
  const sectorBytes = Number(textOf(join(diskFolder, "queue/logical_block_size")) ?? 512);
  const start = new Uint8Array(65_536);
  try {
    const fd = openSync(disk, "r");
    try {
      readSync(fd, start, 0, start.length, 0);
    } finally {
      closeSync(fd);
    }
  } catch {
    return undefined; // absent, or gone: see above
  }
  const gpt = parseGpt(start, sectorBytes);
  if (gpt.is === "refused") return undefined;
  return gpt.partitions.find((partition) => partition.number === number)?.partuuid;
}

function textOf(path: string): string | undefined {
  try {
    return readFileSync(path, "latin1").trim();
  } catch {
    return undefined; // sysfs files come and go with their devices
  }
}
