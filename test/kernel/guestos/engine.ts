/**
 * The real engine over the images of build/guestos on this machine's kernel: their manifests verified against the development CA, the
 * images mounted through a loop device (there is no device-mapper here, so no dm-verity). Needs root.
 */
import { execFileSync } from "node:child_process";
import {
  chmodSync,
  closeSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  rmdirSync,
  rmSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { enable } from "../../../init/container/cgroup.ts";
import { Engine } from "../../../init/container/engine.ts";
import type { EnginePorts, HostBind, VerifiedGuestOs } from "../../../init/container/ports.ts";
import { type Manifest, parseManifest, verifyManifest } from "../../../init/guestos/manifest.ts";
import type { Kernel } from "../../../init/kernel.ts";
import { MOUNT_ATTR_NODEV, MOUNT_ATTR_RDONLY } from "../../../init/linux.ts";
import { readAnchors } from "../../../init/trust/anchors.ts";

const built = "build/guestos";

export type BuiltGuest = { readonly folder: string; readonly manifest: Manifest };

/** Has the guests built; a second with a warm cache. */
export function buildGuests(): void {
  execFileSync(process.execPath, ["guestos/build.ts", "x64"], { stdio: ["ignore", "ignore", "inherit"] });
}

export function builtGuest(name: string): BuiltGuest {
  const id = existsSync(built)
    ? readdirSync(built).find((each) => each.replace(/-\d+$/, "") === name)
    : undefined;
  if (id === undefined) throw new Error(`build/guestos has no ${name}: run node guestos/build.ts x64`);
  const { anchors } = readAnchors("build/keys", "platform");
  const claimed = parseManifest(readFileSync(join(built, id, "manifest.cose")));
  const manifest = verifyManifest(claimed, anchors, { at: new Date(), hardware: "x86-64" });
  return { folder: join(built, id), manifest };
}

/** The root image of a guest, mounted nowhere: a descriptor of the mount, which the caller closes. */
export function mountImage(kernel: Kernel, { folder }: BuiltGuest, file = "root.img"): number {
  const image = openSync(join(folder, file), "r");
  try {
    // goes by itself with the last mount
    const loop = kernel.loopAttach(image, { readOnly: true, autoclear: true, directIo: false });
    try {
      return kernel.fsMount("erofs", [["source", loop.path], ["ro"]], MOUNT_ATTR_RDONLY | MOUNT_ATTR_NODEV);
    } finally {
      closeSync(loop.fd);
    }
  } finally {
    closeSync(image);
  }
}

export type TestEngine = AsyncDisposable & { readonly engine: Engine; readonly scratch: string };

/** `coreBinds` makes in the scratch folder what c0 is to see of the host. */
export async function testEngine(
  kernel: Kernel,
  coreBinds: (scratch: string) => readonly HostBind[] = () => [],
): Promise<TestEngine> {
  const scratch = mkdtempSync(join(tmpdir(), "gimbal-guests-"));
  chmodSync(scratch, 0o755); // a guest's root is nobody here, and passes through
  const cgroup2 = existsSync("/sys/fs/cgroup/cgroup.controllers")
    ? "/sys/fs/cgroup"
    : "/sys/fs/cgroup/unified";
  const cgroup = join(cgroup2, `gimbal-guests-${process.pid}`);
  mkdirSync(cgroup);
  for (const path of ["state", "data", "run", "staging/l", "staging/u", "staging/root"]) {
    mkdirSync(join(scratch, path), { recursive: true });
  }
  const at = (name: string) => join(scratch, name);
  const ports: EnginePorts = {
    guestOses: { verify: async (name) => verified(name) },
    openImage: async ({ manifest }, { imageFile }) => {
      const guest = builtGuest(manifest.name);
      return {
        newMount: () => mountImage(kernel, guest, imageFile),
        [Symbol.asyncDispose]: () => Promise.resolve(),
      };
    },
    measure: () => Promise.resolve(),
    paths: {
      state: at("state"),
      data: at("data"),
      run: at("run"),
      cgroup,
      staging: at("staging"),
      shim: "build/x64/shim",
    },
    coreBinds: coreBinds(scratch),
    controllers: enable(cgroup),
    missingControllers: "ignore",
    memoryBytes: 2 ** 31,
    nowMs: () => Date.now(),
    randomUuid: () => crypto.randomUUID(),
  };
  const engine = new Engine(kernel, ports);
  await engine.load();
  return {
    engine,
    scratch,
    async [Symbol.asyncDispose]() {
      await engine[Symbol.asyncDispose]();
      rmdirSync(cgroup);
      rmSync(scratch, { recursive: true });
    },
  };
}

function verified(name: string): VerifiedGuestOs {
  const { manifest, folder } = builtGuest(name);
  return { manifest, manifestDigest: manifest.digest, directory: folder, trustLevel: manifest.trustLevel };
}

/** Runs a command in a container to its end. */
export async function run(
  engine: Engine,
  container: string,
  argv: readonly string[],
  ids: { readonly uid?: number; readonly gid?: number } = {},
): Promise<{ readonly status: number; readonly output: string }> {
  await using session = await engine.exec(container, { argv, ...ids });
  session.endInput();
  const chunks: Uint8Array[] = [];
  for await (const { bytes } of session.output) chunks.push(bytes);
  const { status } = await session.ended;
  return { status, output: Buffer.concat(chunks).toString() };
}
