/**
 * The built images as the kernel reads them: what guestos/check.ts holds a root to, the sizes, and every file's octets against those that
 * fsck.erofs finds (two readers of one format; mkfs.erofs has written images that one of them could not read, field report B37).
 */
import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { closeSync, mkdirSync, mkdtempSync, readFileSync, rmSync, statSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t from "tap";
import { c0 } from "../../../guestos/c0/recipe.ts";
import { checkRoot, listingFormat, parseListing } from "../../../guestos/check.ts";
import { debian } from "../../../guestos/debian/recipe.ts";
import { hello } from "../../../guestos/hello/recipe.ts";
import { AT_FDCWD } from "../../../init/linux.ts";
import { loadKernel } from "../load.ts";
import { buildGuests, builtGuest, mountImage } from "./engine.ts";

buildGuests();
const kernel = loadKernel();
const recipes = { c0: c0(true), debian, hello };
const scratch = mkdtempSync(join(tmpdir(), "gimbal-contents-"));
t.teardown(() => rmSync(scratch, { recursive: true }));

for (const [name, recipe] of Object.entries(recipes)) {
  t.test(`${name}: the image is in order, and both readers find the same octets in it`, async (t) => {
    const guest = builtGuest(name);
    const image = join(guest.folder, "root.img");
    t.ok(statSync(image).size <= recipe.limits.imageBytes, `${statSync(image).size} octets`);
    const [mountPoint, unpacked] = [join(scratch, `${name}.kernel`), join(scratch, `${name}.fsck`)];
    mkdirSync(mountPoint);
    const mount = mountImage(kernel, guest);
    kernel.moveMount(mount, AT_FDCWD, mountPoint);
    closeSync(mount);
    try {
      const listing = execFileSync("find", [mountPoint, "-xdev", "-printf", listingFormat]);
      const entries = parseListing(listing.toString());
      const read = (path: string) => readFile(join(mountPoint, path), "utf8").catch(() => undefined);
      await checkRoot(
        { entries, capable: [], read },
        { name, recipe, mountPoints: guest.manifest.mounts.map((each) => each.mountPoint), hostNames: [] },
      );
      if (recipe.is === "debian") {
        const sources = (await read("/etc/apt/sources.list.d/debian.sources")) ?? "";
        const hosts = [...sources.matchAll(/^URIs: \w+:\/\/([^/]+)/gm)].map(([, host]) => host);
        t.ok(hosts.length > 0, "apt knows an archive");
        t.same(
          hosts.filter((host) => host !== "deb.debian.org"),
          [],
        );
      }
      execFileSync("fsck.erofs", [`--extract=${unpacked}`, image], { stdio: "ignore" });
      const files = entries.filter(({ type }) => type === "f").map(({ path }) => path);
      t.ok(files.length > 0);
      t.same(
        files.filter((path) => digest(join(mountPoint, path)) !== digest(join(unpacked, path))),
        [],
      );
    } finally {
      kernel.umount(mountPoint, 0);
    }
  });
}

const digest = (path: string): string => createHash("sha256").update(readFileSync(path)).digest("hex");
