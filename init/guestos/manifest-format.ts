/**
 * The form of a manifest: every field, its limits, and what fields say about each other. Declared once: the reader, the writer
 * and the types come from it. Keys are in snake case and named as GyroidOS names them; docs/guests.md explains each.
 * Sizes in MB are units of 2^20 octets, as in GyroidOS.
 */
import { type CborValue, decodeCbor, encodeCbor } from "../bytes/cbor.ts";
import {
  bool,
  bytesOf,
  listOf,
  oneOf,
  optional,
  parse,
  record,
  type Shaped,
  text,
  uint,
  withDefault,
} from "../bytes/shape.ts";
import { GimbalError, quoted } from "../errors.ts";

export const manifestContentType = "application/vnd.gimbal.guestos+cbor";
export const manifestMaxBytes = 256 * 1024;

/** Types whose content comes with the GuestOS, as an image behind dm-verity. */
const verityTypes = ["SHARED", "SHARED_RW", "OVERLAY_RO"] as const;
/** Types whose content comes with the GuestOS and is mounted by nobody. */
const storedTypes = ["FLASH", "STORE_ONLY"] as const;
/** Types whose content belongs to the container. */
const volumeTypes = ["EMPTY", "OVERLAY_RW", "BIND_FILE", "BIND_FILE_RW", "DEVICE", "DEVICE_RW"] as const;
/** DESIGN section 6. Which of them this release can start: `unsupportedMount`. */
export const mountTypes = [...verityTypes, ...storedTypes, ...volumeTypes] as const;
export type MountType = (typeof mountTypes)[number];

const name = text({
  max: 32,
  pattern: /^[a-z0-9]([a-z0-9-]*[a-z0-9])?$/,
  what: "is no name: small letters, digits and inner hyphens, at most 32",
});
const imageFile = text({
  max: 64,
  pattern: /^[a-z0-9][a-z0-9._-]*$/,
  what: "is no file name: small letters, digits, dot, hyphen, underscore",
});
/** Absolute, normalised: no empty, "." or ".." component, no slash at the end but for "/" itself, nothing unprintable. */
const path = text({
  max: 255,
  pattern: /^\/$|^(\/(?!\.{1,2}(\/|$))[^/\p{C}]+)+$/u,
  what: "is no absolute path in normal form",
});
const environmentEntry = text({ max: 1024, pattern: /^[A-Za-z_][A-Za-z0-9_]*=/, what: "is not NAME=value" });
const megabytes = uint({ min: 1, max: 1024 * 1024 });
const imageBytes = uint({ min: 4096, max: 2 ** 42 });

const verity = record({
  rootHash: bytesOf({ min: 32, max: 32 }),
  salt: bytesOf({ max: 32 }),
  /** Octets before the verity superblock. */
  hashOffset: uint({ min: 4096, max: 2 ** 42 }),
  dataBlocks: uint({ min: 1, max: 2 ** 30 }),
  /** PKCS#7 over the hex root hash by a key in the firmware's db: the kernel itself then checks it. */
  signature: optional(bytesOf({ min: 1, max: 8192 })),
});

const mount = record({
  imageFile,
  mountPoint: path,
  fsType: oneOf("erofs", "squashfs", "ext4", "tmpfs", "none"),
  mountType: oneOf(...mountTypes),
  /** Of the image file in octets, hash tree included. */
  imageSize: optional(imageBytes),
  imageSha256: optional(bytesOf({ min: 32, max: 32 })),
  verity: optional(verity),
  minSize: optional(megabytes),
  defSize: optional(megabytes),
  maxSize: optional(megabytes),
  /** Options of the file system, by name or name=value. */
  mountData: optional(text({ max: 256, pattern: /^[a-z0-9_.:=,-]+$/ })),
});

const fields = {
  format: uint({ min: 1, max: 1 }),
  /** The oldest gimbal that understands this manifest; said where one does not. */
  requires: optional(text({ max: 32, pattern: /^\d+\.\d+\.\d+$/, what: "is no version such as 0.2.0" })),
  /** Top-level keys that a gimbal which does not know them may pass over. */
  ignorable: withDefault(listOf(text({ max: 32, pattern: /^[a-z][a-z0-9_]*$/ }), 16), []),
  name,
  hardware: oneOf("x86-64", "arm64", "armv7"),
  version: uint({ min: 1 }),
  mounts: listOf(mount, 16),
  /** What is mounted instead while the container is set up. */
  mountsSetup: withDefault(listOf(mount, 16), []),
  initPath: path,
  initParam: withDefault(listOf(text({ max: 1024 }), 64), []),
  initEnv: withDefault(listOf(environmentEntry, 64), []),
  /** "service": one program. "full-os": an own init that mounts and delegates, such as systemd. */
  profile: oneOf("service", "full-os"),
  /** Its init says READY=1 (sd_notify). */
  notify: withDefault(bool(), false),
  /** It has programs with setuid or file capabilities: no_new_privs stays off. */
  setuid: withDefault(bool(), false),
  /** What asks its init to end; absent: as the profile has it. */
  stopSignal: optional(
    oneOf("SIGTERM", "SIGINT", "SIGQUIT", "SIGHUP", "SIGPWR", "SIGUSR1", "SIGUSR2", "SIGRTMIN+3"),
  ),
  minRamLimit: optional(megabytes),
  defRamLimit: optional(megabytes),
  /** Of the tmpfs over a SHARED_RW root; absent: half the memory limit. */
  tmpfsSize: optional(megabytes),
  /** Beyond the profile's. */
  capabilities: withDefault(listOf(text({ max: 32, pattern: /^(CAP_)?[A-Z_]+$/ }), 64), []),
  devices: withDefault(
    listOf(
      text({
        max: 32,
        pattern: /^[bc] (\d{1,5}|\*):(\d{1,8}|\*) [rwm]{1,3}$/,
        what: 'is no device rule such as "c 10:200 rw"',
      }),
      64,
    ),
    [],
  ),
  /** It is of no use without a network interface. */
  network: withDefault(bool(), false),
  /** It may install GuestOSes and register a CA for them (the unprivileged control socket). */
  featureInstallGuest: withDefault(bool(), false),
  description: withDefault(text({ max: 256 }), ""),
  upstreamVersion: withDefault(text({ max: 64 }), ""),
  /** Seconds since 1970. */
  buildDate: uint(),
  updateBaseUrl: withDefault(text({ max: 512 }), ""),
};
const shape = record(fields);
const snakeCase = (key: string) => key.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
const knownKeys: ReadonlySet<string | number> = new Set(Object.keys(fields).map(snakeCase));

type Wire = Shaped<typeof shape>;
type WireMount = Wire["mounts"][number];

export type ManifestVerity = NonNullable<WireMount["verity"]>;
export type ManifestMount = Omit<WireMount, "minSize" | "defSize" | "maxSize"> & {
  readonly minimumSizeMb: number | undefined;
  readonly defaultSizeMb: number | undefined;
  readonly maximumSizeMb: number | undefined;
};
/** The fields of a manifest, whoever claims them. */
export type ManifestFields = Omit<
  Wire,
  "mounts" | "mountsSetup" | "minRamLimit" | "defRamLimit" | "tmpfsSize"
> & {
  readonly mounts: readonly ManifestMount[];
  readonly mountsSetup: readonly ManifestMount[];
  readonly minimumMemoryMb: number | undefined;
  readonly defaultMemoryMb: number | undefined;
  readonly tmpfsMb: number | undefined;
};

/** A mount whose content comes with the GuestOS: it has size and digest. */
export type StoredMount = ManifestMount & { readonly imageSize: number; readonly imageSha256: Uint8Array };
/** A mount whose content is read through dm-verity. */
export type ImageMount = StoredMount & {
  readonly verity: ManifestVerity;
  readonly fsType: "erofs" | "squashfs" | "ext4";
};

export const isStored = (entry: ManifestMount): entry is StoredMount =>
  entry.imageSize !== undefined && entry.imageSha256 !== undefined;
export const hasImage = (entry: ManifestMount): entry is ImageMount =>
  isStored(entry) &&
  entry.verity !== undefined &&
  (entry.fsType === "erofs" || entry.fsType === "squashfs" || entry.fsType === "ext4");

/** Every image file of a manifest, each once. */
export function storedImages({ mounts, mountsSetup }: ManifestFields): readonly StoredMount[] {
  return [...mounts, ...mountsSetup].filter(isStored);
}

/**
 * The fields in a manifest's octets; form only.
 * @throws {GimbalError} "manifest-malformed"
 */
export function decodeManifest(payload: Uint8Array): ManifestFields {
  const decoded = decodeCbor(payload, { maxBytes: manifestMaxBytes, maxDepth: 6, maxItems: 4096 });
  if (decoded.is === "refused") throw malformed(`its content is no deterministic CBOR: ${decoded.reason}`);
  return fromWire(checked(withoutIgnorable(decoded.value)));
}

/**
 * A manifest's octets from a decoded YAML or JSON value with the same keys; digests are octets (Uint8Array).
 * @throws {GimbalError} "manifest-malformed", naming the field: what `decodeManifest` would refuse
 */
export function encodeManifest(value: unknown): Uint8Array {
  return encodeCbor(shape.toCbor(checked(value)));
}

function checked(value: unknown): Wire {
  const parsed = parse(shape, value);
  if (parsed.is === "refused")
    throw malformed(`${parsed.path ? `its field ${parsed.path.slice(1)}` : "it"} ${parsed.why}`, value);
  const why = inconsistency(parsed.value);
  if (why) throw malformed(why);
  return parsed.value;
}

/** Without the keys that the manifest itself calls ignorable and that nobody knows here. */
function withoutIgnorable(value: CborValue): CborValue {
  if (!(value instanceof Map)) return value;
  const map = value as ReadonlyMap<string | number, CborValue>;
  const ignorable = map.get("ignorable");
  if (!Array.isArray(ignorable)) return value;
  return new Map([...map].filter(([key]) => knownKeys.has(key) || !ignorable.includes(key)));
}

function fromWire({
  minRamLimit,
  defRamLimit,
  tmpfsSize,
  mounts,
  mountsSetup,
  ...rest
}: Wire): ManifestFields {
  return {
    ...rest,
    mounts: mounts.map(mountFromWire),
    mountsSetup: mountsSetup.map(mountFromWire),
    minimumMemoryMb: minRamLimit,
    defaultMemoryMb: defRamLimit,
    tmpfsMb: tmpfsSize,
  };
}

const mountFromWire = ({ minSize, defSize, maxSize, ...rest }: WireMount): ManifestMount => ({
  ...rest,
  minimumSizeMb: minSize,
  defaultSizeMb: defSize,
  maximumSizeMb: maxSize,
});

/** Every start mounts these itself. */
const kernelOwn = ["/dev", "/proc", "/run", "/sys"];

/** What no single field shows. */
function inconsistency({ mounts, mountsSetup, ...rest }: Wire): string | undefined {
  const [root] = mounts;
  if (root?.mountPoint !== "/") return "its first mount is not on /";
  if (!root.verity) return "its root is no SHARED or SHARED_RW image with verity";
  const setupRoot = mountsSetup[0];
  if (setupRoot && setupRoot.mountPoint !== "/") return "its first mount of mounts_setup is not on /";
  const files = [...mounts, ...mountsSetup].map((entry) => entry.imageFile);
  if (new Set(files).size !== files.length) return "two mounts have one image_file";
  if ((rest.minRamLimit ?? 0) > (rest.defRamLimit ?? Number.MAX_SAFE_INTEGER))
    return "its min_ram_limit is above its def_ram_limit";
  for (const list of [mounts, mountsSetup]) {
    const points = list.filter(({ mountType }) => !isIn(storedTypes, mountType)).map((m) => m.mountPoint);
    if (new Set(points).size !== points.length) return "two mounts have one mount_point";
    const reserved = points.find((point) => kernelOwn.some((own) => `${point}/`.startsWith(`${own}/`)));
    if (reserved !== undefined) return `${quoted(reserved)} is no place for an image or volume`;
    for (const entry of list) {
      const why = isIn(volumeTypes, entry.mountType) ? volumeFault(entry) : imageFault(entry);
      if (why) return `${why}: ${entry.imageFile}`;
    }
  }
  return undefined;
}

function imageFault(entry: WireMount): string | undefined {
  const { mountType, imageSize, imageSha256, fsType } = entry;
  if (imageSize === undefined || imageSha256 === undefined) return "an image lacks size or digest";
  if (entry.minSize ?? entry.defSize ?? entry.maxSize) return "an image has a volume's sizes";
  if (!entry.verity) return isIn(verityTypes, mountType) ? "an image lacks verity" : undefined;
  if (fsType === "tmpfs" || fsType === "none") return `an image's fs_type cannot be ${fsType}`;
  const { hashOffset, dataBlocks } = entry.verity;
  if (hashOffset !== dataBlocks * 4096) return "a hash tree does not follow its data";
  if (hashOffset >= imageSize) return "an image has no room for its hash tree";
  return undefined;
}

function volumeFault(entry: WireMount): string | undefined {
  if ((entry.imageSize ?? entry.imageSha256 ?? entry.verity) !== undefined)
    return "a volume has an image's fields";
  const sizes = [entry.minSize, entry.defSize, entry.maxSize].filter((size) => size !== undefined);
  if (sizes.some((size, index) => size < (sizes[index - 1] ?? 0)))
    return "a volume's min_size, def_size and max_size do not rise";
  return undefined;
}

/** Why this release cannot start a GuestOS with these mounts; undefined where it can. */
export function unsupportedMount({ mounts, mountsSetup }: ManifestFields): string | undefined {
  if (mountsSetup.length > 0) return "mounts_setup is not supported yet";
  const entry = mounts.find((each) => !isSupported(each));
  return entry && `mount type ${entry.mountType} is not supported on ${quoted(entry.mountPoint)} yet`;
}

function isSupported({ mountType, mountPoint }: ManifestMount): boolean {
  switch (mountType) {
    case "SHARED":
    case "STORE_ONLY":
      return true;
    case "SHARED_RW":
      return mountPoint === "/";
    case "EMPTY":
      return mountPoint !== "/";
    default:
      return false;
  }
}

const isIn = <T extends string>(list: readonly T[], value: string): value is T =>
  (list as readonly string[]).includes(value);

export function malformed(why: string, value?: unknown): GimbalError {
  const requires = value instanceof Map ? value.get("requires") : undefined;
  return new GimbalError("manifest-malformed", {
    tried: "read",
    on: "the manifest of a GuestOS",
    why,
    todo:
      typeof requires === "string"
        ? `it requires gimbal ${quoted(requires)}`
        : "see docs/guests.md and build it again with `gimbal guestos build`",
  });
}
