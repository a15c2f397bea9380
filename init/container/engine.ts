/**
 * The container engine: the containers of this device and what can be done to them. One Engine per process.
 * `ref` is a uuid or a name everywhere. Nothing here blocks; every promise settles.
 */
import type { ContainerConfig } from "./config.ts";
import type { ConsoleAttachment } from "./console.ts";
import type { ExecRequest, ExecSession } from "./exec.ts";
import type { LogView } from "./logs.ts";
import type { ContainerStatus, ExitReport } from "./status.ts";

/** c0, the core container, has this uuid and id slot 0. */
export const coreUuid = "00000000-0000-0000-0000-000000000000";

/** What `class Engine extends TypedEmitter<EngineEvents>` does; `new Engine(kernel, ports: EnginePorts)`. */
export interface EngineApi extends AsyncDisposable {
  /** Reads all records, sets aside and reports what does not parse, removes leftovers of cut creates and removes. */
  load(): Promise<readonly ContainerStatus[]>;
  list(): readonly ContainerStatus[];
  /** @throws {GimbalError} "container-unknown" */
  status(ref: string): ContainerStatus;
  config(ref: string): ContainerConfig;
  /** Checks the config and writes its record; `config` is a decoded CBOR map (see parseConfig). */
  create(config: unknown): Promise<ContainerStatus>;
  /** Makes c0's record, or takes the new config for it. */
  createCore(config: unknown): Promise<ContainerStatus>;
  /** Replaces the whole config; takes effect at the next start. */
  updateConfig(ref: string, config: unknown): Promise<ContainerStatus>;
  /** Kills it if it runs, forgets it, deletes its data. Works with a full disk. c0 is refused. */
  remove(ref: string): Promise<void>;
  /** Resolves when the guest's init was exec'd (state BOOTING or RUNNING); rejects when the start was undone. */
  start(ref: string): Promise<ContainerStatus>;
  /** Asks, then kills after the config's timeout. Resolves when the state is STOPPED. Any live state will do. */
  stop(ref: string, options?: { readonly timeoutMs?: number }): Promise<ExitReport>;
  kill(ref: string): Promise<ExitReport>;
  freeze(ref: string): Promise<void>;
  unfreeze(ref: string): Promise<void>;
  exec(ref: string, request: ExecRequest): Promise<ExecSession>;
  /** The console log, with a way to follow it. */
  logs(ref: string): LogView;
  /** Output from now on and a way to type; several may be attached, and it lasts over stops and starts. */
  attachConsole(ref: string, onOutput: (bytes: Uint8Array) => void): ConsoleAttachment;
  /** Stops all but c0 at once, then c0. Used at shutdown. */
  stopAll(): Promise<void>;
}
