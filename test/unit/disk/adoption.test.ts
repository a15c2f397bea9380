import t from "tap";
import { decide, type Situation } from "../../../init/disk/adoption.ts";
import { readLuksHeader } from "../../../init/disk/luks-header.ts";
import type { Probe } from "../../../init/disk/probe.ts";
import { header, metadata } from "./luks-fixture.ts";

function luks2(change: (json: ReturnType<typeof metadata>) => void = () => {}, label?: string): Probe {
  const json = metadata();
  change(json);
  const read = readLuksHeader(header({ json: JSON.stringify(json), ...(label ? { label } : {}) }));
  if (read.is !== "header") throw new Error(read.is);
  return { is: "luks2", header: read.header, octets: new Uint8Array() };
}

const empty: Probe = { is: "empty" };
const unfinished: Probe = { is: "unfinished" };
const foreign: Probe = { is: "foreign", what: "an ext2/3/4 file system" };
const damaged: Probe = { is: "luks2-damaged", why: "its digest does not fit" };
const situation = (probe: Probe, change: Partial<Situation> = {}): Situation => ({
  probe,
  provisioned: false,
  storageKey: "tpm",
  tpm: "present",
  ...change,
});

t.test("nothing but an empty or unfinished partition is ever initialised, and only unprovisioned", (t) => {
  const probes = [empty, unfinished, foreign, damaged, luks2(), luks2(() => {}, "other")];
  let initialised = 0;
  for (const probe of probes)
    for (const provisioned of [false, true])
      for (const storageKey of ["tpm", "recovery-only", "none"] as const)
        for (const tpm of ["present", "absent"] as const) {
          const decision = decide({ probe, provisioned, storageKey, tpm });
          if (decision.is !== "initialise") continue;
          initialised++;
          t.ok((probe === empty || probe === unfinished) && !provisioned);
        }
  t.equal(initialised, 10, "and those are");
  t.end();
});

t.test("each refusal has its code and names what is there", (t) => {
  const cases: [Situation, string, RegExp][] = [
    [situation(empty, { provisioned: true }), "disk-emptied", /was provisioned, but the partition is empty/],
    [situation(unfinished, { provisioned: true }), "disk-emptied", /never completed/],
    [situation(empty, { tpm: "absent" }), "tpm-absent", /there is none/],
    [situation(foreign), "disk-foreign", /ext2\/3\/4/],
    [situation(foreign, { provisioned: true }), "disk-foreign", /ext2\/3\/4/],
    [situation(damaged), "luks-header-damaged", /digest/],
    [situation(luks2(() => {}, "backup")), "luks-header-foreign", /not labelled/],
    [
      situation(
        luks2((json) => (json.tokens["0"] = { type: "gimbal-clear", keyslots: ["0"], key: "ab".repeat(32) })),
      ),
      "luks-header-foreign",
      /beside the lock/,
    ],
  ];
  for (const [given, code, why] of cases) t.match(decide(given), { is: "refuse", code, why, todo: /./ });
  t.end();
});

t.test("our volume is unsealed, or the recovery key is asked for with the reason", (t) => {
  t.match(decide(situation(luks2())), { is: "unseal", tokens: [{ slot: 0 }] });
  t.match(decide(situation(luks2(), { provisioned: true })), { is: "unseal" });
  t.match(decide(situation(luks2(), { tpm: "absent" })), { is: "ask-recovery", why: /no TPM/ });
  t.match(decide(situation(luks2(), { storageKey: "recovery-only" })), {
    is: "ask-recovery",
    why: /operator/,
  });
  const none = luks2((json) => {
    delete json.tokens["0"];
  });
  t.match(decide(situation(none)), { is: "ask-recovery", why: /no key is sealed/ });
  const bad = luks2((json) => (json.tokens["0"] = { type: "gimbal-tpm2", keyslots: ["0"], blob: "rubbish" }));
  t.match(decide(situation(bad)), { is: "ask-recovery", why: /token of key slot 0 is damaged/ });
  t.end();
});

t.test("a board without a storage key opens with the clear token", (t) => {
  const clear = luks2(
    (json) => (json.tokens["0"] = { type: "gimbal-clear", keyslots: ["0"], key: "ab".repeat(32) }),
  );
  t.match(decide(situation(clear, { storageKey: "none" })), { is: "open-clear", token: { slot: 0 } });
  t.match(decide(situation(luks2(), { storageKey: "none" })), { is: "ask-recovery" });
  t.end();
});
