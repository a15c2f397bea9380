/** LUKS2 headers made by hand after the on-disk format's specification: any JSON, with the right digest over it. */
import { createHash } from "node:crypto";

export const copyBytes = 0x4000;
const keyslotsBytes = 2 * 1024 * 1024;

export type HeaderShape = {
  readonly label?: string;
  readonly subsystem?: string;
  readonly json?: string;
  readonly version?: number;
  readonly sequence?: bigint;
};

const slot = (id: number) => ({
  type: "luks2",
  key_size: 64,
  af: { type: "luks1", stripes: 4000, hash: "sha256" },
  area: {
    type: "raw",
    offset: String(32768 + id * 258048),
    size: "258048",
    encryption: "aes-xts-plain64",
    key_size: 64,
  },
  kdf: { type: "pbkdf2", hash: "sha256", iterations: 1000, salt: "c2FsdA==" },
});

export const blob = {
  version: 1,
  public: "cHVibGlj",
  private: "cHJpdmF0ZQ==",
  parentName: `000b${"ab".repeat(32)}`,
  parentType: "ecc",
  releaseKey: "a2V5",
  bank: "sha256",
  pcrs: { "7": "00".repeat(32) },
};

/** What gimbal writes; a test changes it. */
export const metadata = () => ({
  keyslots: { "0": slot(0), "1": slot(1) } as Record<string, ReturnType<typeof slot>>,
  tokens: {
    "0": { type: "gimbal-tpm2", keyslots: ["0"], blob },
    "1": { type: "gimbal-recovery", keyslots: ["1"] },
  } as Record<string, { type: string; keyslots: string[]; [field: string]: unknown }>,
  segments: {
    "0": {
      type: "crypt",
      offset: "3145728",
      size: "dynamic",
      iv_tweak: "0",
      encryption: "aes-xts-plain64",
      sector_size: 4096,
    },
  } as Record<string, Record<string, unknown>>,
  digests: {
    "0": {
      type: "pbkdf2",
      keyslots: ["0", "1"],
      segments: ["0"],
      hash: "sha256",
      iterations: 1000,
      salt: "c2FsdA==",
      digest: "ZGlnZXN0",
    },
  } as Record<string, Record<string, unknown>>,
  config: { json_size: "12288", keyslots_size: String(keyslotsBytes) } as Record<string, unknown>,
});

export { slot };

/** One copy of the header, as it lies at `offset`. */
export function headerCopy(offset: number, shape: HeaderShape = {}): Uint8Array {
  const octets = new Uint8Array(copyBytes);
  const view = new DataView(octets.buffer);
  const put = (at: number, text: string) => octets.set(Buffer.from(text, "latin1"), at);
  put(0, offset === 0 ? "LUKS\xba\xbe" : "SKUL\xba\xbe");
  view.setUint16(6, shape.version ?? 2);
  view.setBigUint64(8, BigInt(copyBytes));
  view.setBigUint64(16, shape.sequence ?? 5n);
  put(24, shape.label ?? "gimbal-data");
  put(72, "sha256");
  put(168, "11111111-2222-3333-4444-555555555555");
  put(208, shape.subsystem ?? "gimbal");
  view.setBigUint64(256, BigInt(offset));
  octets.set(Buffer.from(shape.json ?? JSON.stringify(metadata()), "latin1"), 4096);
  octets.set(createHash("sha256").update(octets).digest(), 448);
  return octets;
}

/** The start of a device with both copies. */
export function header(shape: HeaderShape = {}): Uint8Array {
  const octets = new Uint8Array(4 * 1024 * 1024);
  octets.set(headerCopy(0, shape), 0);
  octets.set(headerCopy(copyBytes, shape), copyBytes);
  return octets;
}
