/** The order of a start: what must come before what. */
import t from "tap";
import type { PlanOp } from "../../../init/container/plan.ts";
import { encodePlan } from "../../../init/container/plan.ts";
import { type StartInputs, startPlan, wallOps } from "../../../init/container/start-plan.ts";

const inputs: StartInputs = {
  staging: "/staging",
  root: { is: "overlay", slot: 0, tmpfsBytes: 1 << 20 },
  dev: 1,
  devpts: 2,
  host: 3,
  console: 4,
  mounts: [
    { is: "detached", slot: 5, path: "/data", make: undefined },
    { is: "detached", slot: 6, path: "/run/gimbal/control.sock", make: "file" },
    { is: "tmpfs", path: "/var", sizeBytes: 4096, mode: "755" },
  ],
  hostname: "web",
  memoryBytes: 1 << 26,
  maskProc: true,
  walls: {
    capabilities: 0n,
    noNewPrivs: true,
    seccomp: new Uint8Array(8),
    landlockScopes: 3,
    resourceLimits: [{ op: "rlimit", resource: 4, soft: 0n, hard: 0n }],
  },
  init: { path: "/sbin/init", argv: ["init"], env: [] },
};

const place = (plan: readonly PlanOp[], matches: (op: PlanOp) => boolean) => {
  const index = plan.findIndex(matches);
  if (index < 0) throw new Error("no such operation");
  return index;
};

t.test("each step comes after what it needs", (t) => {
  const plan = startPlan(inputs);
  const at = (op: PlanOp["op"], path?: string) =>
    place(plan, (each) => each.op === op && (path === undefined || ("path" in each && each.path === path)));
  const order = [
    at("reset"),
    at("propagation"),
    at("moveMount", "/staging/l"),
    at("mountFs", "/staging/u"),
    at("mountFs", "/staging/root"),
    at("chdir"),
    at("mountFs", "/proc"),
    at("mountFs", "/sys"),
    at("mountFs", "/sys/fs/cgroup"),
    at("moveMount", "/dev"),
    at("moveMount", "/dev/pts"),
    at("moveMount", "/dev/console"),
    at("mountFs", "/run"),
    at("moveMount", "/run/host"),
    at("moveMount", "/data"),
    at("bind", "/etc/resolv.conf"),
    at("bind", "/proc/kcore"),
    at("openStdio"),
    at("pivot"),
    at("hostname"),
    at("closeOnExec"),
    at("noNewPrivs"),
    at("seccomp"),
    at("exec"),
  ];
  t.same(
    order,
    [...order].sort((a, b) => a - b),
  );
  t.equal(plan.at(-1)?.op, "exec");
  t.doesNotThrow(() => encodePlan(plan));
  t.end();
});

t.test("the folders of a bind below /run are made, those of an image are not", (t) => {
  const plan = startPlan(inputs);
  const made = plan.flatMap((op) => (op.op === "mkdir" || op.op === "file" ? [op.path] : []));
  t.same(made, ["/staging/u/up", "/staging/u/wk", "/run/host", "/run/gimbal", "/run/gimbal/control.sock"]);
  t.end();
});

t.test("a filter needs SYS_ADMIN or no_new_privs: it comes before what takes both away", (t) => {
  const order = (noNewPrivs: boolean, capabilities: bigint) => {
    const ops = wallOps({ ...inputs.walls, noNewPrivs, capabilities }).map(({ op }) => op);
    return ops.indexOf("seccomp") - ops.indexOf("capabilities");
  };
  t.ok(order(true, 0n) > 0, "no_new_privs: last, so that it need not allow the steps before");
  t.ok(order(false, 1n << 21n) > 0, "SYS_ADMIN is kept");
  t.ok(order(false, 0n) < 0, "neither: first");
  t.end();
});

t.test("nothing is masked where it is not asked for", (t) => {
  const plan = startPlan({ ...inputs, maskProc: false });
  const binds = plan.filter((op) => op.op === "bind").map((op) => ("path" in op ? op.path : ""));
  t.same(binds, ["/etc/resolv.conf"]);
  t.end();
});
