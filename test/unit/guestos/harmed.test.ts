/** The store, over the harmed GuestOSes that system tests put on a device: the same refusals without a device. */
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t from "tap";
import { GuestOsStore } from "../../../init/guestos/store.ts";
import { readAnchors } from "../../../init/trust/anchors.ts";
import {
  builtFolder,
  builtGuest,
  harmedGuestoses,
  remade,
  withFlippedBlock,
} from "../../system/guestos/harmed.ts";

const skip = !existsSync(builtFolder) && "build/guestos is not built: node guestos/build.ts x64";

t.test(
  "each harmed GuestOS is refused with its code and sentence; good ones are installed",
  { skip },
  async (t) => {
    const base = mkdtempSync(join(tmpdir(), "harmed-"));
    t.teardown(() => rmSync(base, { recursive: true }));
    const platform = readAnchors("build/keys", "platform").anchors.filter(({ certificate }) =>
      certificate.subject.includes("platform CA"),
    );
    const store = new GuestOsStore({
      folder: join(base, "store"),
      anchors: () => platform,
      hardware: "x86-64",
      now: () => new Date(),
    });
    await store.recover();
    const good = builtGuest("hello");
    const harmed = await harmedGuestoses(good, join(base, "sources"));
    t.ok(harmed.length >= 9);
    for (const { folder, name, code, sentence } of harmed)
      await t.rejects(store.install(folder), { code, message: sentence }, name);
    t.same(await store.list(), []);
    await store.install(remade(good, join(base, "sources"), "good"));
    await store.install(withFlippedBlock(good, join(base, "sources"), "first-block", 1024));
    t.equal((await store.list()).length, 2, "a block that only dm-verity sees is seen at the start");
  },
);
