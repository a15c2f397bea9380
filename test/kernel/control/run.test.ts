/** `control run` and `control logs` with the real engine: from the client's octets to the guest's and back. Needs root. */
import { connect, createServer, type Socket } from "node:net";
import { join } from "node:path";
import t from "tap";
import { Connection, type RunInput, type RunOptions } from "../../../init/control/connection.ts";
import type { LogStream, RunRequest, RunSession } from "../../../init/control/handlers.ts";
import { ControlServer } from "../../../init/control/server.ts";
import { FakeDevice, until } from "../../unit/control/fake-device.ts";
import { makeBench, manifest, mount, says } from "../container/fixture.ts";

const bench = await makeBench();
t.teardown(() => bench[Symbol.asyncDispose]());
const name = await bench.create(manifest({ args: ["term"], mounts: [mount("SHARED_RW", "/")] }));
await bench.engine.start(name);
await says(bench, name, "ready");

/** What device.ts does with run and logs. */
class EngineDevice extends FakeDevice {
  override run({ container, argv, env, user, group, directory, terminal }: RunRequest): Promise<RunSession> {
    return bench.engine.exec(container, {
      argv,
      env,
      uid: user,
      gid: group,
      ...(directory === undefined ? {} : { directory }),
      ...(terminal ? { terminal } : {}),
    });
  }
  override async logs(container: string): Promise<LogStream> {
    const log = bench.engine.logs(container);
    return { bytes: log.bytes(), droppedLines: log.droppedLines, follow: (onBytes) => log.follow(onBytes) };
  }
}

const faults: unknown[] = [];
const server = new ControlServer({
  device: new EngineDevice(),
  level: () => "P",
  onRefused: () => {},
  onFault: (error) => void faults.push(error),
});
const path = join(bench.folder, "control.sock");
const listener = createServer((socket) => server.serve(socket)).listen(path);
const sockets = new Set<Socket>();
t.teardown(() => {
  for (const socket of sockets) socket.destroy();
  listener.close();
});

function client(): Connection {
  const socket = connect(path);
  sockets.add(socket);
  return new Connection(socket);
}

async function probe(words: readonly string[], more: Partial<RunOptions> = {}) {
  const [stdout, stderr]: [Uint8Array[], Uint8Array[]] = [[], []];
  const connection = client();
  const result = await connection
    .run({
      container: name,
      argv: ["/probe", ...words],
      onStdout: (octets) => void stdout.push(octets),
      onStderr: (octets) => void stderr.push(octets),
      onStarted: (input) => input.end(),
      ...more,
    })
    .finally(() => connection.close());
  return { ...result, out: Buffer.concat(stdout), err: Buffer.concat(stderr) };
}

/** Living processes of the guest, its init and the one that looks included. Zombies wait for an init that never reaps. */
async function processes(): Promise<number> {
  const pids = (await probe(["list", "/proc"])).out.toString().match(/\b\d+\b/g) ?? [];
  const stats = await Promise.all(pids.map((pid) => probe(["cat", `/proc/${pid}/stat`])));
  return stats.filter(({ out }) => /\) [RSD] /.test(out.toString())).length;
}

t.test("status, both outputs, and the sentence of what cannot run", async (t) => {
  const both = await probe(["both", "5"]);
  t.same([both.status, `${both.out}`, `${both.err}`], [5, "out", "err"]);
  t.equal((await probe(["kill", "9"])).status, 137);
  t.match(await probe([], { argv: ["/no/such"] }), { status: 127, sentence: /does not exist/ });
  t.match(await probe([], { argv: ["/etc"] }), { status: 126 });
  await t.rejects(probe([], { directory: "/no/where" }), { code: "exec-failed" });
  t.same(faults, []);
});

t.test("20 MB out to a slow reader, 5 MB in and back, to the octet", async (t) => {
  let count = 0;
  await probe(["flood", "20000000"], {
    async onStdout(octets) {
      count += octets.length;
      if (count % 11 === 0) await new Promise((resolve) => setTimeout(resolve, 1));
    },
  });
  t.equal(count, 20_000_000);
  const all = Buffer.alloc(5_000_000, "any \0 octet \xff ", "latin1");
  const feed = (input: RunInput) => void input.write(all).then(() => input.end());
  const back = await probe(["cat"], { onStarted: feed });
  t.equal(back.status, 0);
  t.equal(Buffer.compare(back.out, all), 0);
});

t.test("a terminal has the client's size from the start, and follows it", async (t) => {
  const pty = { rows: 50, columns: 200, term: "xterm" };
  t.match(`${(await probe(["size"], { pty, onStarted: () => {} })).out}`, /^50 200 .*pts.* tty\r\n/);
  let input: RunInput | undefined;
  let seen = "";
  const sizes = await probe(["sizes"], {
    pty,
    onStarted: (is) => {
      input = is;
    },
    onStdout(octets) {
      seen += Buffer.from(octets);
      if (seen.includes("50 200")) input?.resize({ rows: 30, columns: 90 });
    },
  });
  t.equal(sizes.status, 0);
  t.match(seen, /^50 200\r\n30 90\r\n/);
});

t.test("a short command on a terminal says all it has to say, 100 times", async (t) => {
  const pty = { rows: 24, columns: 80, term: "linux" };
  for (let i = 0; i < 100; i++) {
    const ran = await probe(["hello"], { pty, onStarted: () => {} });
    if (`${ran.out}` !== "hello from the guest\r\n" || ran.status !== 0) t.fail(`${i}: ${ran.out}`);
  }
});

t.test("a client that goes takes its command and what that started along", async (t) => {
  const before = await processes();
  for (const words of [["wait"], ["forks", "5"], ["flood", "100000000000"]]) {
    for (const pty of [undefined, { rows: 24, columns: 80, term: "linux" }]) {
      const connection = client();
      const running = connection.run({
        container: name,
        argv: ["/probe", ...words],
        ...(pty ? { pty } : {}),
        onStdout: () => {},
        onStderr: () => {},
        onStarted: () => void setTimeout(() => connection.close(), 50),
      });
      await running.catch(() => {}); // forks ends by itself
    }
  }
  await until(() => server.connections === 0, "no connections");
  let left = -1;
  for (let i = 0; i < 50 && left !== before; i++) left = await processes();
  t.equal(left, before);
  t.same(faults, []);
});

t.test("logs come whole, and what follows", async (t) => {
  const connection = client();
  let text = "";
  await connection.stream("logs", new Map([["container", name]]), {
    onStdout: (octets) => {
      text += Buffer.from(octets);
    },
  });
  t.match(text, "ready");
  connection.close();
});
