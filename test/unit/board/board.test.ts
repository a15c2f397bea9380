import { readFileSync } from "node:fs";
import { join } from "node:path";
import t from "tap";
import { boardNames, loadBoard } from "../../../board/board.ts";
import { commandLineOf } from "../../../board/command-line.ts";
import { layoutOf } from "../../../board/image.ts";

const documented = readFileSync(join(import.meta.dirname, "../../../docs/kernel-command-line.md"), "utf8");

t.test("an unknown board is refused with the list of those there are", async (t) => {
  for (const name of ["", "nosuch", "../init", "QEMU"]) {
    await t.rejects(
      loadBoard(name),
      { code: "build-failed", message: /choose one of: qemu-x86-64, x86-64/ },
      name,
    );
  }
});

t.test("each board is named as its folder, and its partitions lie in whole MiB", async (t) => {
  t.ok(boardNames().length >= 2);
  for (const name of boardNames()) {
    const board = await loadBoard(name);
    t.equal(board.name, name);
    const { boot, data } = layoutOf(board.disk);
    t.ok([boot, data].every(({ offsetBytes, sizeBytes }) => (offsetBytes | sizeBytes) % (1 << 20) === 0));
    t.equal(new Set(board.modules).size, board.modules.length, "no module twice");
  }
});

t.test("each word of each kernel command line is explained in docs/kernel-command-line.md", async (t) => {
  for (const name of boardNames()) {
    for (const word of commandLineOf(await loadBoard(name)).split(" ")) {
      t.ok(documented.includes(`\`${word}\``), `${name}: ${word}`);
    }
  }
});
