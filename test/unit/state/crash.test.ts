/** Kills a writing process at random instants: its file is whole, old or new, each time. */
import { spawn } from "node:child_process";
import { mkdtempSync, readdirSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import t from "tap";
import { readStateFile, removeLeftovers } from "../../../init/state/file.ts";

t.setTimeout(240_000); // tap's own 30 s are for the whole file, and the machine may be busy
const kills = 20;
const sizeBytes = 20_000;

t.test("a writer killed at a random instant leaves one whole version", async (t) => {
  const dir = mkdtempSync(join(tmpdir(), "gimbal-crash-"));
  const path = join(dir, "state");
  let versions = 0;
  for (let round = 0; round < kills; round++) {
    const writer = spawn(process.execPath, [fileURLToPath(import.meta.resolve("./crash-writer.ts")), path], {
      stdio: ["ignore", "pipe", "inherit"],
    });
    const ended = new Promise((resolve) => writer.once("close", resolve));
    await new Promise((resolve) => writer.stdout.once("data", resolve)); // it has written at least once
    await new Promise((resolve) => setTimeout(resolve, Math.random() * 30));
    writer.kill("SIGKILL");
    await ended;
    const read = await readStateFile(path, sizeBytes);
    if (read.is !== "bytes") throw new Error("the file is gone");
    const [first] = read.bytes;
    if (read.bytes.length !== sizeBytes || read.bytes.some((octet) => octet !== first))
      throw new Error(`torn in round ${round}`);
    versions += first ?? 0;
    await removeLeftovers(dir);
    t.same(readdirSync(dir), ["state"], `round ${round}`);
  }
  t.ok(versions > 0, "something was written");
});
