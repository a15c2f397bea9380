/**
 * Who is trusted and what is there: CAs, then every GuestOS verified by them. On a device that is not provisioned the GuestOSes that came
 * with the image on the boot partition are installed first, through the same verification as any other.
 */
import { closeSync } from "node:fs";
import { mkdir, readdir } from "node:fs/promises";
import { join } from "node:path";
import { type AuditLog, openAuditLog } from "../audit/log.ts";
import { findPartition } from "../disk/block.ts";
import { GimbalError, quoted, reasonOf } from "../errors.ts";
import { GuestOsStore, type StoredGuestOs } from "../guestos/store.ts";
import type { Kernel } from "../kernel.ts";
import {
  AT_FDCWD,
  MNT_DETACH,
  MOUNT_ATTR_NODEV,
  MOUNT_ATTR_NOEXEC,
  MOUNT_ATTR_NOSUID,
  MOUNT_ATTR_RDONLY,
} from "../linux.ts";
import { type Anchor, readAnchors } from "../trust/anchors.ts";
import { nameOf } from "../trust/chain.ts";
import { labels, type Mounted } from "./disk.ts";

declare const trusting: unique symbol;
export type Trusting = Mounted & {
  readonly [trusting]: true;
  readonly audit: AuditLog;
  /** Read anew: registering a CA changes them. */
  readonly anchors: () => readonly Anchor[];
};

declare const verified: unique symbol;
export type Verified = Trusting & {
  readonly [verified]: true;
  readonly store: GuestOsStore;
};

export const registeredAnchors = "/data/trust";
const platformAnchors = "/etc/gimbal/trust";

export async function loadTrust(before: Mounted): Promise<Trusting> {
  const { screen, log } = before;
  const stage = screen.stage("trust");
  const audit = await openAuditLog();
  await audit.append(
    "boot",
    new Map<string, string | number>([
      ["release", before.build.release],
      ["disk", before.volume.how.is],
    ]),
  );
  await mkdir(registeredAnchors, { recursive: true, mode: 0o700 });
  const platform = readAnchors(platformAnchors, "platform");
  const registered = readAnchors(registeredAnchors, "registered");
  for (const { path, why } of [...platform.skipped, ...registered.skipped])
    log.warn(`CA ${path} is not used: ${why}`);
  let anchors = [...platform.anchors, ...registered.anchors];
  const names = anchors.map((anchor) => nameOf(anchor.certificate));
  if (anchors.length === 0)
    stage.warn("no trusted CA: no GuestOS will start", "build the image with a platform CA");
  else stage.done(`${names.length} CA${names.length > 1 ? "s" : ""}: ${names.join(", ")}`);
  const read = () => {
    anchors = [...platform.anchors, ...readAnchors(registeredAnchors, "registered").anchors];
    return anchors;
  };
  return { ...before, audit, anchors: read } as Omit<Trusting, typeof trusting> as Trusting;
}

export async function verifyGuestOses(before: Trusting): Promise<Verified> {
  const { screen, build, anchors, log, audit, provisioned } = before;
  const store = new GuestOsStore({
    folder: "/data/guestos",
    anchors,
    hardware: build.hardware,
    now: () => new Date(),
  });
  for (const name of await store.recover())
    log.info(`removed what an interrupted installation left: ${name}`);
  if (!provisioned) await installSeeds(before, store);
  for (const entry of newestOfEach(await store.list())) {
    const stage = screen.stage("GuestOS");
    if (entry.is === "verified") {
      const { name, version, trustLevel, signer } = entry.manifest;
      stage.done(`${name}-${version} verified, ${trustLevel} by ${signer}`);
      continue;
    }
    stage.fail(entry.error);
    await audit.append(
      "guestos-refused",
      new Map([
        ["code", entry.error.code],
        ["sentence", entry.error.message],
      ]),
    );
  }
  return { ...before, store } as Omit<Verified, typeof verified> as Verified;
}

/** A refused one is always shown; of the verified ones the newest of each name. */
function newestOfEach(all: readonly StoredGuestOs[]): readonly StoredGuestOs[] {
  const newest = new Map<string, StoredGuestOs>();
  for (const entry of all) newest.set(entry.is === "verified" ? entry.manifest.name : entry.folder, entry);
  return [...newest.values()];
}

/** /gimbal/guestos/ of the boot partition. It is a plain FAT: nothing of it is believed. */
async function installSeeds({ kernel, screen, log, audit }: Trusting, store: GuestOsStore): Promise<void> {
  const boot = await findPartition(labels.boot).catch((error: unknown) => {
    log.info(`no boot partition to install GuestOSes from: ${reasonOf(error)}`);
    return undefined;
  });
  if (!boot) return;
  const target = "/run/gimbal/boot";
  await mkdir(target, { recursive: true, mode: 0o700 });
  try {
    mountReadOnly(kernel, boot.path, target);
  } catch (error) {
    screen.warn(`the boot partition ${boot.path} cannot be read: ${reasonOf(error)}`);
    return;
  }
  try {
    const folder = join(target, "gimbal/guestos");
    for (const name of (await readdir(folder).catch(() => [])).sort()) {
      const stage = screen.stage("install");
      try {
        const { manifest, wasThere } = await store.install(join(folder, name));
        if (wasThere) stage.done(`${manifest.name}-${manifest.version} is installed`);
        else {
          await audit.append(
            "guestos-installed",
            new Map<string, string | number>([
              ["name", manifest.name],
              ["version", manifest.version],
            ]),
          );
          stage.done(`${manifest.name}-${manifest.version}`);
        }
      } catch (error) {
        if (!(error instanceof GimbalError)) throw error;
        stage.fail(error);
        await audit.append(
          "guestos-refused",
          new Map([
            ["code", error.code],
            ["sentence", `${quoted(name)}: ${error.message}`],
          ]),
        );
      }
    }
  } finally {
    kernel.umount(target, MNT_DETACH);
  }
}

function mountReadOnly(kernel: Kernel, device: string, target: string): void {
  const quiet = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC;
  const mount = kernel.fsMount("vfat", [["source", device], ["ro"]], quiet);
  try {
    kernel.moveMount(mount, AT_FDCWD, target);
  } finally {
    closeSync(mount);
  }
}
