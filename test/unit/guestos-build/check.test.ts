/** guestos/check.ts: each thing that no image may hold, one at a time in a root that is otherwise good. */
import t from "tap";
import { checkRoot, type Entry, type Expectation, parseListing } from "../../../guestos/check.ts";
import type { Recipe } from "../../../guestos/recipe.ts";

const recipe: Recipe = {
  is: "debian",
  variant: "essential",
  packages: [],
  trees: [],
  masks: { units: [], generators: [] },
  commands: [],
  setuid: ["/usr/bin/su"],
  limits: { imageBytes: 1, executables: 2 },
};
const expected: Expectation = { name: "c0", recipe, mountPoints: ["/home"], hostNames: ["mirror.example"] };

const entry = (path: string, type = "f", mode = 0o644, sizeBytes = 1): Entry => ({
  path,
  type,
  mode,
  uid: 0,
  gid: 0,
  sizeBytes,
});
const directory = (path: string, mode = 0o755) => entry(path, "d", mode);
const good: readonly Entry[] = [
  ...["/", "/dev", "/proc", "/run", "/sys", "/home", "/run/lock", "/root/.ssh"].map((path) =>
    directory(path),
  ),
  directory("/tmp", 0o1777),
  entry("/etc/machine-id", "f", 0o444, 0),
  entry("/etc/shadow", "f", 0o640),
  entry("/etc/apt/sources.list"),
  entry("/usr/bin/su", "f", 0o4755),
  entry("/usr/bin/sh", "l", 0o777),
];
const texts: Record<string, string> = {
  "/etc/shadow": "root:*:1:::::\ndev:!:1:::::\nsshd:!*:1:::::\n",
  "/etc/apt/sources.list": "deb http://deb.debian.org/debian trixie main\n",
};

const check = (entries: readonly Entry[], changed: Record<string, string> = {}, capable: string[] = []) =>
  checkRoot({ entries, capable, read: (path) => Promise.resolve({ ...texts, ...changed }[path]) }, expected);
const without = (path: string) => good.filter((each) => each.path !== path);
const replaced = (other: Entry) => [...without(other.path), other];

t.test("a good root passes", async (t) => {
  await t.resolves(check(good));
});

t.test("every fault is found and named", async (t) => {
  const faults: [RegExp, readonly Entry[], Record<string, string>?, string[]?][] = [
    [/it is empty/, []],
    [/usr\/bin\/mount is setuid/, [...good, entry("/usr/bin/mount", "f", 0o4755)]],
    [/usr\/bin\/chage is setuid or setgid/, [...good, entry("/usr/bin/chage", "f", 0o2755)]],
    [/usr\/bin\/su, which may be setuid, is not/, replaced(entry("/usr/bin/su", "f", 0o755))],
    [/node of type c/, [...good, entry("/dev/null", "c")]],
    [/node of type s/, [...good, entry("/var/socket", "s")]],
    [/everybody may write \/etc\/x/, [...good, entry("/etc/x", "f", 0o666)]],
    [/everybody may write in \/srv/, [...good, directory("/srv", 0o777)]],
    [/it has 3 executables/, [...good, entry("/a", "f", 0o755), entry("/b", "f", 0o755)]],
    [/mount point \/home is missing/, without("/home")],
    [/mount point \/dev is missing/, replaced(entry("/dev", "l"))],
    [/machine-id is not empty/, replaced(entry("/etc/machine-id", "f", 0o444, 33))],
    [/ssh_host_ed25519_key is left over/, [...good, entry("/etc/ssh/ssh_host_ed25519_key")]],
    [/lists\/x_InRelease is left over/, [...good, entry("/var/lib/apt/lists/x_InRelease")]],
    [/dpkg.log is a log/, [...good, entry("/var/log/dpkg.log", "f", 0o644, 0)]],
    [/tmp\/x is left over/, [...good, entry("/tmp/x")]],
    [/account dev is not locked/, good, { "/etc/shadow": "root:*:1\ndev::1\n" }],
    [/account dev is not locked/, good, { "/etc/shadow": "dev:$y$j9T$abc:1\n" }],
    [
      /sources.list names mirror.example/,
      good,
      { "/etc/apt/sources.list": "deb http://mirror.example/debian" },
    ],
    [/bin\/ping has file capabilities/, good, {}, ["usr/bin/ping"]],
  ];
  for (const [message, entries, changed, capable] of faults) {
    await t.rejects(check(entries, changed, capable), { code: "build-failed", message }, String(message));
  }
});

t.test("a listing is read whole, line ends in names too; anything else is an error", (t) => {
  t.same(parseListing("d 755 0 0 60 /\0f 4755 0 4 12 /usr/a b\nc\0"), [
    { path: "/", type: "d", mode: 0o755, uid: 0, gid: 0, sizeBytes: 60 },
    { path: "/usr/a b\nc", type: "f", mode: 0o4755, uid: 0, gid: 4, sizeBytes: 12 },
  ]);
  t.throws(() => parseListing("find: no such file\0"));
  t.end();
});
