/** `run`, `logs` and `attest` over a real socket: every octet, in order, at the reader's pace, with memory that stays. */
import { createHash, randomBytes } from "node:crypto";
import t from "tap";
import type { CborValue } from "../../../init/bytes/cbor.ts";
import { windowBytes } from "../../../init/control/channel.ts";
import type { Connection, RunInput, RunOptions } from "../../../init/control/connection.ts";
import { followBytes } from "../../../init/control/log-stream.ts";
import { openDoor } from "./door.ts";
import { reachableBytes, until } from "./fake-device.ts";

const sleep = (ms: number) => new Promise<void>((resolve) => setTimeout(resolve, ms));
const fieldsOf = (fields: { [key: string]: CborValue }) => new Map(Object.entries(fields));

/** Runs a command and collects what it says. */
async function collect(client: Connection, argv: readonly string[], more: Partial<RunOptions> = {}) {
  const [stdout, stderr]: [Uint8Array[], Uint8Array[]] = [[], []];
  const result = await client.run({
    container: "c0",
    argv,
    onStdout: (octets) => void stdout.push(octets),
    onStderr: (octets) => void stderr.push(octets),
    onStarted: (input) => input.end(),
    ...more,
  });
  return { ...result, stdout: Buffer.concat(stdout), stderr: Buffer.concat(stderr) };
}

t.test(
  "run: the exit status is the command's, stdout and stderr stay apart, nothing is added (B67)",
  async (t) => {
    await using door = await openDoor();
    const client = await door.client();
    const cases: readonly (readonly [readonly string[], number, string, string])[] = [
      [["true"], 0, "", ""],
      [["false"], 1, "", ""],
      [["sh", "-c", "echo out; echo err >&2; exit 32"], 32, "out\n", "err\n"],
      [["sh", "-c", "kill -9 $$"], 137, "", ""],
      [["no-such-command"], 127, "", ""],
      [["/etc"], 126, "", ""],
    ];
    for (const [argv, status, stdout, stderr] of cases) {
      const ran = await collect(client, argv);
      t.same([ran.status, `${ran.stdout}`, `${ran.stderr}`], [status, stdout, stderr], argv.join(" "));
      t.equal(ran.sentence !== undefined, status === 126 || status === 127);
    }
    t.equal(door.device.sessions.size, 0);
  },
);

t.test("run: user, group, environment and directory come through", async (t) => {
  await using door = await openDoor();
  const client = await door.client();
  const ran = await collect(client, ["sh", "-c", 'echo "$A"; pwd'], {
    env: ["A=b=c"],
    user: 5,
    group: 6,
    directory: "/usr",
  });
  t.equal(`${ran.stdout}`, "b=c\n/usr\n");
  t.match(door.device.requests[0], { user: 5, group: 6, directory: "/usr", env: ["A=b=c"] });
});

t.test("run: output of a very short command is never lost, 200 times (B27)", async (t) => {
  await using door = await openDoor();
  const client = await door.client();
  const pty = { rows: 50, columns: 200, term: "linux" };
  for (let i = 0; i < 200; i++) {
    const ran = await collect(client, ["echo", "hi"], { pty });
    if (`${ran.stdout}` !== "hi\r\n" || ran.status !== 0) t.fail(`${i}: ${ran.stdout}`);
  }
  t.match(door.device.requests[0], { terminal: { rows: 50, columns: 200 }, env: ["TERM=linux"] });
});

t.test("run: 64 MiB arrive to the octet at a slow reader, and memory stays (B66)", async (t) => {
  await using door = await openDoor();
  const client = await door.client();
  const before = await reachableBytes();
  let count = 0;
  let most = 0;
  const digest = createHash("sha256");
  const { status } = await client.run({
    container: "c0",
    argv: ["sh", "-c", "yes 0123456789abcde | head -c 67108864"],
    onStderr: () => {},
    async onStdout(octets) {
      count += octets.length;
      digest.update(octets);
      most = Math.max(most, door.server.heldBytes);
      if (Math.floor(count / 4_000_000) !== Math.floor((count - octets.length) / 4_000_000)) await sleep(20);
      else if (count % 7 === 0) await sleep(0);
    },
  });
  t.ok((await reachableBytes()) - before < 4_000_000, "64 MiB would be seen");
  t.equal(status, 0);
  t.equal(count, 67_108_864);
  t.equal(
    digest.digest("hex"),
    createHash("sha256").update("0123456789abcde\n".repeat(4_194_304)).digest("hex"),
  );
  t.ok(most <= windowBytes + 200_000, `${most} octets were held at most`);
});

t.test(
  "run: binary input of 8 MB with every octet goes in and out unchanged, whatever its pieces",
  async (t) => {
    await using door = await openDoor();
    const client = await door.client();
    const all = randomBytes(8_000_000);
    let writing: Promise<void> = Promise.resolve();
    const feed = async (input: RunInput) => {
      for (let at = 0, size = 1; at < all.length; at += size, size = (size * 7 + 1) % 300_000 || 1)
        await input.write(all.subarray(at, at + size));
      input.end();
    };
    const ran = await collect(client, ["cat"], {
      onStarted: (input) => {
        writing = feed(input);
      },
    });
    await writing;
    t.equal(ran.status, 0);
    t.equal(Buffer.compare(ran.stdout, all), 0);
  },
);

t.test("run: a command that reads nothing holds the input back, within the window", async (t) => {
  await using door = await openDoor();
  const client = await door.client();
  let written = 0;
  const before = await reachableBytes();
  const running = collect(client, ["sleep", "0.4"], {
    async onStarted(input) {
      for (; written < 100_000_000; written += 100_000) await input.write(new Uint8Array(100_000));
    },
  });
  await sleep(200);
  t.ok(written > 100_000 && written < windowBytes + 1_000_000, `${written}`);
  t.ok(door.server.heldBytes <= windowBytes);
  t.ok((await reachableBytes()) - before < 3_000_000);
  t.equal((await running).status, 0, "its end frees who writes");
});

t.test("run: a command that closes its input takes the rest as lost, and ends by itself", async (t) => {
  await using door = await openDoor();
  const client = await door.client();
  const ran = await collect(client, ["sh", "-c", "exec <&-; sleep 0.2; echo done"], {
    onStarted: (input) => void input.write(new Uint8Array(3_000_000)).then(() => input.end()),
  });
  t.same([ran.status, `${ran.stdout}`], [0, "done\n"]);
});

t.test("run: signals and sizes reach the command", async (t) => {
  await using door = await openDoor();
  const client = await door.client();
  const ran = await collect(client, ["sleep", "60"], { onStarted: (input) => input.signal(15) });
  t.equal(ran.status, 143);
  const keys = await collect(client, ["vi"], {
    pty: { rows: 24, columns: 80, term: "xterm-256color" },
    onStarted: (input) => {
      input.resize({ rows: 50, columns: 200 });
      void input.write(Uint8Array.of(3)).then(() => input.write(Uint8Array.of(0x71)));
    },
  });
  t.match(`${keys.stdout}`, /^24x80 TERM=xterm-256color\r\nresized 50x200\r\n<\^C>q/);
  t.equal(keys.status, 7);
});

t.test("run: when the client goes, in whatever phase, the command is ended", async (t) => {
  await using door = await openDoor();
  for (const when of ["at once", "started", "reading"] as const) {
    const client = await door.client();
    const argv = when === "reading" ? ["sh", "-c", "yes"] : ["sleep", "60"];
    const running = client.run({
      container: "c0",
      argv,
      onStdout: () => (when === "reading" ? client.close() : undefined),
      onStderr: () => {},
      onStarted: () => (when === "started" ? client.close() : undefined),
    });
    if (when === "at once") {
      await until(() => door.device.sessions.size > 0, "a session");
      client.close();
    }
    await t.rejects(running, { name: "ConnectionLost" }, when);
    await until(() => door.device.sessions.size === 0 && door.server.connections === 0, `the end: ${when}`);
  }
  t.same(door.faults, []);
});

t.test("run: several at once on one connection, one of them stuck, do not hold each other", async (t) => {
  await using door = await openDoor();
  const client = await door.client();
  let release = () => {};
  const stuck = client.run({
    container: "c0",
    argv: ["sh", "-c", "yes | head -c 5000000"],
    onStderr: () => {},
    onStdout: () =>
      new Promise<void>((resolve) => {
        release = resolve;
      }),
  });
  await until(() => door.device.sessions.size === 1, "the stuck one");
  await sleep(50);
  for (let i = 0; i < 5; i++) t.equal(`${(await collect(client, ["echo", "hi"])).stdout}`, "hi\n");
  t.ok(await client.request("list"));
  const go = setInterval(() => release(), 1);
  t.equal((await stuck).status, 0);
  clearInterval(go);
});

t.test("run: what breaks the rules of a stream closes the connection and ends the command", async (t) => {
  const wrong: readonly (readonly [{ readonly [key: string]: CborValue }, RegExp])[] = [
    [{ input: "text" }, /no octets/],
    [{ input: new Uint8Array() }, /no octets/],
    [{ input: new Uint8Array(windowBytes + 1) }, /window/],
    [{ eof: false }, /false eof/],
    [{ signal: 0 }, /between 1 and 64/],
    [{ signal: 65 }, /between 1 and 64/],
    [{ signal: "TERM" }, /whole number/],
    [{ resize: new Map([["rows", 10_000]]) }, /between/],
    [{ resize: 5 }, /no map/],
    [{ taken: 1 }, /takes more/],
    [{ taken: -1 }, /takes more/],
    [{ taken: "x" }, /takes more/],
    [{ what: 1 }, /none of/],
    [{ input: Uint8Array.of(1), eof: true }, /none of/],
    [{}, /none of/],
  ];
  await using door = await openDoor();
  for (const [fields, why] of wrong) {
    const raw = await door.raw();
    raw.send({ id: 1, command: "run", container: "c0", argv: ["sleep", "60"] });
    await until(() => raw.messages.length > 0, "its start");
    raw.send({ id: 1, ...fields });
    await raw.closed;
    t.match(door.refused.at(-1), { sentence: why });
    await until(() => door.device.sessions.size === 0, "its end");
  }
  const raw = await door.raw();
  raw.send({ id: 1, command: "run", container: "c0", argv: ["sleep", "60"] });
  await until(() => raw.messages.length > 0, "its start");
  raw.send({ id: 1, eof: true }, { id: 1, input: Uint8Array.of(1) });
  await raw.closed;
  t.match(door.refused.at(-1), { sentence: /after its eof/ });
  t.same(door.faults, []);
});

t.test("run: a client that takes nothing makes the command wait, and costs a window", async (t) => {
  await using door = await openDoor();
  const raw = await door.raw();
  const before = await reachableBytes();
  raw.send({ id: 1, command: "run", container: "c0", argv: ["yes"] });
  await sleep(300);
  const got = raw.messages.reduce((sum, message) => {
    const data = message.get("data");
    return sum + (data instanceof Uint8Array ? data.length : 0);
  }, 0);
  t.equal(got, windowBytes);
  t.ok((await reachableBytes()) - before < 3_000_000);
  raw.send({ id: 1, cancel: true });
  await until(() => raw.answers.length === 1, "its final answer");
  await until(() => door.device.sessions.size === 0, "its end");
});

t.test("run: input octet by octet that nobody takes costs no more than the window", async (t) => {
  await using door = await openDoor();
  const raw = await door.raw();
  raw.send({ id: 1, command: "run", container: "c0", argv: ["sleep", "60"] });
  await until(() => raw.messages.length > 0, "its start");
  const before = await reachableBytes();
  raw.send({ id: 1, input: new Uint8Array(windowBytes - 50_000) });
  for (let i = 0; i < 40_000; i++) {
    raw.send({ id: 1, input: Uint8Array.of(i) });
    if (i % 1000 === 0) await sleep(0);
  }
  await sleep(50);
  t.equal(door.server.connections, 1);
  t.ok((await reachableBytes()) - before < 2_000_000, "40,000 pieces");
});

t.test("logs: the log, then its end; with follow, what comes, until cancelled", async (t) => {
  await using door = await openDoor();
  const client = await door.client();
  let got = "";
  const onStdout = (octets: Uint8Array) => {
    got += Buffer.from(octets);
  };
  const result = await client.stream("logs", fieldsOf({ container: "debian" }), { onStdout });
  t.equal(got, "first\nsecond\n");
  t.same(result, new Map([["dropped_lines", 3]]));
  const stop = new AbortController();
  const following = client.stream("logs", fieldsOf({ container: "debian", follow: true }), {
    onStdout,
    until: stop.signal,
  });
  await until(() => door.device.followers.size === 1, "a follower");
  const lent = new TextEncoder().encode("third\n");
  for (const follower of door.device.followers) follower(lent);
  lent.fill(0); // the octets were only lent
  await until(() => got.endsWith("third\n"), "what came");
  stop.abort();
  t.same(await following, new Map([["dropped_lines", 3]]));
  t.equal(door.device.followers.size, 0);
  t.equal(got, "first\nsecond\nfirst\nsecond\nthird\n");
});

t.test("logs -f: days of lines leave nothing behind; a client that goes is forgotten", async (t) => {
  await using door = await openDoor();
  const client = await door.client();
  let count = 0;
  const following = client.stream("logs", fieldsOf({ container: "debian", follow: true }), {
    onStdout: (octets) => {
      count += octets.length;
    },
  });
  await until(() => door.device.followers.size === 1 && count === 13, "a follower");
  const [follow] = door.device.followers;
  const line = new Uint8Array(100);
  const run = async (lines: number) => {
    const end = count + lines * 100;
    for (let i = 0; i < lines; i++) {
      follow?.(line);
      if (i % 20 === 0) await sleep(0);
    }
    await until(() => count === end, "all lines");
  };
  await run(4000);
  const before = await reachableBytes();
  await run(30_000);
  const grown = (await reachableBytes()) - before;
  t.ok(grown < 3_000_000, `${grown} octets: a hundred for each line would be seen`);
  client.close();
  await t.rejects(following, { name: "ConnectionLost" });
  await until(() => door.device.followers.size === 0, "no follower");
});

t.test("logs -f: a follower that lags loses octets, is told how many, and memory stays", async (t) => {
  await using door = await openDoor();
  const client = await door.client();
  let release = () => {};
  let stuck = true;
  let [got, lost] = [0, 0];
  const following = client.stream("logs", fieldsOf({ container: "debian", follow: true }), {
    onStdout(octets) {
      got += octets.length;
      return stuck
        ? new Promise<void>((resolve) => {
            release = resolve;
          })
        : undefined;
    },
    onLost: (octets) => {
      lost += octets;
    },
  });
  await until(() => door.device.followers.size === 1 && got === 13, "a follower");
  const before = await reachableBytes();
  for (let i = 0; i < 500; i++) {
    for (const follower of door.device.followers) follower(new Uint8Array(10_000));
    if (i % 50 === 0) await sleep(5);
  }
  t.ok((await reachableBytes()) - before < followBytes + windowBytes * 3);
  stuck = false;
  release();
  await until(() => got + lost === 13 + 5_000_000, "all octets accounted for");
  t.ok(lost > 3_000_000);
  for (const follower of door.device.followers) follower(new Uint8Array(7));
  await until(() => got + lost === 13 + 5_000_007, "the stream goes on");
  client.close();
  await t.rejects(following, { name: "ConnectionLost" });
});

t.test("attest: evidence longer than a frame arrives whole", async (t) => {
  await using door = await openDoor();
  const client = await door.client();
  const chunks: Uint8Array[] = [];
  const nonce = new Uint8Array(32).fill(9);
  const result = await client.stream("attest", fieldsOf({ nonce }), {
    onStdout: (octets) => void chunks.push(octets),
  });
  t.same(result, fieldsOf({ format: "gimbal-evidence-0", nonce, evidence_bytes: 3_000_000 }));
  t.equal(Buffer.compare(Buffer.concat(chunks), door.device.evidence), 0);
});
