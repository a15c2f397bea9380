/** The logs and PCR values of one real boot: test/fixtures/boot/README.md. */
import { readFileSync } from "node:fs";
import { join } from "node:path";

const folder = join(import.meta.dirname, "../../fixtures/boot");
const octets = (name: string) => new Uint8Array(readFileSync(join(folder, name)));

export const firmwareLogPath = join(folder, "firmware.bin");
export const firmwareLog = octets("firmware.bin");
export const imaLog = octets("ima.bin");
const values = JSON.parse(readFileSync(join(folder, "pcrs.json"), "utf8")) as Record<string, string>;

/** The value of a PCR after the boot, hex. */
export const pcr = (index: number): string => values[String(index)] ?? "";
export const hex = (bytes: Uint8Array | undefined): string => Buffer.from(bytes ?? []).toString("hex");
