/** Links in network namespaces of their own: nothing of this machine's network is touched. */
import { spawn } from "node:child_process";
import { closeSync, openSync } from "node:fs";
import t from "tap";
import {
  bringLoopbackUp,
  createVeth,
  deleteLink,
  findLink,
  listLinks,
  moveLink,
  renameLink,
  setLinkUp,
} from "../../../init/net/links.ts";
import { loadKernel } from "../load.ts";

if (process.getuid?.() !== 0) {
  t.plan(0, "needs root");
  process.exit(0);
}
const kernel = loadKernel();

/** A process in a network namespace of its own, and the namespace. */
async function namespace(): Promise<{ fd: number; end: () => void }> {
  const child = spawn("unshare", ["--net", "sh", "-c", "echo; exec sleep 60"], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  await new Promise((resolve) => child.stdout.once("data", resolve));
  const fd = openSync(`/proc/${child.pid}/ns/net`, "r");
  return {
    fd,
    end: () => {
      closeSync(fd);
      child.kill("SIGKILL");
    },
  };
}
const names = (netnsFd: number) => listLinks(kernel, netnsFd).map(({ name }) => name);
t.test("refusals name the link and the kernel's reason", async (t) => {
  const { fd, end } = await namespace();
  t.throws(() => setLinkUp(kernel, fd, "eth7", true), { code: "not-found" });
  const other = await namespace();
  t.throws(() => moveLink(kernel, fd, "lo", other.fd), {
    code: "netlink-refused",
    message: /"lo": the kernel says E/,
  });
  other.end();
  t.throws(() => listLinks(kernel, openSync("/dev/null", "r")), {
    code: "netlink-refused",
    message: /setns/,
  });
  end();
});

t.test("a new namespace's loopback comes up", async (t) => {
  const { fd, end } = await namespace();
  t.match(findLink(kernel, fd, "lo"), { up: false, index: 1 });
  bringLoopbackUp(kernel, fd);
  t.match(findLink(kernel, fd, "lo"), { up: true });
  end();
});

t.test("a veth pair is made in place, moved, renamed, and goes with one end", async (t) => {
  const before = names(-1);
  const a = await namespace();
  const b = await namespace();
  const mac = "02:11:22:33:44:55";
  createVeth(kernel, { name: "gouter", netnsFd: a.fd }, { name: "eth0", netnsFd: b.fd, mac });
  t.match(findLink(kernel, b.fd, "eth0"), { mac, kind: "veth", up: false });
  t.throws(() => createVeth(kernel, { name: "gouter", netnsFd: a.fd }, { name: "eth1", netnsFd: b.fd }), {
    code: "netlink-refused",
    message: /EEXIST/,
  });
  setLinkUp(kernel, b.fd, "eth0", true);
  renameLink(kernel, b.fd, "eth0", "lan");
  t.match(findLink(kernel, b.fd, "lan"), { up: false, mac });
  moveLink(kernel, b.fd, "lan", a.fd, "back");
  t.ok(names(a.fd).includes("back"));
  t.notOk(names(b.fd).includes("lan"));
  deleteLink(kernel, a.fd, "gouter");
  t.notOk(names(a.fd).includes("back"), "its peer went with it");
  deleteLink(kernel, a.fd, "gouter");
  a.end();
  b.end();
  t.same(names(-1), before, "this machine's links are as before");
});
