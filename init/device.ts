/** What the control commands do: the handlers of control/ on this device. */

import { createHash } from "node:crypto";
import { readFileSync, statfsSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { freemem, totalmem } from "node:os";
import { join } from "node:path";
import { produceEvidence } from "./attest/evidence.ts";
import type { Running } from "./boot/containers.ts";
import { registeredAnchors } from "./boot/trust.ts";
import type { CborValue } from "./bytes/cbor.ts";
import type { ContainerStatus, ExitReport } from "./container/status.ts";
import type { DeviceHandlers, LogStream, Row, RunRequest, RunSession } from "./control/handlers.ts";
import { GimbalError, quoted } from "./errors.ts";
import type { PowerAction } from "./machine/power.ts";
import { writeFileAtomic } from "./state/file.ts";
import { markProvisioned } from "./tpm/provisioned.ts";
import { parseAnchors } from "./trust/anchors.ts";
import { nameOf } from "./trust/chain.ts";

/** The kernel's lists as they are; both are pseudo files whose size stat does not know. */
const firmwareLog = "/sys/kernel/security/tpm0/binary_bios_measurements";
const imaLog = "/sys/kernel/security/ima/binary_runtime_measurements";
/** The answer must be with the client before the machine begins to go. */
const powerDelayMs = 200;

export class Device implements DeviceHandlers {
  readonly #running: Running;
  readonly #power: (action: PowerAction) => void;
  #provisioned: boolean;

  constructor(running: Running, power: (action: PowerAction) => void) {
    this.#running = running;
    this.#power = power;
    this.#provisioned = running.provisioned;
  }

  get provisioned(): boolean {
    return this.#provisioned;
  }

  async list(): Promise<readonly Row[]> {
    return this.#running.engine.list().map(rowOf);
  }

  async listGuestos(): Promise<readonly Row[]> {
    return (await this.#running.store.list()).map((entry) => {
      if (entry.is === "refused") {
        const name = entry.folder.split("/").at(-1) ?? "";
        return new Map<string, CborValue>([
          ["name", name],
          ["code", entry.error.code],
          ["refused", entry.error.message],
        ]);
      }
      const { name, version, trustLevel, signer, description, hardware, upstreamVersion, buildDate } =
        entry.manifest;
      return new Map<string, CborValue>([
        ["name", name],
        ["version", version],
        ["trust_level", trustLevel],
        ["signer", signer],
        ["hardware", hardware],
        ["description", description],
        ["upstream_version", upstreamVersion],
        ["build_date", buildDate],
      ]);
    });
  }

  async state(container: string): Promise<Row> {
    return rowOf(this.#running.engine.status(container));
  }

  async config(container: string): Promise<CborValue> {
    return this.#running.engine.rawConfig(container);
  }

  async create(config: CborValue): Promise<Row> {
    // Refused now rather than at the first start: most often a mistyped name.
    const wanted = config instanceof Map ? config.get("guest_os") : undefined;
    if (typeof wanted === "string") await this.#running.store.newest(wanted, 0);
    return rowOf(await this.#running.engine.create(config));
  }

  async updateConfig(container: string, config: CborValue): Promise<Row> {
    return rowOf(await this.#running.engine.updateConfig(container, config));
  }

  remove(container: string): Promise<void> {
    return this.#running.engine.remove(container);
  }

  async removeGuestos(name: string): Promise<void> {
    const user = this.#running.engine.list().find((container) => container.guestOs === name);
    if (user) {
      throw new GimbalError("guestos-in-use", {
        tried: "remove",
        on: `the GuestOS ${quoted(name)}`,
        why: `the container ${user.name} uses it`,
        todo: "remove the container first",
      });
    }
    if ((await this.#running.store.remove(name)) > 0) return;
    throw new GimbalError("guestos-unknown", {
      tried: "remove",
      on: `the GuestOS ${quoted(name)}`,
      why: "there is none of that name",
    });
  }

  async start(container: string): Promise<Row> {
    return rowOf(await this.#running.engine.start(container));
  }

  async stop(container: string): Promise<Row> {
    return this.#ended(container, await this.#running.engine.stop(container));
  }

  async kill(container: string): Promise<Row> {
    return this.#ended(container, await this.#running.engine.kill(container));
  }

  async freeze(container: string): Promise<Row> {
    await this.#running.engine.freeze(container);
    return this.state(container);
  }

  async unfreeze(container: string): Promise<Row> {
    await this.#running.engine.unfreeze(container);
    return this.state(container);
  }

  run({ container, argv, env, user, group, directory, terminal }: RunRequest): Promise<RunSession> {
    return this.#running.engine.exec(container, {
      argv,
      env,
      uid: user,
      gid: group,
      ...(directory === undefined ? {} : { directory }),
      ...(terminal ? { terminal } : {}),
    });
  }

  async logs(container: string): Promise<LogStream> {
    const log = this.#running.engine.logs(container);
    return {
      bytes: log.bytes(),
      droppedLines: log.droppedLines,
      follow: (onBytes) => log.follow(onBytes),
    };
  }

  async attest(nonce: Uint8Array): Promise<Row> {
    const { trusted } = this.#running;
    if (!trusted) {
      throw new GimbalError("tpm-absent", { tried: "attest", on: "this device", why: "it has no TPM" });
    }
    const evidence = await produceEvidence(trusted.tpm, {
      nonce,
      readLogs: async () => ({
        firmware: await readFile(firmwareLog).catch(() => new Uint8Array()),
        ima: await readFile(imaLog).catch(() => new Uint8Array()),
        events: await trusted.events.bytes(),
      }),
    });
    return new Map<string, CborValue>([
      ["format", "gimbal-evidence-0"],
      ["nonce", nonce],
      ["evidence", evidence],
    ]);
  }

  async status(): Promise<Row> {
    const { build, secureBoot, volume, warnings, engine } = this.#running;
    return new Map<string, CborValue>([
      ["version", build.version],
      ["release", build.release],
      ["board", build.board],
      ["development", build.development],
      ["provisioned", this.#provisioned],
      ["secure_boot", secureBoot.secureBoot],
      ["lockdown", secureBoot.lockdown],
      ["module_signatures", secureBoot.moduleSignatures],
      ["tpm", this.#running.trusted !== undefined],
      ["disk", volume.how.is],
      ["disk_uuid", volume.uuid],
      ["uptime", Math.floor(Number(readFileSync("/proc/uptime", "utf8").split(" ")[0]))],
      ["containers", engine.list().length],
      ["warnings", [...warnings]],
    ]);
  }

  async deviceStats(): Promise<Row> {
    const { bsize, blocks, bavail } = statfsSync("/data");
    return new Map<string, CborValue>([
      ["disk_total_bytes", bsize * blocks],
      ["disk_free_bytes", bsize * bavail],
      ["memory_total_bytes", totalmem()],
      ["memory_free_bytes", freemem()],
      ["init_memory_bytes", anonymousBytes()],
    ]);
  }

  async getProvisioned(): Promise<boolean> {
    return this.#provisioned;
  }

  async setProvisioned(): Promise<void> {
    const { trusted, audit } = this.#running;
    if (!trusted) {
      throw new GimbalError("tpm-absent", {
        tried: "provision",
        on: "this device",
        why: "it has no TPM to remember it",
      });
    }
    await markProvisioned(trusted.tpm);
    this.#provisioned = true;
    await trusted.events.append({
      pcr: 14,
      type: "device-policy",
      data: new TextEncoder().encode("provisioned"),
    });
    await audit.append("provisioned", null);
  }

  async registerCa(pem: string): Promise<Row> {
    const { audit, anchors, trusted } = this.#running;
    const names: string[] = [];
    for (const certificate of parseAnchors(pem, "the CA")) {
      const digest = createHash("sha256").update(certificate.raw).digest();
      // PEM as we write it, whatever the file looked like.
      await writeFileAtomic(
        join(registeredAnchors, `${digest.toString("hex")}.crt`),
        Buffer.from(certificate.toString()),
        0o600,
      );
      await trusted?.events.append({
        pcr: 14,
        type: "device-policy",
        data: Buffer.concat([Buffer.from("ca-registered\0"), digest]),
      });
      await audit.append(
        "ca-registered",
        new Map<string, CborValue>([
          ["digest", digest],
          ["name", nameOf(certificate)],
        ]),
      );
      names.push(nameOf(certificate));
    }
    return new Map<string, CborValue>([
      ["registered", names],
      ["trusted", anchors().length],
    ]);
  }

  async powerOff(): Promise<void> {
    setTimeout(() => this.#power("poweroff"), powerDelayMs);
  }

  async reboot(): Promise<void> {
    setTimeout(() => this.#power("reboot"), powerDelayMs);
  }

  #ended(container: string, exit: ExitReport): Row {
    return new Map([...rowOf(this.#running.engine.status(container)), ["exit", exit.sentence]]);
  }
}

function rowOf(status: ContainerStatus): Row {
  const row = new Map<string, CborValue>([
    ["uuid", status.uuid],
    ["name", status.name],
    ["state", status.state],
    ["guest_os", status.guestOs],
    ["autostart", status.autostart],
    ["created", status.createdSeconds],
    ["id_base", status.idBase],
  ]);
  if (status.guestOsVersion !== undefined) row.set("version", status.guestOsVersion);
  if (status.trustLevel !== undefined) row.set("trust_level", status.trustLevel);
  if (status.uptimeSeconds !== undefined) row.set("uptime", status.uptimeSeconds);
  if (status.guestSays !== undefined) row.set("guest_says", status.guestSays);
  if (status.lastExit !== undefined) row.set("last_exit", status.lastExit.sentence);
  if (status.missing.length > 0) row.set("missing", [...status.missing]);
  return row;
}

/** Anonymous memory of PID 1: what it really costs, since its program's pages are shared with every other user of the file. */
function anonymousBytes(): number {
  const kilobytes = /^RssAnon:\s+(\d+) kB$/m.exec(readFileSync("/proc/self/status", "utf8"))?.[1];
  return Number(kilobytes ?? 0) * 1024;
}
