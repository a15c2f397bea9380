import t from "tap";
import type { CborValue } from "../../../init/bytes/cbor.ts";
import {
  decodeMessage,
  encodeFrame,
  FrameReader,
  frameMaxBytes,
  takeFrame,
} from "../../../init/control/frame.ts";
import { reachableBytes } from "./fake-device.ts";

const message = (n: number) =>
  new Map<string, CborValue>([
    ["id", n],
    ["command", "x".repeat(n)],
  ]);

t.test("takeFrame refuses a length of 0 and one above the maximum, without waiting for the octets", (t) => {
  t.same(takeFrame(Uint8Array.of(0, 0, 0, 0)), { is: "refused", reason: "empty", lengthBytes: 0 });
  t.same(takeFrame(Uint8Array.of(0, 0x10, 0, 1)), {
    is: "refused",
    reason: "too-long",
    lengthBytes: 1_048_577,
  });
  t.same(takeFrame(Uint8Array.of(255, 255, 255, 255)), {
    is: "refused",
    reason: "too-long",
    lengthBytes: 2 ** 32 - 1,
  });
  t.end();
});

t.test("takeFrame tells how much is missing, at every octet", (t) => {
  const frame = encodeFrame(message(5));
  for (let length = 0; length < frame.length; length++) {
    const missingBytes = length < 4 ? 4 - length : frame.length - length;
    t.same(takeFrame(frame.subarray(0, length)), { is: "incomplete", missingBytes });
  }
  t.equal(takeFrame(frame).is, "frame");
  t.end();
});

t.test("a frame takes 1,048,576 octets and not one more", (t) => {
  const largest = (extra: number) =>
    new Map<string, CborValue>([["a", new Uint8Array(frameMaxBytes - 8 + extra)]]);
  t.equal(encodeFrame(largest(0)).length, 4 + frameMaxBytes);
  t.equal(takeFrame(encodeFrame(largest(0))).is, "frame");
  t.throws(() => encodeFrame(largest(1)), RangeError);
  t.end();
});

t.test("decodeMessage refuses bombs and what is no map", (t) => {
  for (const bad of ["00", "80", "f6", "", "a1", "a0a0", "a10001ff"])
    t.equal(decodeMessage(new Uint8Array(Buffer.from(bad, "hex"))).is, "refused", bad);
  const nested = new Uint8Array(10_001).fill(0x81);
  nested[0] = 0xa1;
  t.match(decodeMessage(nested), { is: "refused" });
  t.match(decodeMessage(Uint8Array.of(0xa1, 0, ...new Uint8Array(10_000).fill(0x81), 0)), {
    is: "refused",
    why: /nested deeper/,
  });
  t.match(decodeMessage(new Uint8Array([0xa1, 0x00, 0x99, 0xff, 0xff, ...new Uint8Array(65_535)])), {
    is: "refused",
    why: /more than 20000 items/,
  });
  t.end();
});

t.test("a FrameReader gives the same frames wherever the octets are cut", (t) => {
  const frames = [encodeFrame(message(1)), encodeFrame(message(40)), encodeFrame(message(300))];
  const all = Buffer.concat(frames);
  const expected = frames.map((frame) => Buffer.from(frame.subarray(4)).toString("hex"));
  const readIn = (...chunks: readonly Uint8Array[]) => {
    const reader = new FrameReader();
    const found: string[] = [];
    for (const chunk of chunks) {
      const { bodies, refused } = reader.push(chunk);
      if (refused) throw new Error(refused);
      found.push(...bodies.map((body) => Buffer.from(body).toString("hex")));
    }
    if (reader.heldBytes > 0) throw new Error("something is left");
    return found;
  };
  for (let cut = 0; cut <= all.length; cut++) {
    const found = readIn(all.subarray(0, cut), all.subarray(cut));
    if (JSON.stringify(found) !== JSON.stringify(expected)) t.fail(`cut at ${cut}`);
  }
  t.same(readIn(...[...all].map((octet) => Uint8Array.of(octet))), expected, "octet by octet");
  t.end();
});

t.test("a FrameReader holds no more than a frame and a chunk, whatever the pieces", async (t) => {
  const reader = new FrameReader();
  const before = await reachableBytes();
  reader.push(Uint8Array.of(0, 0x10, 0, 0));
  for (let i = 0; i < 1_048_575; i++) reader.push(Uint8Array.of(1));
  t.equal(reader.heldBytes, 1_048_579);
  t.ok((await reachableBytes()) - before < 3_000_000, "a million pieces of one octet");
  t.equal(reader.push(Uint8Array.of(1)).bodies.length, 1);
  t.equal(reader.heldBytes, 0);
});
