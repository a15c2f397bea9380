/** The engine on this device: images through dm-verity, starts measured into PCR 13, c0 first. */
import { randomUUID } from "node:crypto";
import { closeSync, constants, openSync } from "node:fs";
import { totalmem } from "node:os";
import { join } from "node:path";
import { prepareCgroups } from "../container/cgroup.ts";
import { coreUuid, Engine } from "../container/engine.ts";
import type { EnginePorts, ImageOpener, VerifiedGuestOs } from "../container/ports.ts";
import { openImage } from "../disk/verity.ts";
import { GimbalError } from "../errors.ts";
import type { Manifest } from "../guestos/manifest.ts";
import { hasImage } from "../guestos/manifest-format.ts";
import type { GuestOsStore } from "../guestos/store.ts";
import { measureGuestStart } from "../measure/guest-event.ts";
import { bringLoopbackUp, listLinks, moveLink } from "../net/links.ts";
import { type ImageWatch, watchImages } from "./image-faults.ts";
import type { Verified } from "./trust.ts";

declare const running: unique symbol;
/** The engine is there; c0 is started by `startCore`. */
export type Running = Verified & { readonly [running]: true; readonly engine: Engine };

const gimbalFolder = "/usr/lib/gimbal";
const controlSocket = "/run/gimbal/control.sock";
/** The group that may use the control socket, inside c0. */
const controlGroup = 900;

export async function openEngine(before: Verified): Promise<Running> {
  const { kernel, screen, log, audit, store, trusted } = before;
  const memoryBytes = totalmem();
  const tree = prepareCgroups("/sys/fs/cgroup", memoryBytes);
  const ports: EnginePorts = {
    guestOses: { verify: (name, minimumVersion) => verifyNow(store, name, minimumVersion) },
    openImage: imageOpener(before, watchImages(before)),
    measure: async ({ guestOs, version, manifestDigest, containerUuid }) => {
      if (!trusted)
        throw new GimbalError("tpm-absent", { tried: "extend", on: "PCR 13", why: "there is no TPM" });
      await measureGuestStart(trusted.events, { name: guestOs, version, manifestDigest, containerUuid });
    },
    paths: {
      state: "/data/state/containers",
      data: "/data/containers",
      run: "/run/gimbal/containers",
      cgroup: tree.path,
      staging: "/staging",
      shim: join(gimbalFolder, "shim"),
    },
    coreBinds: [
      { source: gimbalFolder, target: gimbalFolder, kind: "directory", executable: true },
      { source: controlSocket, target: controlSocket, kind: "file" },
    ],
    controllers: tree.controllers,
    missingControllers: "refuse",
    memoryBytes,
    beforeRelease: async ({ pid, isCore }) => giveNetwork(before, pid, isCore),
    nowMs: Date.now,
    randomUuid: randomUUID,
  };
  const engine = new Engine(kernel, ports);
  engine.on("report", ({ code, sentence }) => {
    log.warn(`${code}: ${sentence}`);
    screen.warn(sentence);
    void audit.append(code, sentence);
  });
  engine.on("oom", ({ name, uuid, kills }) => {
    log.warn(`container ${name}: out of memory, ${kills} killed`);
    void audit.append(
      "oom",
      new Map<string, string | number>([
        ["container", uuid],
        ["kills", kills],
      ]),
    );
  });
  engine.on("state", ({ name, uuid, from, to, exit }) => {
    log.info(`container ${name}: ${from} -> ${to}${exit ? `, ${exit.sentence}` : ""}`);
    if (to === "STARTING" || to === "STOPPED" || to === "ZOMBIE") {
      void audit.append(
        "container",
        new Map([
          ["container", uuid],
          ["state", to],
          ["why", exit?.sentence ?? ""],
        ]),
      );
    }
  });
  await engine.load();
  return { ...before, engine } as Omit<Running, typeof running> as Running;
}

/** Starts c0. Its record is made at the first boot. @throws {GimbalError} without c0 nobody can manage the device */
export async function startCore({ engine, screen, build }: Running): Promise<void> {
  const stage = screen.stage("c0");
  await engine.createCore(
    new Map<string, string | number | boolean>([
      ["name", "c0"],
      ["guest_os", "c0"],
      ["ram_limit", 512],
    ]),
  );
  const status = await engine.start(coreUuid);
  stage.done(
    `${status.guestOs}-${status.guestOsVersion} started${build.development ? ", its console follows" : ""}`,
  );
}

/** What comes after c0 must not keep the device from working. */
export async function autostart({ engine, screen }: Running): Promise<void> {
  for (const { uuid, name, autostart } of engine.list()) {
    if (!autostart || uuid === coreUuid) continue;
    const stage = screen.stage("start");
    try {
      await engine.start(uuid);
      stage.done(name);
    } catch (error) {
      stage.fail(error);
    }
  }
}

async function verifyNow(
  store: GuestOsStore,
  name: string,
  minimumVersion: number,
): Promise<VerifiedGuestOs> {
  const { manifest, folder } = await store.newest(name, minimumVersion);
  manifests.set(manifest, manifest);
  return { manifest, manifestDigest: manifest.digest, directory: folder, trustLevel: manifest.trustLevel };
}

/** What the engine sees of a manifest leads back to all of it. */
const manifests = new WeakMap<VerifiedGuestOs["manifest"], Manifest>();

/**
 * dm-verity for every image. The kernel's own check of the root hash's signature is the second wall: with Secure Boot on c0 does not start
 * without it, as its signer's key is in the firmware's db; other signers are not.
 */
function imageOpener({ kernel, secureBoot }: Verified, watch: ImageWatch): ImageOpener {
  return async (guestOs, mount) => {
    const manifest = manifests.get(guestOs.manifest);
    const entry = manifest?.mounts.find((candidate) => candidate.imageFile === mount.imageFile);
    if (!manifest || !entry || !hasImage(entry))
      throw new Error(`no image ${mount.imageFile} in this manifest`);
    const { rootHash, salt, hashOffset, dataBlocks, signature } = entry.verity;
    const needsSignature = secureBoot.secureBoot && manifest.name === "c0";
    if (needsSignature && !signature) {
      throw new GimbalError("verity-signature", {
        tried: "open",
        on: `the image ${entry.imageFile} of c0`,
        why: "its root hash is not signed for the kernel",
        todo: "build c0 with the key of the firmware's db",
      });
    }
    const image = await openImage(kernel, {
      path: join(guestOs.directory, entry.imageFile),
      sizeBytes: entry.imageSize,
      fsType: entry.fsType,
      verity: { rootHash, salt, hashOffsetBytes: hashOffset, dataBlocks },
      // Without Secure Boot the kernel has no keys to check it with, and would refuse any.
      ...(signature && secureBoot.secureBoot ? { signature } : {}),
      name: `${manifest.name}-${manifest.version}`,
    });
    return watch(image, `${entry.imageFile} of ${manifest.name}-${manifest.version}`);
  };
}

/**
 * While the new process waits, before the guest's first instruction: its loopback comes up, and c0 gets the machine's interfaces. They
 * come back when c0's namespace goes.
 */
function giveNetwork({ kernel, log }: Verified, pid: number, isCore: boolean): void {
  const netns = openSync(`/proc/${pid}/ns/net`, constants.O_RDONLY);
  try {
    bringLoopbackUp(kernel, netns);
    if (!isCore) return;
    for (const link of listLinks(kernel)) {
      if (link.name === "lo") continue;
      moveLink(kernel, -1, link.name, netns);
      log.info(`network interface ${link.name} moved to c0`);
    }
  } finally {
    closeSync(netns);
  }
}

export { controlGroup, controlSocket };
