/**
 * The container engine: the containers of this device and what can be done to them. One Engine per process.
 * `ref` is a uuid or a name everywhere. Nothing here blocks; every promise settles.
 */
import { constants, openSync } from "node:fs";
import { mkdir, readdir } from "node:fs/promises";
import { join } from "node:path";
import { TypedEmitter } from "tiny-typed-emitter";
import type { CborValue } from "../bytes/cbor.ts";
import { GimbalError, quoted, reasonOf } from "../errors.ts";
import type { Kernel } from "../kernel.ts";
import { raiseOwnLimits } from "./ambient.ts";
import { type ContainerConfig, isUuid, parseConfig } from "./config.ts";
import type { ConsoleAttachment } from "./console.ts";
import { Container } from "./container.ts";
import { type ExecRequest, type ExecSession, openExec } from "./exec.ts";
import { coreSlot, nextSlot } from "./ids.ts";
import { OpenImages } from "./images.ts";
import { keptLogPath } from "./kept-log.ts";
import type { LogView } from "./logs.ts";
import type { EnginePorts } from "./ports.ts";
import { type ContainerRecord, deleteRecord, readRecords, writeRecord } from "./records.ts";
import { Starter } from "./start.ts";
import type { ContainerStatus, EngineEvents, ExitReport } from "./status.ts";
import { deleteTree } from "./volumes.ts";

/** c0, the core container, has this uuid and id slot 0. */
export const coreUuid = "00000000-0000-0000-0000-000000000000";

const defaultLingerMs = 5_000;

/** What the device asks of an engine. */
export interface EngineApi extends AsyncDisposable {
  /** Reads all records, sets aside and reports what does not parse, removes leftovers of cut creates and removes. */
  load(): Promise<readonly ContainerStatus[]>;
  list(): readonly ContainerStatus[];
  /** @throws {GimbalError} "container-unknown" */
  status(ref: string): ContainerStatus;
  config(ref: string): ContainerConfig;
  /** Checks the config and writes its record; `config` is a decoded CBOR map (see parseConfig). */
  create(config: CborValue): Promise<ContainerStatus>;
  /** Makes c0's record where there is none. */
  createCore(config: CborValue): Promise<ContainerStatus>;
  /** Replaces the whole config; takes effect at the next start. */
  updateConfig(ref: string, config: CborValue): Promise<ContainerStatus>;
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

export class Engine extends TypedEmitter<EngineEvents> implements EngineApi {
  readonly #kernel: Kernel;
  readonly #ports: EnginePorts;
  readonly #images: OpenImages;
  readonly #starter: Starter;
  readonly #containers = new Map<string, Container>();
  /** Changes of the set of containers, one after the other: two creates must not take one name or id range. */
  #changes: Promise<unknown> = Promise.resolve();
  #closing = false;

  constructor(kernel: Kernel, ports: EnginePorts) {
    super();
    this.#kernel = kernel;
    this.#ports = ports;
    const { openImage, imageLingerMs = defaultLingerMs } = ports;
    this.#images = new OpenImages(openImage, imageLingerMs, (error) => {
      this.emit("report", { code: "image-not-closed", sentence: reasonOf(error) });
    });
    raiseOwnLimits(kernel); // before the starter looks at what it may give
    this.#starter = new Starter(kernel, ports, this.#images);
  }

  async load(): Promise<readonly ContainerStatus[]> {
    const { state, data, run } = this.#ports.paths;
    await mkdir(data, { recursive: true, mode: 0o700 });
    await mkdir(run, { recursive: true, mode: 0o755 });
    const { records, reports, uuids } = await readRecords(state);
    for (const report of reports) this.emit("report", report);
    for (const record of records) this.#add(record);
    // Data without a record: of a create or a remove that was cut. A record that was set aside keeps its data.
    for (const name of await readdir(data)) {
      if (isUuid(name) && !uuids.has(name)) await this.#deleteData(name);
    }
    return this.list();
  }

  list(): readonly ContainerStatus[] {
    return [...this.#containers.values()].map((container) => container.status());
  }

  status(ref: string): ContainerStatus {
    return this.#find(ref).status();
  }

  config(ref: string): ContainerConfig {
    return this.#find(ref).record.config;
  }

  rawConfig(ref: string): CborValue {
    return this.#find(ref).record.rawConfig;
  }

  create(rawConfig: CborValue): Promise<ContainerStatus> {
    return this.#inTurn(() => {
      const config = parseConfig(rawConfig);
      this.#checkNameIsFree(config.name);
      const slots = [...this.#containers.values()].map((container) => container.record.slot);
      return this.#keep({
        uuid: this.#ports.randomUuid(),
        slot: nextSlot(slots),
        created: Math.floor(this.#ports.nowMs() / 1000),
        rawConfig,
        config,
      });
    });
  }

  async createCore(rawConfig: CborValue): Promise<ContainerStatus> {
    const known = this.#containers.get(coreUuid);
    if (known) return known.status();
    const created = Math.floor(this.#ports.nowMs() / 1000);
    return this.#keep({ uuid: coreUuid, slot: coreSlot, created, rawConfig, config: parseConfig(rawConfig) });
  }

  updateConfig(ref: string, rawConfig: CborValue): Promise<ContainerStatus> {
    return this.#inTurn(async () => {
      const container = this.#find(ref);
      const config = parseConfig(rawConfig);
      if (config.name !== container.record.config.name) this.#checkNameIsFree(config.name);
      const record = { ...container.record, rawConfig, config };
      await writeRecord(this.#ports.paths.state, record);
      container.record = record;
      return container.status();
    });
  }

  remove(ref: string): Promise<void> {
    return this.#inTurn(() => this.#remove(ref));
  }

  async #remove(ref: string): Promise<void> {
    const container = this.#find(ref);
    const { uuid, config } = container.record;
    if (uuid === coreUuid) {
      throw new GimbalError("container-protected", {
        tried: "remove",
        on: quoted(config.name),
        why: "the device is managed from it",
      });
    }
    if (isLive(container)) await container.kill();
    await container.keepLog(); // it must not be written again once it is deleted
    await deleteRecord(this.#ports.paths.state, uuid);
    this.#containers.delete(uuid); // from here on it is a leftover, which the next boot would remove
    await this.#deleteData(uuid);
    this.emit("removed", { uuid, name: config.name });
  }

  async #deleteData(uuid: string): Promise<void> {
    try {
      await deleteTree(join(this.#ports.paths.data, uuid));
    } catch (error) {
      const sentence = `the data of the removed container ${uuid} is still there: ${reasonOf(error)}`;
      this.emit("report", { code: "leftover", uuid, sentence });
    }
  }

  #inTurn<T>(change: () => Promise<T>): Promise<T> {
    const result = this.#changes.then(change);
    this.#changes = result.catch(() => {}); // its caller is told, the next one does not mind
    return result;
  }

  async start(ref: string): Promise<ContainerStatus> {
    const container = this.#find(ref);
    if (this.#closing) {
      throw new GimbalError("container-state", {
        tried: "start",
        on: quoted(container.record.config.name),
        why: "the device is going down",
      });
    }
    await container.start();
    return container.status();
  }

  stop(ref: string, options: { readonly timeoutMs?: number } = {}): Promise<ExitReport> {
    const container = this.#find(ref);
    return container.stop(options.timeoutMs ?? container.record.config.stopTimeoutMs);
  }

  kill(ref: string): Promise<ExitReport> {
    return this.#find(ref).kill();
  }

  freeze(ref: string): Promise<void> {
    return this.#find(ref).freeze();
  }

  unfreeze(ref: string): Promise<void> {
    return this.#find(ref).unfreeze();
  }

  async exec(ref: string, request: ExecRequest): Promise<ExecSession> {
    const container = this.#find(ref);
    const { guest, state } = container;
    if (!guest || state === "FROZEN" || state === "FREEZING" || state === "SHUTTING_DOWN") {
      throw new GimbalError("container-state", {
        tried: "run a command in",
        on: quoted(container.record.config.name),
        why: `it is ${state}`,
        todo: state === "STOPPED" ? "start it first" : "wait until it runs",
      });
    }
    return openExec(this.#kernel, this.#starter.shimFd(), guest, request);
  }

  logs(ref: string): LogView {
    return this.#find(ref).log;
  }

  attachConsole(ref: string, onOutput: (bytes: Uint8Array) => void): ConsoleAttachment {
    return this.#find(ref).console.attach(onOutput);
  }

  /** The network namespace of a running container as a descriptor that the caller owns. */
  openNetns(ref: string): number {
    const { guest, record } = this.#find(ref);
    if (!guest) {
      throw new GimbalError("container-state", {
        tried: "open the network of",
        on: quoted(record.config.name),
        why: "it does not run",
      });
    }
    return openSync(`/proc/${guest.pid}/ns/net`, constants.O_RDONLY);
  }

  async stopAll(): Promise<void> {
    const isCore = (container: Container) => container.record.uuid === coreUuid;
    const stop = async (container: Container) => {
      try {
        if (isLive(container)) await container.stop(container.record.config.stopTimeoutMs);
      } catch (error) {
        const { uuid } = container.record;
        this.emit("report", { code: "container-stop-failed", uuid, sentence: reasonOf(error) });
      }
    };
    const all = [...this.#containers.values()];
    await Promise.all(all.filter((container) => !isCore(container)).map(stop));
    await Promise.all(all.filter(isCore).map(stop));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#closing = true;
    await this.#changes;
    await this.stopAll();
    await Promise.all([...this.#containers.values()].map((container) => container.keepLog()));
    await this.#images[Symbol.asyncDispose]();
    this.#starter[Symbol.dispose]();
  }

  async #keep(record: ContainerRecord): Promise<ContainerStatus> {
    await writeRecord(this.#ports.paths.state, record);
    const status = this.#add(record).status();
    this.emit("created", status);
    return status;
  }

  #add(record: ContainerRecord): Container {
    const { uuid } = record;
    const container = new Container(record, {
      kernel: this.#kernel,
      starter: this.#starter,
      isCore: uuid === coreUuid,
      logPath: keptLogPath(this.#ports.paths.data, uuid),
      nowMs: this.#ports.nowMs,
      onState: (change) => this.emit("state", change),
      onOom: (kills) => this.emit("oom", { uuid, name: container.record.config.name, kills }),
      onReport: (code, sentence) => this.emit("report", { code, uuid, sentence }),
    });
    this.#containers.set(uuid, container);
    return container;
  }

  #find(ref: string): Container {
    const byName = [...this.#containers.values()].find((container) => container.record.config.name === ref);
    const found = this.#containers.get(ref) ?? byName;
    if (found) return found;
    throw new GimbalError("container-unknown", {
      tried: "find",
      on: `the container ${quoted(ref)}`,
      why: "there is none of that name or uuid",
      todo: "see `control list`",
    });
  }

  #checkNameIsFree(name: string): void {
    const taken = [...this.#containers.values()].some((container) => container.record.config.name === name);
    if (!taken) return;
    throw new GimbalError("container-exists", {
      tried: "create",
      on: `the container ${quoted(name)}`,
      why: "there is one of that name",
      todo: "take another name, or remove it first",
    });
  }
}

const isLive = ({ state, guest }: Container): boolean =>
  state === "STARTING" || state === "REBOOTING" || guest !== undefined;
