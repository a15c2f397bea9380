/** What a hostile or clumsy client meets: a typed error or a close, bounded memory, and nobody else notices. */
import { Duplex } from "node:stream";
import t from "tap";
import { type CborValue, encodeCbor } from "../../../init/bytes/cbor.ts";
import { commands } from "../../../init/control/commands.ts";
import { Connection } from "../../../init/control/connection.ts";
import { encodeFrame, frameMaxBytes } from "../../../init/control/frame.ts";
import { limits } from "../../../init/control/server.ts";
import { GimbalError } from "../../../init/errors.ts";
import { openDoor, type Raw } from "./door.ts";
import { reachableBytes, until } from "./fake-device.ts";

const request = (fields: { readonly [key: string]: CborValue }) =>
  encodeFrame(new Map(Object.entries(fields)));

t.test("the server refuses each kind of nonsense, says why, and goes on for others", async (t) => {
  await using door = await openDoor();
  const other = await door.client();
  const body = (octets: string) => {
    const bytes = Buffer.from(octets, "hex");
    const frame = Buffer.alloc(4 + bytes.length, bytes);
    frame.writeUInt32BE(bytes.length);
    bytes.copy(frame, 4);
    return frame;
  };
  const nested = Buffer.alloc(10_003, 0x81);
  nested[0] = 0xa1;
  nested[1] = 0x00;
  nested[10_002] = 0x00;
  const kinds: readonly (readonly [string, Uint8Array, RegExp])[] = [
    ["a frame of 0 octets", Buffer.alloc(4), /frame of 0/],
    ["a frame of 1 MiB + 1", Buffer.from([0, 0x10, 0, 1]), /frame of 1048577/],
    ["a frame of 4 GiB", Buffer.alloc(4, 255), /frame of 4294967295/],
    ["another protocol", Buffer.from("GET / HTTP/1.1\r\n\r\n"), /frame of/],
    ["10,000 nested arrays", body(nested.toString("hex")), /nested deeper/],
    ["no map", body("80"), /no map/],
    ["cut CBOR", body("a2616101"), /early/],
    ["keys twice", body("a2626964016269640 2".replace(" ", "")), /twice/],
    ["CBOR in another form", body("a162696418 01".replace(" ", "")), /shortest/],
    ["a float", body("a1626964f93c00"), /float/],
    ["no id", request({ command: "list" }), /no id/],
    ["an id that is text", request({ id: "1", command: "list" }), /no id/],
    ["an id of 0", request({ id: 0, command: "list" }), /no id/],
    ["a negative id", request({ id: -1, command: "list" }), /no id/],
    ["an id of 2^32", request({ id: 2 ** 32, command: "list" }), /no id/],
  ];
  for (const [name, octets, why] of kinds) {
    const raw = await door.raw();
    raw.socket.write(octets);
    await raw.closed;
    t.same(raw.answers, [[0, "request-malformed"]], name);
    t.match(door.refused.at(-1), { code: "request-malformed", sentence: why }, name);
    t.ok(Array.isArray(await other.request("list")), `${name}: others are served`);
  }
  t.equal(door.server.connections, 1, "only the other is left");
  t.same(door.faults, []);
});

t.test("a request with wrong fields gets a typed refusal, and the connection goes on", async (t) => {
  await using door = await openDoor();
  const raw = await door.raw();
  const wrong: readonly (readonly [{ readonly [key: string]: CborValue }, string])[] = [
    [{ command: "no_such" }, "command-unknown"],
    [{ command: "\u001b[2J" }, "command-unknown"],
    [{ command: 5 }, "command-unknown"],
    [{ command: null }, "command-unknown"],
    [{ command: "__proto__" }, "command-unknown"],
    [{ command: "constructor" }, "command-unknown"],
    [{ command: "state" }, "bad-argument"],
    [{ command: "state", container: 5 }, "bad-argument"],
    [{ command: "state", container: "" }, "bad-argument"],
    [{ command: "state", container: "x".repeat(65) }, "bad-argument"],
    [{ command: "state", container: "a\0b" }, "bad-argument"],
    [{ command: "state", container: ["debian"] }, "bad-argument"],
    [{ command: "state", container: "debian", more: 1 }, "bad-argument"],
    [{ command: "state", container: "debian", __proto__x: 1 }, "bad-argument"],
    [{ command: "state", container: "../c0" }, "container-unknown"],
    [{ command: "list", container: "debian" }, "bad-argument"],
    [{ command: "create", config: "web" }, "bad-argument"],
    [{ command: "create" }, "bad-argument"],
    [{ command: "create", config: new Map([["name", "x".repeat(300_000)]]) }, "bad-argument"],
    [{ command: "run", container: "debian", argv: "ls" }, "bad-argument"],
    [{ command: "run", container: "debian", argv: [1] }, "bad-argument"],
    [{ command: "run", container: "debian", argv: ["ls"], env: ["=x"] }, "bad-argument"],
    [{ command: "run", container: "debian", argv: ["ls"], user: -1 }, "bad-argument"],
    [{ command: "run", container: "debian", argv: ["ls"], pty: new Map([["rows", 24]]) }, "bad-argument"],
    [
      {
        command: "run",
        container: "debian",
        argv: ["ls"],
        pty: new Map<string, CborValue>([
          ["rows", 1],
          ["columns", 1],
          ["term", "a\nb"],
        ]),
      },
      "bad-argument",
    ],
    [{ command: "run", container: "none", argv: ["ls"] }, "container-unknown"],
    [{ command: "logs", container: "debian", follow: 1 }, "bad-argument"],
    [{ command: "attest", nonce: new Uint8Array(31) }, "bad-argument"],
    [{ command: "attest", nonce: new Uint8Array(65) }, "bad-argument"],
    [{ command: "attest", nonce: "0".repeat(32) }, "bad-argument"],
    [{ command: "ca_register", pem: new Uint8Array(5) }, "bad-argument"],
  ];
  for (const [index, [fields, code]] of wrong.entries()) {
    raw.send({ id: index + 1, ...fields });
    await until(() => raw.answers.length > index, "an answer");
    t.same(raw.answers[index], [index + 1, code], JSON.stringify([...Object.entries(fields)]).slice(0, 80));
  }
  raw.send({ id: 99, command: "list" });
  await until(() => raw.answers.length > wrong.length, "an answer");
  t.same(raw.answers.at(-1), [99, "ok"]);
  t.same(door.faults, []);
  t.equal(door.device.requests.length, 0, "no command ran");
});

t.test("every command of the table refuses a request without its fields, or answers", async (t) => {
  await using door = await openDoor();
  for (const [index, command] of commands.entries()) {
    const raw = await door.raw();
    raw.send({ id: index + 1, command: command.name, unknown_field: true });
    await until(() => raw.answers.length > 0, "an answer");
    t.same(raw.answers, [[index + 1, "bad-argument"]], command.name);
    raw.socket.destroy();
  }
  t.equal(door.device.power, "on");
  t.equal(door.device.provisioned, false);
});

t.test("a request that comes octet by octet, or cut anywhere, gets its one answer", async (t) => {
  await using door = await openDoor();
  const raw = await door.raw();
  raw.socket.setNoDelay(true);
  const octets = request({ id: 1, command: "state", container: "debian" });
  let id = 0;
  for (let cut = 1; cut < octets.length; cut++) {
    const whole = request({ id: ++id, command: "state", container: "debian" });
    raw.socket.write(whole.subarray(0, cut));
    await new Promise((resolve) => setImmediate(resolve));
    raw.socket.write(whole.subarray(cut));
  }
  await until(() => raw.answers.length === id, "all answers");
  const last = request({ id: 999, command: "state", container: "debian" });
  for (const octet of last) {
    raw.socket.write(Uint8Array.of(octet));
    await new Promise((resolve) => setImmediate(resolve));
  }
  await until(() => raw.answers.length === id + 1, "the last answer");
  t.ok(raw.answers.every(([, is]) => is === "ok"));
});

t.test("a client that goes at any octet of its request leaves nothing", async (t) => {
  await using door = await openDoor();
  const octets = request({ id: 1, command: "run", container: "c0", argv: ["sleep", "60"] });
  for (let cut = 0; cut <= octets.length; cut++) {
    const raw = await door.raw();
    raw.socket.end(octets.subarray(0, cut));
    await raw.closed;
  }
  await until(() => door.server.connections === 0 && door.device.sessions.size === 0, "an empty server");
  t.equal(door.server.heldBytes, 0);
  t.same(door.faults, []);
});

t.test("a frame that does not end is cut off, however slowly its octets come", async (t) => {
  await using door = await openDoor({ limits: { frameMs: 80 } });
  const silent = await door.raw();
  silent.socket.write(Uint8Array.of(0, 0));
  const slow = await door.raw();
  slow.socket.write(Uint8Array.of(0, 0, 1, 0));
  const drip = setInterval(() => slow.socket.write(Uint8Array.of(0)), 20);
  await Promise.all([silent.closed, slow.closed]);
  clearInterval(drip);
  t.match(door.refused, [{ sentence: /not complete/ }, { sentence: /not complete/ }]);
});

t.test(
  "of 200 connections the first 64 are served, the others are told, and all of it goes away",
  async (t) => {
    await using door = await openDoor();
    const clients: Raw[] = [];
    for (let i = 0; i < 200; i++) clients.push(await door.raw());
    for (const [index, raw] of clients.entries()) {
      if (raw.socket.writable) raw.send({ id: index + 1, command: "list" });
    }
    await until(() => clients.every((raw) => raw.answers.length === 1), "200 answers");
    t.equal(clients.filter((raw) => raw.answers[0]?.[1] === "ok").length, limits.connections);
    t.equal(clients.filter((raw) => raw.answers[0]?.[1] === "busy").length, 200 - limits.connections);
    await Promise.all(clients.slice(64).map((raw) => raw.closed));
    t.equal(door.server.connections, limits.connections);
    for (const raw of clients) raw.socket.destroy();
    await until(() => door.server.connections === 0, "no connections");
    const late = await door.client();
    t.ok(await late.request("list"));
  },
);

t.test("where all places are taken, an idle connection gives way, a busy one does not", async (t) => {
  await using door = await openDoor({ limits: { connections: 2, idleMs: 0 } });
  let release = () => {};
  door.device.before = () => new Promise((resolve) => (release = resolve));
  const busy = await door.client();
  const answer = busy.request("list");
  await until(() => door.server.connections === 1, "one");
  const idle = await door.raw();
  await until(() => door.server.connections === 2, "two");
  door.device.before = async () => {};
  const third = await door.client();
  await idle.closed;
  t.ok(await third.request("list"), "the third is served");
  release();
  t.ok(await answer, "the busy one still has its answer");
});

t.test("a seventeenth open request is refused; so is an id that is in use", async (t) => {
  await using door = await openDoor();
  let release = () => {};
  const gate = new Promise<void>((resolve) => (release = resolve));
  door.device.before = () => gate;
  const raw = await door.raw();
  for (let id = 1; id <= limits.openRequests + 1; id++) raw.send({ id, command: "list" });
  await until(() => raw.answers.length === 1, "a refusal");
  t.same(raw.answers, [[limits.openRequests + 1, "busy"]]);
  release();
  await until(() => raw.answers.length === limits.openRequests + 1, "all answers");
  t.same(new Set(raw.answers.map(([id]) => id)).size, limits.openRequests + 1, "each exactly one");
  door.device.before = () => new Promise(() => {});
  raw.send({ id: 50, command: "list" }, { id: 50, command: "list" });
  await raw.closed;
  t.match(door.refused.at(-1), { sentence: /in use/ });
});

t.test("a client that never reads is held back, within a bound, while others are served", async (t) => {
  await using door = await openDoor();
  // Ids repeat only after their answers, so each is new.
  const all = Buffer.concat(
    Array.from({ length: 100_000 }, (_, i) => request({ id: i + 1, command: "list" })),
  );
  const before = await reachableBytes();
  const mute = await door.connect();
  mute.pause();
  mute.write(all);
  let written = -1;
  while (mute.bytesWritten - mute.writableLength !== written) {
    written = mute.bytesWritten - mute.writableLength;
    await new Promise((resolve) => setTimeout(resolve, 300));
  }
  t.ok(mute.writableLength > 0, "the server stopped reading it");
  t.ok(door.server.heldBytes < limits.heldBytes);
  const started = performance.now();
  const other = await door.client();
  t.ok(await other.request("list"));
  t.ok(performance.now() - started < 1000, "others do not wait");
  t.ok(
    (await reachableBytes()) - before < 12_000_000,
    "memory is bounded, the mute client's own 2 MB and more included",
  );
});

t.test("above the bound for all clients together, the one that holds most goes", async (t) => {
  await using door = await openDoor({ limits: { heldBytes: 3_000_000 } });
  const halves: Raw[] = [];
  for (const size of [900_000, 1_000_000, 800_000, 700_000]) {
    const raw = await door.raw();
    const head = Buffer.alloc(4);
    head.writeUInt32BE(frameMaxBytes);
    raw.socket.write(head);
    raw.socket.write(Buffer.alloc(size));
    await new Promise((resolve) => setTimeout(resolve, 30));
    halves.push(raw);
  }
  await halves[1]?.closed;
  t.ok(door.server.heldBytes <= 3_000_000);
  t.equal(door.server.connections, 3);
  t.match(door.refused, [{ sentence: /half frames/ }]);
});

t.test("answers that nobody reads count against the bound as well", async (t) => {
  await using door = await openDoor({ limits: { heldBytes: 2_000_000 } });
  for (let i = 0; i < 4000; i++) door.device.containers.set(`container-${i}`, "STOPPED"); // 600 KB in an answer
  const raw = await door.connect();
  raw.pause();
  raw.on("error", () => {});
  for (let id = 1; id <= 8; id++) raw.write(request({ id, command: "list" }));
  await until(() => door.server.connections === 0, "its end");
  t.match(door.refused, [{ sentence: /too slowly/ }]);
});

t.test("an answer that fits no frame is a typed refusal", async (t) => {
  await using door = await openDoor();
  for (let i = 0; i < 20_000; i++) door.device.containers.set(`container-${i}`, "STOPPED");
  const client = await door.client();
  await t.rejects(client.request("list"), { code: "answer-too-large" });
  t.ok(await client.request("status"));
});

t.test("levels: what is allowed follows provisioning at once, and a guest may only list", async (t) => {
  await using door = await openDoor();
  const client = await door.client();
  await client.request("set_provisioned");
  for (const name of ["remove", "freeze", "run", "ca_register", "set_provisioned"])
    await t.rejects(client.request(name), { code: "command-forbidden", message: /provisioned/ }, name);
  t.ok(await client.request("list"));
  await using guest = await openDoor({ level: () => "U" });
  const inside = await guest.client();
  for (const { name, levels } of commands) {
    if (levels.includes("U")) t.ok(await inside.request(name), name);
    else await t.rejects(inside.request(name), { code: "command-forbidden" }, name);
  }
});

t.test("a fault of ours is a typed refusal and is told; a refusal keeps its code and sentence", async (t) => {
  await using door = await openDoor();
  const client = await door.client();
  door.device.before = async () => {
    throw new TypeError("x is not a function\u001b[2J");
  };
  await t.rejects(client.request("list"), { code: "internal", message: /fault of gimbal/ });
  t.match(door.faults, [{ message: /not a function/ }]);
  door.device.before = async () => {
    throw new GimbalError("disk-full", { tried: "write", on: "x", why: "it is full" });
  };
  await t.rejects(client.request("list"), { code: "disk-full", message: "cannot write x: it is full" });
});

t.test("who sends a request and closes its writing side still gets the answer", async (t) => {
  const { ControlServer } = await import("../../../init/control/server.ts");
  const { FakeDevice } = await import("./fake-device.ts");
  const server = new ControlServer({ device: new FakeDevice(), level: () => "P", onRefused: () => {} });
  const [ours, theirs] = pair();
  server.serve(theirs);
  ours.end(request({ id: 1, command: "list" }));
  const chunks: Uint8Array[] = [];
  for await (const chunk of ours) chunks.push(chunk);
  t.ok(Buffer.concat(chunks).length > 50);
  t.equal(server.connections, 0);
});

t.test("the protocol runs over any stream", async (t) => {
  const { ControlServer } = await import("../../../init/control/server.ts");
  const { FakeDevice } = await import("./fake-device.ts");
  const server = new ControlServer({ device: new FakeDevice(), level: () => "P", onRefused: () => {} });
  const [ours, theirs] = pair();
  server.serve(theirs);
  const client = new Connection(ours);
  const answers = await Promise.all([
    client.request("list"),
    client.request("status"),
    client.request("list"),
  ]);
  t.equal(answers.length, 3);
  server.closeAll();
  await t.rejects(client.request("list"), { name: "ConnectionLost" });
  t.equal(encodeCbor(answers[0] ?? null).length > 10, true);
});

/** Two streams; what is written into one is read from the other. */
function pair(): readonly [Duplex, Duplex] {
  const make = (other: () => Duplex): Duplex =>
    new Duplex({
      read() {},
      write(chunk, _, done) {
        other().push(chunk);
        done();
      },
      final(done) {
        other().push(null);
        done();
      },
      destroy(error, done) {
        if (!other().destroyed) other().push(null);
        done(error);
      },
    });
  const a: Duplex = make(() => b);
  const b: Duplex = make(() => a);
  return [a, b];
}
