import t from "tap";
import { leftovers, makeBench, manifest, reaches, run, says } from "./fixture.ts";

t.test("a static guest runs in all namespaces, and its end is told", async (t) => {
  await using bench = await makeBench();
  const name = await bench.create(manifest({ args: ["hello"] }));
  const before = leftovers(bench);
  await bench.engine.start(name);
  await reaches(bench, name, "STOPPED");
  t.match(Buffer.from(bench.engine.logs(name).bytes()).toString(), "hello from the guest");
  const exit = bench.engine.status(name).lastExit;
  t.equal(exit?.why, "exited");
  t.equal(exit?.status, 0);
  t.same(
    bench.changes.map(({ from, to }) => `${from} ${to}`),
    ["STOPPED STARTING", "STARTING RUNNING", "RUNNING SHUTTING_DOWN", "SHUTTING_DOWN STOPPED"],
  );
  t.equal(bench.measured.length, 1);
  t.same(leftovers(bench), before);
});

t.test("a guest that waits can be looked into and stopped", async (t) => {
  await using bench = await makeBench();
  const name = await bench.create(manifest({ args: ["term"] }));
  await bench.engine.start(name);
  await says(bench, name, "ready");
  const ran = await run(bench, name, "both", "3");
  t.match(ran, { status: 3, out: "out", err: "err" });
  const exit = await bench.engine.stop(name);
  t.match(exit, { why: "exited", status: 7 });
});
