/**
 * Opens a GuestOS image: loop device, dm-verity by ioctl, a look through it before it is trusted. A wrong root hash opens
 * without an error and only a read fails, so the read is done here (facts of the x86 boot, section 5).
 * The device-mapper device is marked for removal as soon as it is mounted: it goes with its last mount, whoever holds that.
 */
import { close, closeSync, constants } from "node:fs";
import { type FileHandle, open } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { GimbalError, quoted } from "../errors.ts";
import type { Kernel } from "../kernel.ts";
import { KEY_SPEC_PROCESS_KEYRING, MOUNT_ATTR_NODEV, MOUNT_ATTR_RDONLY } from "../linux.ts";
import { isErrno, kernelRefusal } from "../machine/kernel-refusal.ts";
import { blockBytes, checkImageSize, hasMagic, type Image, verityParameters } from "./image.ts";

export type OpenImage = AsyncDisposable & {
  /** "/dev/dm-3" */
  readonly devicePath: string;
  /** "7:3": the loop device below, by which the kernel's log names the image. */
  readonly backing: string;
  /** A fresh detached mount of it, read-only; the caller owns the descriptor. Cheap: it shares the page cache. */
  newMount(): number;
  /** True once a block did not verify. Only while somebody has it mounted. */
  isCorrupted(): boolean;
};

const closeInThread = promisify(close);
/** How much is read through the device before it is trusted: superblock and first blocks. */
const lookBytes = 16 * blockBytes;
/** Documentation/admin-guide/devices.txt */
const loopMajor = 7;
/** Device names must not clash with a device that waits for its last mount to go. */
let opened = 0;

/**
 * Opens `image`, attached to no path. Errors: image-truncated, verity-mismatch, verity-signature, image-malformed,
 * kernel-refused, bad-argument. Then nothing stays behind.
 */
export async function openImage(kernel: Kernel, image: Image, dev = "/dev"): Promise<OpenImage> {
  await using undo = new AsyncDisposableStack();
  const file = await openFile(image);
  const loop = await attach(kernel, image, file);
  undo.defer(() => closeSync(loop.fd)); // autoclear: the device goes with its last user
  const device = createDevice(kernel, image, loop.path, dev);
  undo.defer(() => device.remove());
  await lookThrough(image, device.path);
  const newMount = () => mountDetached(kernel, image, device.path);
  const pin = newMount();
  // The last mount frees the page cache of the whole image, and a kernel that clears what it frees takes seconds for that on a slow
  // machine: in a thread of its own, so that the event loop goes on.
  undo.defer(() => closeInThread(pin));
  device.remove(); // deferred: the pin holds it
  const owned = undo.move();
  return {
    devicePath: device.path,
    backing: `${loopMajor}:${/\d+$/.exec(loop.path)?.[0]}`,
    newMount,
    isCorrupted: () => kernel.dmStatus(device.name).some((line) => /(^|\s)C$/.test(line.trim())),
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}

async function openFile(image: Image): Promise<FileHandle> {
  const refuse = (why: string, cause?: unknown) =>
    new GimbalError("image-truncated", { tried: "open the image", on: quoted(image.path), why }, cause);
  const file = await open(image.path, constants.O_RDONLY | constants.O_NOFOLLOW).catch((error: unknown) => {
    throw isErrno(error, "ENOENT")
      ? refuse("it is not there", error)
      : kernelRefusal("open", image.path, error);
  });
  try {
    const stat = await file.stat();
    if (!stat.isFile()) throw refuse("it is no regular file");
    checkImageSize(image, stat.size);
    return file;
  } catch (error) {
    await file.close();
    throw error;
  }
}

/** The loop device keeps the file open by itself. */
async function attach(kernel: Kernel, image: Image, file: FileHandle): Promise<{ fd: number; path: string }> {
  try {
    // Direct I/O: else every page is cached twice, once here and once above dm-verity.
    return kernel.loopAttach(file.fd, { readOnly: true, autoclear: true, directIo: true });
  } catch (error) {
    throw kernelRefusal("attach the image", quoted(image.path), error);
  } finally {
    await file.close();
  }
}

type Device = { readonly name: string; readonly path: string; remove(): void };

function createDevice(kernel: Kernel, image: Image, loop: string, dev: string): Device {
  const name = `gimbal-${image.name}-${++opened}`;
  const key = image.signature ? signatureKey(kernel, name, image.signature) : undefined;
  try {
    const length = BigInt(image.verity.dataBlocks) * 8n;
    const parameters = verityParameters(image, loop, key?.description);
    const { minor } = kernel.dmCreate(name, "", true, [{ start: 0n, length, type: "verity", parameters }]);
    return { name, path: join(dev, `dm-${minor}`), remove: () => remove(kernel, name) };
  } catch (error) {
    if (key && isErrno(error, "ENOKEY", "EKEYREJECTED", "EBADMSG", "EINVAL"))
      throw new GimbalError(
        "verity-signature",
        {
          tried: "open the image",
          on: quoted(image.path),
          why: "the kernel does not take the signature of its root hash",
          todo: "sign it with a key of the firmware's db, and boot with Secure Boot on",
        },
        error,
      );
    throw kernelRefusal("open through dm-verity", quoted(image.path), error);
  } finally {
    key?.revoke();
  }
}

/** Twice is harmless: the first call of a device in use only marks it. */
function remove(kernel: Kernel, name: string): void {
  try {
    kernel.dmRemove(name, true);
  } catch (error) {
    if (!isErrno(error, "ENXIO")) throw kernelRefusal("remove", name, error); // gone already, as wanted
  }
}

/** The signature as a key that the table line can name, until the table is loaded. */
function signatureKey(
  kernel: Kernel,
  name: string,
  signature: Uint8Array,
): { readonly description: string; revoke(): void } {
  const description = `gimbal:${name}`;
  try {
    const serial = kernel.addKey("user", description, signature, KEY_SPEC_PROCESS_KEYRING);
    return {
      description,
      revoke() {
        kernel.revokeKey(serial);
        kernel.unlinkKey(serial, KEY_SPEC_PROCESS_KEYRING);
      },
    };
  } catch (error) {
    throw kernelRefusal("hand the kernel the signature of", name, error);
  }
}

/** Reads the first blocks through dm-verity. EIO, EILSEQ and a short read all mean: it does not verify. */
async function lookThrough(image: Image, device: string): Promise<void> {
  const mismatch = (cause?: unknown) =>
    new GimbalError(
      "verity-mismatch",
      {
        tried: "open the image",
        on: quoted(image.path),
        why: "its first blocks do not hash to the root that its signed manifest names",
        todo: "install the GuestOS again",
      },
      cause,
    );
  const start = new Uint8Array(Math.min(lookBytes, image.verity.dataBlocks * blockBytes));
  let handle: FileHandle;
  try {
    handle = await open(device, "r");
  } catch (error) {
    throw kernelRefusal("open", device, error);
  }
  try {
    const { bytesRead } = await handle.read(start, 0, start.length, 0);
    if (bytesRead !== start.length) throw mismatch();
  } catch (error) {
    throw isErrno(error, "EIO", "EILSEQ") ? mismatch(error) : error;
  } finally {
    await handle.close();
  }
  if (!hasMagic(image.fsType, start))
    throw new GimbalError("image-malformed", {
      tried: "open the image",
      on: quoted(image.path),
      why: `it holds no ${image.fsType}, which its manifest says`,
    });
}

function mountDetached(kernel: Kernel, image: Image, device: string): number {
  try {
    const readOnly = [["source", device], ["ro"]] as const;
    const options = image.fsType === "ext4" ? [...readOnly, ["noload"] as const] : readOnly;
    return kernel.fsMount(image.fsType, options, MOUNT_ATTR_RDONLY | MOUNT_ATTR_NODEV);
  } catch (error) {
    throw kernelRefusal("mount the image", quoted(image.path), error);
  }
}
