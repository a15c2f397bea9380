/**
 * The adoption rule, DESIGN section 4, as one pure function: a disk that is not ours is never formatted, encrypted or
 * mounted by itself. Only an unprovisioned device initialises, and only a partition that is empty (or that its own initialisation
 * left unfinished). Everything else is opened with our own key, or refused by name.
 */
import type { ErrorCode } from "../errors.ts";
import { checkLuksHeader, type LuksCheck, type SealedToken } from "./luks-check.ts";
import type { LuksHeader } from "./luks-header.ts";
import type { Probe } from "./probe.ts";

/** How a board keeps the disk key: in its TPM, only in the operator's hands, or (with a warning) beside the lock. */
export type StorageKey = "tpm" | "recovery-only" | "none";

export type Situation = {
  readonly probe: Probe;
  /** The device was handed over to its owner: from then on nothing is ever initialised. */
  readonly provisioned: boolean;
  readonly storageKey: StorageKey;
  readonly tpm: "present" | "absent";
};

type OurHeader = {
  readonly header: LuksHeader;
  readonly octets: Uint8Array;
  readonly check: Extract<LuksCheck, { is: "ours" }>;
};

export type Decision =
  | { readonly is: "initialise"; readonly why: "empty" | "unfinished" }
  | ({
      readonly is: "unseal";
      readonly tokens: readonly Extract<SealedToken, { is: "sealed" }>[];
    } & OurHeader)
  | ({ readonly is: "open-clear"; readonly token: Extract<SealedToken, { is: "clear" }> } & OurHeader)
  | ({ readonly is: "ask-recovery"; readonly why: string } & OurHeader)
  | Refusal;

export type Refusal = {
  readonly is: "refuse";
  readonly code: ErrorCode;
  readonly why: string;
  readonly todo: string;
};

/** What to do with the data partition. */
export function decide(situation: Situation): Decision {
  const { probe } = situation;
  switch (probe.is) {
    case "empty":
    case "unfinished":
      return decideFresh(situation, probe.is);
    case "luks2":
      return decideLuks(situation, probe);
    case "luks2-damaged":
      return {
        is: "refuse",
        code: "luks-header-damaged",
        why: `both copies of its LUKS2 header are damaged (${probe.why})`,
        todo: "restore a backup of the header; wipe the partition yourself if its content may go",
      };
    case "foreign":
      return {
        is: "refuse",
        code: "disk-foreign",
        why: `it holds ${probe.what}, which gimbal did not make`,
        todo: "put the right disk back; wipe the partition yourself if its content may go",
      };
    default:
      return probe satisfies never;
  }
}

function decideFresh(situation: Situation, why: "empty" | "unfinished"): Decision {
  if (situation.provisioned)
    return {
      is: "refuse",
      code: "disk-emptied",
      why: `this device was provisioned, but ${why === "empty" ? "the partition is empty" : "the partition was never completed"}`,
      todo: "put the right disk back, or reset the device to unprovisioned",
    };
  if (situation.storageKey === "tpm" && situation.tpm === "absent")
    return {
      is: "refuse",
      code: "tpm-absent",
      why: "the board keeps its disk key in a TPM, and there is none",
      todo: "check that the firmware shows a TPM 2.0, or build for a board without one",
    };
  return { is: "initialise", why };
}

function decideLuks(situation: Situation, { header, octets }: Extract<Probe, { is: "luks2" }>): Decision {
  const check = checkLuksHeader(header);
  if (check.is === "foreign")
    return {
      is: "refuse",
      code: "luks-header-foreign",
      why: check.why,
      todo: "put the right disk back; wipe the partition yourself if its content may go",
    };
  const ours: OurHeader = { header, octets, check };
  const ask = (why: string): Decision => ({ is: "ask-recovery", why, ...ours });
  const clear = check.tokens.find((token) => token.is === "clear");
  if (clear && situation.storageKey !== "none")
    return {
      is: "refuse",
      code: "luks-header-foreign",
      why: "its key lies beside the lock, which this board does not allow",
      todo: "put the right disk back",
    };
  switch (situation.storageKey) {
    case "recovery-only":
      return ask("this board keeps its disk key nowhere but with its operator");
    case "none":
      return clear ? { is: "open-clear", token: clear, ...ours } : ask("the volume has no key on the disk");
    case "tpm": {
      if (situation.tpm === "absent") return ask("there is no TPM");
      const tokens = check.tokens.filter((token) => token.is === "sealed");
      if (tokens.length > 0) return { is: "unseal", tokens, ...ours };
      const damaged = check.tokens.find((token) => token.is === "damaged");
      return ask(
        damaged
          ? `the token of key slot ${damaged.slot} is damaged (${damaged.why})`
          : "no key is sealed to a TPM",
      );
    }
    default:
      return situation.storageKey satisfies never;
  }
}
