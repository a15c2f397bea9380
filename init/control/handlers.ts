/** What the server needs of the device; device.ts implements it, tests bring their own. */
import type { CborValue } from "../bytes/cbor.ts";

export type RunRequest = {
  readonly container: string;
  readonly argv: readonly string[];
  readonly env: readonly string[];
  /** Ids in the container. */
  readonly user: number;
  readonly group: number;
  /** In the container; undefined: "/". */
  readonly directory: string | undefined;
  readonly terminal: { readonly rows: number; readonly columns: number } | undefined;
};

/** A command that runs in a container; the engine's ExecSession has this form. Disposing it ends the command. */
export interface RunSession extends AsyncDisposable {
  /** Nothing is read ahead of who takes it. */
  readonly output: AsyncIterable<{ readonly from: "stdout" | "stderr"; readonly bytes: Uint8Array }>;
  /** Awaited before the next call. False when nobody reads any more. */
  write(bytes: Uint8Array): Promise<boolean>;
  endInput(): void;
  resize(size: { readonly rows: number; readonly columns: number }): void;
  signal(signal: number): void;
  readonly ended: Promise<{ readonly status: number; readonly sentence?: string }>;
}

export type LogStream = {
  readonly bytes: Uint8Array;
  readonly droppedLines: number;
  /** Calls back with what comes after `bytes`, until disposed. The octets are only lent. */
  follow(onBytes: (bytes: Uint8Array) => void): Disposable;
};

/** Keys in answers are in snake case, as everywhere outside TypeScript. */
export type Row = ReadonlyMap<string, CborValue>;

export interface DeviceHandlers {
  list(): Promise<readonly Row[]>;
  listGuestos(): Promise<readonly Row[]>;
  state(container: string): Promise<Row>;
  config(container: string): Promise<CborValue>;
  create(config: CborValue): Promise<Row>;
  updateConfig(container: string, config: CborValue): Promise<Row>;
  remove(container: string): Promise<void>;
  removeGuestos(name: string): Promise<void>;
  start(container: string): Promise<Row>;
  stop(container: string): Promise<Row>;
  kill(container: string): Promise<Row>;
  freeze(container: string): Promise<Row>;
  unfreeze(container: string): Promise<Row>;
  run(request: RunRequest): Promise<RunSession>;
  logs(container: string): Promise<LogStream>;
  /** "evidence": its octets. */
  attest(nonce: Uint8Array): Promise<Row>;
  status(): Promise<Row>;
  deviceStats(): Promise<Row>;
  getProvisioned(): Promise<boolean>;
  setProvisioned(): Promise<void>;
  registerCa(pem: string): Promise<Row>;
  /** Resolves when the shutdown has begun. */
  powerOff(): Promise<void>;
  reboot(): Promise<void>;
}

/** Privileged on an unprovisioned device, privileged on a provisioned one, unprivileged: DESIGN section 7. */
export type Level = "P" | "V" | "U";
