import fc from "fast-check";
import t from "tap";
import { ByteQueue } from "../../../init/control/byte-queue.ts";

t.test("what goes into a ByteQueue comes out, in order, whatever the pieces", (t) => {
  const step = fc.oneof(
    fc.record({ push: fc.uint8Array({ maxLength: 10_000 }) }),
    fc.record({ shift: fc.integer({ min: 1, max: 9000 }) }),
  );
  fc.assert(
    fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
      const queue = new ByteQueue();
      let held = Buffer.alloc(0);
      for (const is of steps) {
        if ("push" in is) {
          queue.push(is.push);
          held = Buffer.concat([held, is.push]);
          is.push.fill(0); // it was a copy
        } else {
          const bytes = queue.shift(is.shift) ?? new Uint8Array();
          if (held.length > 0 && bytes.length === 0) return false;
          if (Buffer.compare(held.subarray(0, bytes.length), bytes) !== 0) return false;
          held = held.subarray(bytes.length);
        }
        if (queue.lengthBytes !== held.length) return false;
      }
      return true;
    }),
  );
  t.end();
});

t.test("pieces of one octet share a buffer", (t) => {
  const queue = new ByteQueue();
  for (let i = 0; i < 10_000; i++) queue.push(Uint8Array.of(i));
  let pieces = 0;
  while (queue.shift()) pieces++;
  t.ok(pieces <= 3, `${pieces}`);
  queue.push(Uint8Array.of(1));
  queue.clear();
  t.equal(queue.shift(), undefined);
  t.end();
});
