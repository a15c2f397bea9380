/**
 * What the engine needs from the floors below and from the device, handed in so that a test can replace each:
 * the store of verified GuestOSes, the opener of images, the measurement, and where things lie.
 */

/** What the engine reads of a manifest; init/guestos/manifest.ts's Manifest has these fields and more. */
export type ManifestView = {
  readonly name: string;
  readonly version: number;
  readonly mounts: readonly MountView[];
  readonly initPath: string;
  readonly initParam: readonly string[];
  readonly initEnv: readonly string[];
  /** "service": one program; "full-os": an own init that mounts and delegates (systemd). */
  readonly profile: "service" | "full-os";
  /** The init says READY=1 through NOTIFY_SOCKET. */
  readonly notify: boolean;
  /** Needs programs with setuid or file capabilities: no_new_privs stays off. */
  readonly setuid: boolean;
  /** In MB of 2^20 octets; undefined: the engine's default. */
  readonly defaultMemoryMb: number | undefined;
  readonly minimumMemoryMb: number | undefined;
  /** "SIGTERM", "SIGRTMIN+3"; undefined: what the profile's inits understand. */
  readonly stopSignal?: string | undefined;
  /** Of the tmpfs over a SHARED_RW root, in MB of 2^20 octets; undefined: half the memory limit. */
  readonly tmpfsMb?: number | undefined;
  /** Beyond the profile's. */
  readonly capabilities: readonly string[];
  /** "c 10:200 rw" */
  readonly devices: readonly string[];
};

export type MountView = {
  readonly imageFile: string;
  readonly mountPoint: string;
  readonly fsType: string;
  readonly mountType: string;
  /** Of a tmpfs or volume, in MB of 2^20 octets. */
  readonly defaultSizeMb: number | undefined;
};

/** A GuestOS whose signature, chain, role, hardware and version floor were checked just now. */
export type VerifiedGuestOs = {
  readonly manifest: ManifestView;
  /** SHA-256 of the manifest.cose octets: what PCR 13 gets. */
  readonly manifestDigest: Uint8Array;
  /** Where its images lie: /data/guestos/<name>-<version>. */
  readonly directory: string;
  readonly trustLevel: "SIGNED" | "LOCALLY_SIGNED";
};

export interface GuestOsSource {
  /**
   * Verifies the newest complete version of `name` that is at least `minimumVersion`, anew at each call.
   * @throws {GimbalError} the store's own refusals: the start ends with them
   */
  verify(name: string, minimumVersion: number): Promise<VerifiedGuestOs>;
}

/** An image that can be mounted as often as wanted; who holds it owns loop and device-mapper devices. */
export type OpenImage = AsyncDisposable & {
  /** A fresh detached mount of the image, read-only; the caller owns the descriptor. */
  newMount(): number;
};

/** Opens one image of a GuestOS: dm-verity on the device, a plain loop mount only in tests. */
export type ImageOpener = (guestOs: VerifiedGuestOs, mount: MountView) => Promise<OpenImage>;

/** One event of PCR 13 (DESIGN section 1), made before the guest's first instruction. */
export type StartMeasurement = {
  readonly containerUuid: string;
  readonly guestOs: string;
  readonly version: number;
  readonly manifestDigest: Uint8Array;
};

/** Extends PCR 13 and logs. When it throws, the start is undone: no measurement, no start. */
export type Measure = (event: StartMeasurement) => Promise<void>;

export type Paths = {
  /** Records: <uuid>.cbor. */
  readonly state: string;
  /** Data: <uuid>/volumes/<name>, <uuid>/console.log. */
  readonly data: string;
  /** In a tmpfs of PID 1: <uuid>/ is what a guest sees at /run/host. */
  readonly run: string;
  /** The cgroup2 directory that holds the containers, made by prepareCgroups(). */
  readonly cgroup: string;
  /** Holds the empty directories l, u and root. */
  readonly staging: string;
  /** The program that carries out a plan in the new process. */
  readonly shim: string;
};

/** A file or directory of the root namespace that a container sees, read-only: c0's control socket and client. */
export type HostBind = {
  readonly source: string;
  /** In the guest; below /run it is made, anywhere else it must exist in the image. */
  readonly target: string;
  readonly kind: "file" | "directory";
  /** Programs in it may be run. */
  readonly executable?: boolean;
};

export interface EnginePorts {
  readonly guestOses: GuestOsSource;
  readonly openImage: ImageOpener;
  /** How long an image stays open after its last user; default 5 s. */
  readonly imageLingerMs?: number;
  readonly measure: Measure;
  readonly paths: Paths;
  /** Only c0 gets these. */
  readonly coreBinds: readonly HostBind[];
  /**
   * Runs while the first process of a start waits, before anything of the guest: gives it its network. The start fails
   * with what this throws.
   */
  readonly beforeRelease?: (start: {
    readonly uuid: string;
    readonly name: string;
    readonly isCore: boolean;
    /** In /proc: its network namespace is /proc/<pid>/ns/net. */
    readonly pid: number;
  }) => void | Promise<void>;
  /** Which limits this machine can keep; see prepareCgroups(). On the device a missing one refuses every start. */
  readonly controllers: ReadonlySet<string>;
  /** Where the host has no such controller: refuse (the device) or go on without (a test). */
  readonly missingControllers: "refuse" | "ignore";
  /** Memory of the machine in octets. */
  readonly memoryBytes: number;
  readonly nowMs: () => number;
  readonly randomUuid: () => string;
}
