import t from "tap";
import { ConsoleLog } from "../../../init/container/logs.ts";

const text = (log: ConsoleLog) => Buffer.from(log.bytes()).toString();

t.test("it never holds more than it may, and starts with a whole line", (t) => {
  const log = new ConsoleLog(100);
  for (let n = 0; n < 1000; n++) {
    log.append(Buffer.from(`line ${n}\n`));
    if (log.lengthBytes > 100) t.fail(`${log.lengthBytes} octets`);
    if (!/^line \d+\n/.test(text(log))) t.fail(text(log));
  }
  t.match(text(log), /line 999\n$/);
  const kept = text(log).split("\n").length - 1;
  t.equal(log.droppedLines, 1000 - kept, "each dropped line is counted");
  t.end();
});

t.test("a line without an end is cut, not kept for ever", (t) => {
  const log = new ConsoleLog(100_000);
  log.append(Buffer.alloc(1_000_000, "x"));
  t.ok(log.lengthBytes <= 100_000);
  t.ok(log.lengthBytes > 90_000);
  t.equal(log.droppedLines, 0);
  t.end();
});

t.test("octets stay as they are, over the borders of segments", (t) => {
  const log = new ConsoleLog(1_000_000);
  const all = Buffer.from(Array.from({ length: 200_000 }, (_, n) => (n * 7) % 256));
  for (let at = 0, step = 1; at < all.length; at += step, step = (step * 13) % 40_009) {
    log.append(all.subarray(at, at + step));
  }
  t.ok(all.equals(log.bytes()));
  t.end();
});

t.test("a follower hears what comes after, until it is gone", (t) => {
  const log = new ConsoleLog(100);
  log.append(Buffer.from("before"));
  const heard: string[] = [];
  const on = (bytes: Uint8Array) => heard.push(Buffer.from(bytes).toString());
  const first = log.follow(on);
  const second = log.follow(on);
  log.append(Buffer.from("a"));
  first[Symbol.dispose]();
  log.append(Buffer.from("b"));
  second[Symbol.dispose]();
  second[Symbol.dispose]();
  log.append(Buffer.from("c"));
  t.same(heard, ["a", "a", "b"]);
  t.end();
});

t.test("what was kept over a boot comes first", (t) => {
  const log = new ConsoleLog(100);
  log.restore(Buffer.from("old\n"));
  t.equal(log.version, 0);
  log.append(Buffer.from("new\n"));
  log.restore(Buffer.from("older\n"));
  t.equal(text(log), "old\nnew\n");
  t.equal(log.version, 1);
  t.end();
});

t.test("a quiet guest costs little", (t) => {
  const log = new ConsoleLog();
  log.append(Buffer.from("login: "));
  t.equal(log.bytes().length, 7);
  t.end();
});
