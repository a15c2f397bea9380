import t from "tap";
import { checkLuksHeader } from "../../../init/disk/luks-check.ts";
import { readLuksHeader } from "../../../init/disk/luks-header.ts";
import { copyBytes, header, headerCopy, metadata, slot } from "./luks-fixture.ts";

t.test("every flipped bit of the first copy is noticed, and the second copy is used", (t) => {
  const whole = header();
  t.match(readLuksHeader(whole), { is: "header", header: { copies: "both" } });
  for (let at = 0; at < 8192; at += 7) {
    const bad = header();
    bad[at] = (bad[at] ?? 0) ^ 1;
    const read = readLuksHeader(bad);
    if (read.is !== "header" || read.header.copies !== "secondary-only") t.fail(`octet ${at}: ${read.is}`);
  }
  t.pass("all octets tried");
  t.end();
});

t.test("a damaged second copy is noticed", (t) => {
  const bad = header();
  bad[copyBytes + 5000] = 0xff;
  t.match(readLuksHeader(bad), { is: "header", header: { copies: "primary-only" } });
  const old = header();
  old.set(headerCopy(copyBytes, { sequence: 4n }), copyBytes);
  t.match(readLuksHeader(old), { is: "header", header: { copies: "primary-only" } });
  t.end();
});

t.test("two damaged copies are damage, never emptiness", (t) => {
  const bad = header();
  bad[100] = 1;
  bad[copyBytes + 100] = 1;
  t.match(readLuksHeader(bad), { is: "damaged" });
  bad.fill(0, 0, 4096);
  t.match(readLuksHeader(bad), { is: "damaged" });
  t.end();
});

t.test("hostile headers are refused without an exception", (t) => {
  const shapes: [string, (octets: Uint8Array, view: DataView) => void][] = [
    ["a size of 2^63", (_, view) => view.setBigUint64(8, 1n << 63n)],
    ["a size of 0", (_, view) => view.setBigUint64(8, 0n)],
    ["an unknown digest", (octets) => octets.set(Buffer.from("md5\0\0\0"), 72)],
    ["another place", (_, view) => view.setBigUint64(256, 4096n)],
  ];
  for (const [name, change] of shapes) {
    const octets = new Uint8Array(copyBytes * 3);
    octets.set(headerCopy(0));
    change(octets, new DataView(octets.buffer));
    t.match(readLuksHeader(octets), { is: "damaged" }, name);
  }
  for (const json of ["", "[]", "null", "{", '{"config":{}}', '{"config":{"keyslots_size":"99999999999"}}'])
    t.match(readLuksHeader(header({ json })), { is: "damaged" }, json);
  for (const length of [0, 5, 6, 100, 4095, 4096, copyBytes - 1])
    t.not(readLuksHeader(header().subarray(0, length)).is, "header", `${length} octets`);
  t.end();
});

t.test("a JSON text that a parser in C could read otherwise is refused", (t) => {
  const good = JSON.stringify(metadata());
  t.match(readLuksHeader(header({ json: good })), { is: "header" });
  const doubled = good.replace('"encryption":', '"encryption\\u0000":"cipher_null","encryption":');
  t.match(readLuksHeader(header({ json: doubled })), { is: "damaged", why: /JSON/ });
  t.match(readLuksHeader(header({ json: good.replace("config", "conf\xefg") })), { is: "damaged" });
  t.end();
});

t.test("LUKS1 and nothing are not a header", (t) => {
  t.match(readLuksHeader(header({ version: 1 }).subarray(0, copyBytes)), { is: "none" });
  t.match(readLuksHeader(new Uint8Array(1 << 20)), { is: "none" });
  t.end();
});

/** The check's verdict on gimbal's own header after `change`. */
function verdict(change: (json: ReturnType<typeof metadata>) => void, shape = {}) {
  const json = metadata();
  change(json);
  const read = readLuksHeader(header({ json: JSON.stringify(json), ...shape }));
  if (read.is !== "header") throw new Error(read.is);
  return checkLuksHeader(read.header);
}

t.test("a header that gimbal did not write is refused by name", (t) => {
  type Json = ReturnType<typeof metadata>;
  const cases: [RegExp, (json: Json) => void][] = [
    [/key slot 4 was added/, (json) => (json.keyslots["4"] = slot(4))],
    [/key slot of an odd name/, (json) => Object.assign(json.keyslots, { odd: slot(4) })],
    [/key slot 1 is protected in another way/, (json) => (json.keyslots["1"] = { ...slot(1), key_size: 32 })],
    [
      /key slot 0 is protected in another way/,
      (json) => {
        const weak = slot(0);
        weak.area.encryption = "cipher_null-ecb";
        json.keyslots["0"] = weak;
      },
    ],
    [
      /not encrypted with aes-xts/,
      (json) => (json.segments["0"] = { ...json.segments["0"], encryption: "cipher_null-ecb" }),
    ],
    [
      /not encrypted with aes-xts/,
      (json) => (json.segments["0"] = { ...json.segments["0"], type: "linear" }),
    ],
    [/has a field "integrity"/, (json) => (json.segments["0"] = { ...json.segments["0"], integrity: {} })],
    [/another place/, (json) => (json.segments["0"] = { ...json.segments["0"], size: "4096" })],
    [/lies in its header/, (json) => (json.segments["0"] = { ...json.segments["0"], offset: "4096" })],
    [/sector size/, (json) => (json.segments["0"] = { ...json.segments["0"], sector_size: 1024 })],
    [/other than one data segment/, (json) => (json.segments["1"] = json.segments["0"] ?? {})],
    [/other than one key digest/, (json) => (json.digests["1"] = json.digests["0"] ?? {})],
    [/belongs to no key digest/, (json) => (json.digests["0"] = { ...json.digests["0"], keyslots: ["0"] })],
    [/token 7 was added/, (json) => (json.tokens["7"] = { type: "systemd-tpm2", keyslots: ["0"] })],
    [
      /token 1 names other than one/,
      (json) => (json.tokens["1"] = { type: "gimbal-recovery", keyslots: [] }),
    ],
    [
      /unfinished work/,
      (json) => Object.assign(json.config, { requirements: { mandatory: ["online-reencrypt-v2"] } }),
    ],
    [/no key slot/, (json) => (json.keyslots = {})],
  ];
  for (const [why, change] of cases) t.match(verdict(change), { is: "foreign", why }, String(why));
  t.match(
    verdict(() => {}, { label: "backup" }),
    { is: "foreign", why: /not labelled/ },
  );
  t.match(
    verdict(() => {}, { subsystem: "" }),
    { is: "foreign" },
  );
  t.end();
});

t.test("gimbal's own header is ours, with its tokens and strays", (t) => {
  t.match(
    verdict(() => {}),
    {
      is: "ours",
      tokens: [{ is: "sealed", tokenId: 0, slot: 0 }],
      recovery: [{ tokenId: 1, slot: 1 }],
      strays: [],
    },
  );
  const stray = verdict((json) => {
    json.keyslots["2"] = slot(2);
    json.digests["0"] = { ...json.digests["0"], keyslots: ["0", "1", "2"] };
  });
  t.match(stray, { is: "ours", strays: [2] });
  const damaged = verdict(
    (json) => (json.tokens["0"] = { type: "gimbal-tpm2", keyslots: ["0"], blob: { version: 9 } }),
  );
  t.match(damaged, { is: "ours", tokens: [{ is: "damaged", slot: 0 }] });
  t.end();
});
