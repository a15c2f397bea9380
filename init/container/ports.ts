/**
 * What the engine needs from the floors below and from the device, handed in so that a test can replace each:
 * the store of verified GuestOSes, the opener of images, the measurement, and where things lie.
 */
import type { Manifest, ManifestMount } from "../guestos/manifest.ts";

/** A GuestOS whose signature, chain, role, hardware and version floor were checked just now. */
export type VerifiedGuestOs = {
  readonly manifest: Manifest;
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
export type ImageOpener = (guestOs: VerifiedGuestOs, mount: ManifestMount) => Promise<OpenImage>;

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
  /** A tmpfs of PID 1: <uuid>/host/ is what a guest sees at /run/host. */
  readonly run: string;
  /** The cgroup2 directory that holds the containers, made by prepareCgroups(). */
  readonly cgroup: string;
  /** Holds the empty directories l, u and root. */
  readonly staging: string;
};

/** A file or directory of the root namespace that a container sees, read-only: c0's control socket and client. */
export type HostBind = {
  readonly source: string;
  /** In the guest; below /run it is made, anywhere else it must exist in the image. */
  readonly target: string;
  readonly kind: "file" | "directory";
};

export interface EnginePorts {
  readonly guestOses: GuestOsSource;
  readonly openImage: ImageOpener;
  readonly measure: Measure;
  readonly paths: Paths;
  /** Only c0 gets these. */
  readonly coreBinds: readonly HostBind[];
  /** Which limits this machine can keep; see probeCgroups(). On the device a missing one refuses every start. */
  readonly controllers: ReadonlySet<string>;
  /** Where the host has no such controller: refuse (the device) or go on without (a test). */
  readonly missingControllers: "refuse" | "ignore";
  /** Memory of the machine in bytes, for the default limit. */
  readonly memoryBytes: number;
  readonly nowMs: () => number;
  readonly randomUuid: () => string;
}
