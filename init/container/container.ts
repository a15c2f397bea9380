/** One container: its record, its console, its state and what moves it. The engine owns these. */
import { GimbalError, quoted, reasonOf } from "../errors.ts";
import type { Kernel } from "../kernel.ts";
import { Console } from "./console.ts";
import { actsOn, exitReport, type Guest, SIGHALT, SIGTERM, signalGuest } from "./guest.ts";
import { idBaseOf } from "./ids.ts";
import { readKeptLog, writeKeptLog } from "./kept-log.ts";
import { type After, guestOf, move, type State, type Thawed } from "./life.ts";
import { ConsoleLog } from "./logs.ts";
import type { ContainerRecord } from "./records.ts";
import type { Starter } from "./start.ts";
import type { ContainerStatus, ExitReport, StateChange } from "./status.ts";

export type ContainerPorts = {
  readonly kernel: Kernel;
  readonly starter: Starter;
  readonly isCore: boolean;
  /** Where its console log is kept over boots. */
  readonly logPath: string;
  readonly nowMs: () => number;
  readonly onState: (change: StateChange) => void;
  readonly onOom: (kills: number) => void;
  readonly onReport: (code: string, sentence: string) => void;
};

const freezeMs = 5_000;
/** An init that has just been started gets this long to say that it takes the stop signal. */
const handlerMs = 1_000;
const handlerPollMs = 50;
/** A guest that reboots faster than this is given a rest, so that it does not eat the machine. */
const shortLifeMs = 2_000;

export class Container {
  record: ContainerRecord;
  readonly console: Console;
  readonly #ports: ContainerPorts;
  #keptVersion = 0;
  #keeping: Promise<void> = Promise.resolve();
  #state: State<Guest> = { is: "STOPPED", lastExit: undefined };
  #lastExit: ExitReport | undefined;
  #guestSays: string | undefined;
  #takesHaltSignal = false;
  #endedBy: string | undefined;
  /** Settles when the present guest is gone and undone. */
  #ended: Promise<ExitReport> | undefined;

  constructor(record: ContainerRecord, ports: ContainerPorts) {
    this.record = record;
    this.#ports = ports;
    this.console = new Console(ports.kernel, new ConsoleLog(record.config.logMb * 2 ** 20));
  }

  get state(): State<Guest>["is"] {
    return this.#state.is;
  }

  get guest(): Guest | undefined {
    return guestOf(this.#state);
  }

  status(): ContainerStatus {
    const { uuid, config, created, slot } = this.record;
    const guest = this.guest;
    return {
      uuid,
      name: config.name,
      state: this.#state.is,
      guestOs: config.guestOs,
      guestOsVersion: guest?.guestOs.manifest.version,
      trustLevel: guest?.guestOs.trustLevel,
      autostart: config.autostart,
      createdSeconds: created,
      uptimeSeconds: guest && Math.floor((this.#ports.nowMs() - guest.startedMs) / 1000),
      initPid: guest?.pid,
      idBase: idBaseOf(slot),
      guestSays: this.#guestSays,
      lastExit: this.#lastExit,
      missing: guest?.missing ?? [],
    };
  }

  /** Of this boot and, before its first start, of the one before. */
  get log(): ConsoleLog {
    const { log } = this.console;
    if (log.version === 0 && log.lengthBytes === 0)
      log.restore(readKeptLog(this.#ports.logPath, log.maxBytes));
    return log;
  }

  /** Settles when what the console said until now is on the disk, or was reported as not kept. */
  keepLog(): Promise<void> {
    this.#keeping = this.#keeping.then(async () => {
      const { log } = this.console;
      const { version } = log;
      if (version === this.#keptVersion) return;
      try {
        await writeKeptLog(this.#ports.logPath, log);
        this.#keptVersion = version;
      } catch (error) {
        this.#ports.onReport(
          "log-not-kept",
          `the console log of ${this.record.config.name}: ${reasonOf(error)}`,
        );
      }
    });
    return this.#keeping;
  }

  async start(): Promise<void> {
    const before = this.#state;
    if (before.is !== "STOPPED" && before.is !== "REBOOTING") throw this.#wrongState("start");
    const abort = new AbortController();
    const ended = Promise.withResolvers<void>();
    const starting: State<Guest> & { is: "STARTING" } = { is: "STARTING", abort, ended: ended.promise };
    this.#guestSays = undefined;
    this.#takesHaltSignal = false;
    this.#endedBy = undefined;
    this.#change(
      before.is === "STOPPED"
        ? move<Guest, typeof before>(before, starting)
        : move<Guest, typeof before>(before, starting),
    );
    try {
      void this.log; // what was kept comes before what this guest says
      const guest = await this.#ports.starter.start({
        record: this.record,
        isCore: this.#ports.isCore,
        console: this.console,
        signal: abort.signal,
      });
      this.#begin(starting, guest);
    } catch (error) {
      const sentence = reasonOf(error);
      this.#lastExit = { why: "start-failed", status: 1, sentence, atMs: this.#ports.nowMs() };
      this.#change(
        move<Guest, typeof starting>(starting, { is: "STOPPED", lastExit: this.#lastExit }),
        this.#lastExit,
      );
      throw error;
    } finally {
      ended.resolve();
    }
  }

  /** Asks, then kills after `timeoutMs`. */
  async stop(timeoutMs: number): Promise<ExitReport> {
    const state = this.#state;
    if (state.is === "STARTING") {
      state.abort.abort();
      await state.ended;
      return this.#exitOrThrow();
    }
    if (state.is === "REBOOTING") return this.#stayDown(state);
    const guest = guestOf(state);
    const ended = this.#ended;
    if (!guest || !ended) throw this.#wrongState("stop");
    if (state.is === "FREEZING" || state.is === "FROZEN") await this.unfreeze();
    this.#shuttingDown(guest);
    const signal = await this.#stopSignal(guest, ended, Math.min(timeoutMs, handlerMs));
    // Nobody would hear it: waiting for the time limit would be in vain.
    if (signal === undefined) {
      this.#endedBy ??= "its init takes no signal to stop, so it was killed";
      return this.kill();
    }
    signalGuest(this.#ports.kernel, guest, signal);
    if (await settles(ended, timeoutMs)) return ended;
    this.#endedBy ??= `it did not end within ${timeoutMs / 1000} s of being asked, and was killed`;
    guest.cgroup.kill();
    return ended;
  }

  async kill(): Promise<ExitReport> {
    const state = this.#state;
    if (state.is === "STARTING" || state.is === "REBOOTING") return this.stop(0);
    const guest = guestOf(state);
    const ended = this.#ended;
    if (!guest || !ended) throw this.#wrongState("kill");
    this.#endedBy ??= "it was killed";
    guest.cgroup.kill();
    return ended;
  }

  async freeze(): Promise<void> {
    const state = this.#state;
    if (state.is !== "RUNNING" && state.is !== "BOOTING" && state.is !== "SETUP")
      throw this.#wrongState("freeze");
    const freezing = { is: "FREEZING", guest: state.guest, before: state.is } as const;
    this.#change(freezing);
    const frozen = await state.guest.cgroup.freeze(freezeMs);
    if (this.#state !== freezing) return; // it ended meanwhile
    this.#change(
      frozen ? move<Guest, typeof freezing>(freezing, { ...freezing, is: "FROZEN" }) : thawed(freezing),
    );
    if (!frozen) {
      throw new GimbalError("container-state", {
        tried: "freeze",
        on: quoted(this.record.config.name),
        why: `a process of it did not stop within ${freezeMs / 1000} s`,
      });
    }
  }

  async unfreeze(): Promise<void> {
    const state = this.#state;
    if (state.is !== "FROZEN" && state.is !== "FREEZING") throw this.#wrongState("unfreeze");
    await state.guest.cgroup.thaw();
    if (this.#state === state) this.#change(thawed(state));
  }

  #begin(starting: State<Guest> & { is: "STARTING" }, guest: Guest): void {
    const is = guest.settings.notify ? "BOOTING" : "RUNNING";
    this.#change(
      is === "BOOTING"
        ? move<Guest, typeof starting>(starting, { is, guest })
        : move<Guest, typeof starting>(starting, { is, guest }),
    );
    guest.onNotice((notice) => {
      if (notice.status !== undefined) this.#guestSays = notice.status;
      if (notice.takesHaltSignal) this.#takesHaltSignal = true;
      const state = this.#state;
      if (notice.ready && state.is === "BOOTING" && state.guest === guest) {
        this.#change(move<Guest, typeof state>(state, { is: "RUNNING", guest }));
      }
    });
    let killed = 0;
    const watching = guest.cgroup.watchOom(() => {
      killed = this.#tellOom(guest, killed);
    });
    this.#ended = this.#end(guest, () => {
      watching[Symbol.dispose]();
      this.#tellOom(guest, killed);
    });
    this.#ended.catch((error: unknown) => this.#ports.onReport("container-undo-failed", reasonOf(error)));
  }

  /** Tells of kills by the container's own limit that were not told yet; a guest's own limits inside are its matter. */
  #tellOom(guest: Guest, told: number): number {
    const { ownLimit } = guest.cgroup.oomKills();
    if (ownLimit > told) this.#ports.onOom(ownLimit - told);
    return Math.max(ownLimit, told);
  }

  /** From the exit of init to the last thing undone. */
  async #end(guest: Guest, beforeUndo: () => void): Promise<ExitReport> {
    const status = await guest.exited;
    beforeUndo();
    const { ownLimit } = guest.cgroup.oomKills();
    const report = exitReport(status, ownLimit, this.#endedBy, this.#ports.nowMs());
    this.#lastExit = report;
    const asked = this.#state.is === "SHUTTING_DOWN";
    this.#shuttingDown(guest); // it is no longer there to run a command in
    try {
      await guest[Symbol.asyncDispose]();
    } catch (error) {
      this.#change({ is: "ZOMBIE", why: reasonOf(error) }, report);
      throw error;
    }
    void this.keepLog();
    if (report.why !== "reboot" || asked) {
      this.#change({ is: "STOPPED", lastExit: report }, report);
      return report;
    }
    this.#change({ is: "REBOOTING", lastExit: report }, report);
    const livedMs = report.atMs - guest.startedMs;
    setTimeout(() => void this.#restart(), livedMs < shortLifeMs ? shortLifeMs : 0);
    return report;
  }

  /** A stop between two lives: the pending start finds another state and does nothing. */
  #stayDown(state: State<Guest> & { is: "REBOOTING" }): ExitReport {
    this.#change(move<Guest, typeof state>(state, { is: "STOPPED", lastExit: state.lastExit }));
    return state.lastExit;
  }

  async #restart(): Promise<void> {
    if (this.#state.is !== "REBOOTING") return;
    try {
      await this.start();
    } catch (error) {
      this.#ports.onReport("container-restart-failed", reasonOf(error));
    }
  }

  #shuttingDown(guest: Guest): void {
    const state = this.#state;
    if (guestOf(state) === guest && state.is !== "SHUTTING_DOWN")
      this.#change({ is: "SHUTTING_DOWN", guest });
  }

  /**
   * systemd's container interface for an own init, SIGTERM for a service, or what the manifest says; undefined where
   * init does not take it within `waitMs`.
   */
  async #stopSignal(guest: Guest, ended: Promise<unknown>, waitMs: number): Promise<number | undefined> {
    const { profile, stopSignal } = guest.settings;
    const tried =
      stopSignal !== undefined ? [stopSignal] : profile === "full-os" ? [SIGHALT, SIGTERM] : [SIGTERM];
    for (let waited = 0; ; waited += handlerPollMs) {
      if (this.#takesHaltSignal && tried.includes(SIGHALT)) return SIGHALT;
      const heard = tried.find((signal) => actsOn(guest.pid, signal));
      if (heard !== undefined || waited >= waitMs) return heard;
      if (await settles(ended, handlerPollMs)) return undefined;
    }
  }

  #change(to: State<Guest>, exit?: ExitReport): void {
    const from = this.#state.is;
    this.#state = to;
    const { uuid, config } = this.record;
    this.#ports.onState({
      uuid,
      name: config.name,
      from,
      to: to.is,
      atMs: this.#ports.nowMs(),
      ...(exit === undefined ? {} : { exit }),
    });
  }

  #exitOrThrow(): ExitReport {
    if (this.#lastExit) return this.#lastExit;
    throw this.#wrongState("stop");
  }

  #wrongState(tried: string): GimbalError {
    return new GimbalError("container-state", {
      tried,
      on: quoted(this.record.config.name),
      why: `it is ${this.#state.is}`,
    });
  }
}

function thawed(state: State<Guest> & { is: "FREEZING" | "FROZEN" }): After<Guest, typeof state> {
  const is: Thawed = state.before;
  return { is, guest: state.guest };
}

/** True where `work` settles within the time. */
async function settles(work: Promise<unknown>, timeoutMs: number): Promise<boolean> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<false>((resolve) => {
    timer = setTimeout(() => resolve(false), timeoutMs);
  });
  const done = work.then(
    () => true as const,
    () => true as const,
  );
  return Promise.race([done, late]).finally(() => clearTimeout(timer));
}
