import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t, { type Test } from "tap";
import { GimbalError } from "../../../init/errors.ts";
import { folderSource, type Source } from "../../../init/guestos/source.ts";
import { GuestOsStore, type StorePorts } from "../../../init/guestos/store.ts";
import type { Anchor } from "../../../init/trust/anchors.ts";
import { anchor, day, now, rootCa, signer } from "../trust/certificates.ts";
import { anchors, guestosFolder, image, imageMount, root, signed, volume } from "./fixture.ts";

t.setTimeout(180_000); // two cores may be busy

type Device = {
  readonly store: GuestOsStore;
  readonly folder: string;
  /** A folder with a GuestOS to install. */
  source(more?: Record<string, unknown>, content?: Buffer): string;
  warnings: string[];
};

function device(t: Test, ports: Partial<StorePorts> = {}): Device {
  const base = mkdtempSync(join(tmpdir(), "store-"));
  t.teardown(() => rmSync(base, { recursive: true }));
  const folder = join(base, "guestos");
  mkdirSync(folder);
  const warnings: string[] = [];
  const store = new GuestOsStore({
    folder,
    anchors: () => anchors,
    hardware: "x86-64",
    now: () => now,
    warn: (sentence) => warnings.push(sentence),
    ...ports,
  });
  let count = 0;
  const source = (more: Record<string, unknown> = {}, content: Buffer = image) =>
    guestosFolder(join(base, `source-${++count}`), signed(more), content);
  return { store, folder, source, warnings };
}

const names = (folder: string) =>
  readdirSync(folder)
    .filter((name) => name !== "versions.cbor")
    .sort();

t.test("an installed GuestOS is listed, is the newest, and its images are the source's", async (t) => {
  const { store, folder, source } = device(t);
  t.same(await store.recover(), []);
  t.match(await store.install(source()), { wasThere: false, manifest: { name: "web", version: 1 } });
  t.match(await store.list(), [{ is: "verified", manifest: { name: "web", trustLevel: "SIGNED" } }]);
  t.match(await store.newest("web", 1), { folder: join(folder, "web-1") });
  t.same(names(join(folder, "web-1")), ["installed.json", "manifest.cose", "root.img"]);
  t.ok(readFileSync(join(folder, "web-1", "root.img")).equals(image));
});

t.test("the same GuestOS again changes nothing", async (t) => {
  const { store, source } = device(t);
  const from = source();
  await store.install(from);
  t.match(await store.install(from), { wasThere: true });
  t.equal((await store.list()).length, 1);
});

t.test("a version never goes down and never changes, not even after it was removed", async (t) => {
  const { store, folder, source } = device(t);
  await store.install(source({ version: 10 }));
  await t.rejects(store.install(source({ version: 9 })), {
    code: "guestos-version",
    message: /has had version 10/,
  });
  await t.rejects(store.install(source({ version: 10, description: "other" })), {
    code: "guestos-version",
    message: /a version never changes/,
  });
  await store.install(source({ version: 11 }));
  t.same(names(folder), ["web-10", "web-11"]);
  t.match(await store.newest("web", 0), { manifest: { version: 11 } }, "11 is above 10, not between 1 and 2");
  t.equal(await store.remove("web"), 2);
  t.same(names(folder), []);
  await t.rejects(store.install(source({ version: 10 })), { code: "guestos-version" });
  t.match(await store.install(source({ version: 11, description: "built anew" })), { wasThere: false });
});

t.test("names that begin alike are different GuestOSes", async (t) => {
  const { store, folder, source } = device(t);
  await store.install(source({ name: "web", version: 2 }));
  await store.install(source({ name: "web-1", version: 2 }));
  await store.install(source({ name: "webs", version: 1 }));
  t.match(await store.newest("web", 0), { manifest: { name: "web" } });
  t.equal(await store.remove("web"), 1);
  t.same(names(folder), ["web-1-2", "webs-1"]);
});

t.test("what cannot be trusted is refused before anything is written", async (t) => {
  const { store, folder, source } = device(t, { anchors: () => [] });
  await t.rejects(store.install(source()), { code: "guestos-untrusted" });
  const arm = device(t, { hardware: "arm64" });
  await t.rejects(arm.store.install(arm.source()), { code: "guestos-hardware" });
  await t.rejects(
    device(t).store.install(source({ mounts: [imageMount(), volume({ mount_type: "OVERLAY_RW" })] })),
    {
      code: "unsupported",
      message: /OVERLAY_RW is not supported/,
    },
  );
  t.same(names(folder), []);
});

t.test(
  "an image that is cut, longer, flipped, missing, a link or a folder is refused, and nothing stays",
  async (t) => {
    const { store, folder, source } = device(t);
    const flipped = Buffer.from(image);
    flipped[5000] = 0;
    const cases: readonly (readonly [string, string, (path: string) => void])[] = [
      ["cut", "image-truncated", (path) => truncateSync(path, 8192)],
      ["empty", "image-truncated", (path) => truncateSync(path, 0)],
      ["longer", "image-truncated", (path) => truncateSync(path, 16_384)],
      ["flipped", "guestos-altered", (path) => writeFileSync(path, flipped)],
      ["missing", "guestos-incomplete", (path) => rmSync(path)],
      [
        "a link",
        "guestos-incomplete",
        (path) => {
          rmSync(path);
          writeFileSync(`${path}.real`, image);
          symlinkSync(`${path}.real`, path);
        },
      ],
      [
        "a folder",
        "guestos-incomplete",
        (path) => {
          rmSync(path);
          mkdirSync(path);
        },
      ],
    ];
    for (const [what, code, harm] of cases) {
      const from = source();
      harm(join(from, "root.img"));
      await t.rejects(store.install(from), { code, message: /root\.img/ }, what);
      t.same(readdirSync(folder), [], `nothing stays: ${what}`);
    }
  },
);

t.test("a source without a manifest, or with a huge or broken one, is refused", async (t) => {
  const { store, source } = device(t);
  const from = source();
  writeFileSync(join(from, "manifest.cose"), Buffer.alloc(300_000));
  await t.rejects(store.install(from), { code: "manifest-malformed", message: /more than 262144 octets/ });
  writeFileSync(join(from, "manifest.cose"), "x");
  await t.rejects(store.install(from), { code: "manifest-malformed" });
  rmSync(join(from, "manifest.cose"));
  await t.rejects(store.install(from), { code: "guestos-incomplete", message: /manifest\.cose/ });
  await t.rejects(store.install(join(from, "none")), { code: "guestos-incomplete" });
});

t.test("a source that fails at its n-th read leaves nothing, whichever it is", async (t) => {
  const { store, folder, source } = device(t);
  const from = source();
  let reads = 0;
  const failingAt = (last: number): Source => {
    const inner = folderSource(from);
    let count = 0;
    return {
      async open(name) {
        const file = await inner.open(name);
        return {
          sizeBytes: file.sizeBytes,
          async read(buffer, position) {
            reads = ++count;
            if (count === last) throw Object.assign(new Error("EIO"), { code: "EIO" });
            return file.read(buffer, position);
          },
          [Symbol.asyncDispose]: () => file[Symbol.asyncDispose](),
        };
      },
    };
  };
  await store.install(failingAt(0));
  await store.remove("web");
  rmSync(join(folder, "versions.cbor"));
  t.ok(reads >= 3);
  for (let last = 1; last <= reads; last++) {
    await t.rejects(store.install(failingAt(last)), { message: /EIO/ }, `read ${last}`);
    t.same(readdirSync(folder), [], `read ${last}`);
  }
});

t.test("a disk without room is told before the first write", async (t) => {
  const { store, folder, source } = device(t);
  const huge = 2 ** 42;
  const from = source({ mounts: [imageMount(image, { image_size: huge })] });
  truncateSync(join(from, "root.img"), huge / 2);
  await t.rejects(store.install(from), {
    code: "disk-full",
    message: /MB are free; remove a container or a GuestOS/,
  });
  t.same(readdirSync(folder), []);
});

t.test("a stored GuestOS whose files changed is refused with the reason; others go on", async (t) => {
  const { store, folder, source } = device(t);
  for (const name of ["a", "b", "c", "d", "e"]) await store.install(source({ name }));
  truncateSync(join(folder, "a-1/root.img"), 4096);
  rmSync(join(folder, "b-1/root.img"));
  const bytes = readFileSync(join(folder, "c-1/manifest.cose"));
  bytes[bytes.length - 1] = (bytes.at(-1) ?? 0) ^ 1;
  writeFileSync(join(folder, "c-1/manifest.cose"), bytes);
  writeFileSync(join(folder, "d-1/manifest.cose"), readFileSync(join(folder, "e-1/manifest.cose")));
  const found = await store.list();
  t.same(
    found.map((entry) => (entry.is === "verified" ? "verified" : entry.error.code)),
    ["image-truncated", "guestos-altered", "guestos-signature", "guestos-altered", "verified"],
  );
  await t.rejects(store.newest("a", 0), { code: "image-truncated" });
  await t.rejects(store.newest("x", 0), { code: "guestos-unknown", message: /there is none on this device/ });
  await t.rejects(store.newest("e", 2), {
    code: "guestos-unknown",
    message: /newest version here is 1, and 2 is wanted/,
  });
});

t.test("a damaged GuestOS is installed again", async (t) => {
  const { store, folder, source } = device(t);
  const from = source();
  await store.install(from);
  truncateSync(join(folder, "web-1/root.img"), 4096);
  t.match(await store.install(from), { wasThere: false });
  t.match(await store.list(), [{ is: "verified" }]);
  writeFileSync(join(folder, "web-1/root.img"), Buffer.alloc(image.length));
  t.match(await store.install(from), { wasThere: true }, "a look at sizes only, as at each boot");
  t.match(await store.install(from, { repair: true }), { wasThere: false });
  t.ok(readFileSync(join(folder, "web-1/root.img")).equals(image));
  t.match(await store.install(from, { repair: true }), { wasThere: true });
  t.same(names(folder), ["web-1"]);
});

t.test("where the newest version is damaged the one before is used", async (t) => {
  const { store, folder, source } = device(t);
  await store.install(source({ version: 1 }));
  await store.install(source({ version: 2 }));
  truncateSync(join(folder, "web-2/root.img"), 0);
  t.match(await store.newest("web", 0), { manifest: { version: 1 } });
  await t.rejects(store.newest("web", 2), { code: "guestos-unknown" });
});

t.test(
  "an installed GuestOS lives on when its signer's certificate ends, or the clock starts in the past",
  async (t) => {
    const time = { now };
    const { store, source } = device(t, { now: () => time.now });
    await store.install(source());
    for (const [what, at] of [
      ["expired", new Date(now.getTime() + 1000 * day)],
      ["1970", new Date(0)],
    ] as const) {
      time.now = at;
      t.match(await store.list(), [{ is: "verified" }], what);
      await t.rejects(
        store.install(source({ version: 2 })),
        { code: "guestos-expired" },
        `${what}: nothing new`,
      );
    }
  },
);

t.test("where the date of installation is lost, the present judges", async (t) => {
  const time = { now };
  const { store, folder, source } = device(t, { now: () => time.now });
  await store.install(source());
  for (const text of ["", "{", "null", '{"at":"x"}', '{"at":1e99}', "x".repeat(5000)]) {
    writeFileSync(join(folder, "web-1/installed.json"), text);
    time.now = now;
    t.match(await store.list(), [{ is: "verified" }], text.slice(0, 12));
    time.now = new Date(now.getTime() + 1000 * day);
    t.match(await store.list(), [{ is: "refused", error: { code: "guestos-expired" } }], text.slice(0, 12));
  }
});

t.test("a CA that is no longer trusted takes its GuestOSes with it", async (t) => {
  const trusted: { anchors: readonly Anchor[] } = { anchors };
  const { store, source } = device(t, { anchors: () => trusted.anchors });
  await store.install(source());
  trusted.anchors = [];
  t.match(await store.list(), [{ is: "refused", error: { code: "guestos-untrusted" } }]);
  await t.rejects(store.newest("web", 0), { code: "guestos-untrusted" });
});

t.test("a registered CA's GuestOS takes no name of the platform's", async (t) => {
  const other = rootCa("other");
  const otherLeaf = signer(other);
  const both = [anchor(root), anchor(other, "registered")];
  const { store, folder, source } = device(t, { anchors: () => both });
  const theirs = (version: number) =>
    guestosFolder(`${folder}-${version}`, signed({ version }, { leaf: otherLeaf, chain: [otherLeaf.der] }));
  await store.install(theirs(1));
  await store.install(source({ version: 2 }));
  await t.rejects(store.install(theirs(3)), {
    code: "guestos-untrusted",
    message: /signed under the platform's CA/,
  });
});

t.test("leftovers of a cut go at the next boot, and nothing else", async (t) => {
  const { store, folder, source } = device(t);
  await store.install(source());
  mkdirSync(join(folder, ".incoming-web-2"));
  writeFileSync(join(folder, ".incoming-web-2/root.img"), image);
  mkdirSync(join(folder, ".gone-web-0"));
  mkdirSync(join(folder, "Not a GuestOS"));
  writeFileSync(join(folder, "notes-1"), "");
  t.equal((await store.list()).length, 1, "they are no GuestOSes meanwhile");
  t.same((await store.recover()).toSorted(), [".gone-web-0", ".incoming-web-2"]);
  t.same(names(folder), ["Not a GuestOS", "notes-1", "web-1"]);
});

t.test(
  "a list of versions that is garbage is set aside and told; what is installed is the floor",
  async (t) => {
    const { store, folder, source, warnings } = device(t);
    await store.install(source({ version: 5 }));
    writeFileSync(join(folder, "versions.cbor"), "garbage");
    await t.rejects(store.install(source({ version: 4 })), { code: "guestos-version" });
    t.match(warnings, [/set aside .*versions\.cbor/]);
    t.ok(existsSync(join(folder, "versions.cbor.bad-1")));
  },
);

t.test("installations at once wait for each other", async (t) => {
  const { store, folder, source } = device(t);
  const from = source();
  const results = await Promise.all([
    store.install(from),
    store.install(from),
    store.install(source({ name: "other" })),
    store.install(source({ version: 2 })),
  ]);
  t.same(
    results.map(({ wasThere }) => wasThere),
    [false, true, false, false],
  );
  t.same(names(folder), ["other-1", "web-1", "web-2"]);
});

t.test("removing what is not there removes nothing", async (t) => {
  const { store, source } = device(t);
  await store.install(source());
  for (const name of ["", "..", "web-1", "x/../web", "WEB"]) t.equal(await store.remove(name), 0, name);
  t.equal((await store.list()).length, 1);
});

const asRoot = process.getuid?.() === 0 && "root reads everything";
t.test("a failure below is no refusal of the GuestOS", { skip: asRoot }, async (t) => {
  const { store, folder } = device(t);
  chmodSync(folder, 0);
  await t.rejects(store.list(), (error: unknown) => !(error instanceof GimbalError));
  chmodSync(folder, 0o700);
});
