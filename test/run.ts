/**
 * Runs rings of tests: `node test/run.ts lint unit kernel smoke`. Each test file is a process of its own with a time
 * limit, its TAP goes to build/test/, and what failed is shown. The last line is "N passed, N failed" over all rings;
 * a ring that ran nothing has failed. Exit status 0 only if nothing failed.
 */
import { spawn } from "node:child_process";
import { createWriteStream, globSync, mkdirSync, readFileSync } from "node:fs";
import { basename, dirname, join } from "node:path";

type Count = { passed: number; failed: number; skipped: number };
type Job = { name: string; command: string; args: readonly string[]; tap: boolean; limitMs: number };

const node = process.execPath;
const minute = 60_000;

const lint: readonly Job[] = [
  job("biome", "node_modules/.bin/biome", ["ci", "--error-on-warnings", "."]),
  job("types", node, ["node_modules/typescript/bin/tsc", "-p", "."]),
  job("clang-format", "bash", [
    "-c",
    "clang-format --dry-run -Werror addon/*.cc addon/*.h addon/shim/*.c addon/shim/*.h",
  ]),
];

/** How many jobs of a ring run at once: system tests share two cores with QEMU itself. */
const rings: Record<string, { jobs: () => readonly Job[]; atOnce: number }> = {
  lint: { jobs: () => lint, atOnce: 2 },
  unit: { jobs: () => files("test/unit/**/*.test.ts", 5 * minute), atOnce: 2 },
  kernel: { jobs: () => files("test/kernel/**/*.test.ts", 5 * minute), atOnce: 1 },
  smoke: { jobs: () => files("test/system/smoke/*.test.ts", 20 * minute), atOnce: 1 },
  system: { jobs: () => files("test/system/**/*.test.ts", 60 * minute), atOnce: 1 },
};

function job(name: string, command: string, args: readonly string[]): Job {
  return { name, command, args, tap: false, limitMs: 10 * minute };
}

function files(pattern: string, limitMs: number): Job[] {
  const found = globSync(pattern).sort();
  return found.map((file) => ({ name: file, command: node, args: [file], tap: true, limitMs }));
}

/** Counts the top level of a TAP 14 stream: the tests of a file, not each assertion. */
export function countTap(text: string): Count {
  const count = { passed: 0, failed: 0, skipped: 0 };
  for (const line of text.split("\n")) {
    if (/^ok\b.*# (SKIP|TODO)/i.test(line)) count.skipped++;
    else if (/^ok\b/.test(line)) count.passed++;
    else if (/^not ok\b/.test(line)) count.failed++;
  }
  return count;
}

async function runJob({ name, command, args, tap, limitMs }: Job): Promise<Count> {
  const logPath = join("build/test", `${name.replace(/\.ts$/, "")}.log`);
  mkdirSync(dirname(logPath), { recursive: true });
  const log = createWriteStream(logPath);
  const started = Date.now();
  const child = spawn(command, args, {
    stdio: ["ignore", "pipe", "pipe"],
    // The limit is the one above; tap's own of 30 s is shorter than a busy machine needs.
    env: { ...process.env, FORCE_COLOR: "0", TAP_TIMEOUT: String(limitMs / 1000) },
  });
  child.stdout.pipe(log, { end: false });
  child.stderr.pipe(log, { end: false });
  const timer = setTimeout(() => child.kill("SIGKILL"), limitMs);
  const ended = await new Promise<string | number>((resolve) => {
    child.once("error", (error) => resolve(error.message));
    child.once("close", (status, signal) => resolve(status ?? signal ?? "unknown"));
  });
  clearTimeout(timer);
  await new Promise((resolve) => log.end(resolve));
  const text = readFileSync(logPath, "utf8");
  const count = tap ? countTap(text) : { passed: ended === 0 ? 1 : 0, failed: 0, skipped: 0 };
  // A file that ended badly without saying which test, or that tested nothing, has failed.
  if (count.failed === 0 && (ended !== 0 || count.passed + count.skipped === 0)) count.failed = 1;
  const seconds = ((Date.now() - started) / 1000).toFixed(1);
  console.log(`${count.failed > 0 ? "FAIL" : "  ok"}  ${name}  ${count.passed} passed  ${seconds} s`);
  if (count.failed > 0) console.log(`${excerpt(text, tap)}\n      exit ${ended}, all of it in ${logPath}`);
  return count;
}

/** The failed tests of a TAP log with what follows them, or the end of any other log. */
function excerpt(text: string, tap: boolean): string {
  const lines = text.split("\n");
  const at = tap ? lines.findIndex((line) => /^\s*not ok\b/.test(line)) : -1;
  const shown = at < 0 ? lines.slice(-40) : lines.slice(at, at + 40);
  return shown.map((line) => `      ${line}`).join("\n");
}

async function runRing(name: string): Promise<Count> {
  const ring = rings[name];
  if (!ring) throw new Error(`no ring ${name}: ${Object.keys(rings).join(", ")}`);
  const waiting = [...ring.jobs()];
  const total: Count = { passed: 0, failed: waiting.length === 0 ? 1 : 0, skipped: 0 };
  const worker = async () => {
    for (let next = waiting.shift(); next; next = waiting.shift()) {
      const count = await runJob(next);
      total.passed += count.passed;
      total.failed += count.failed;
      total.skipped += count.skipped;
    }
  };
  console.log(`# ${name}: ${waiting.length} jobs`);
  await Promise.all(Array.from({ length: ring.atOnce }, worker));
  return total;
}

if (basename(process.argv[1] ?? "") === "run.ts") {
  const total: Count = { passed: 0, failed: 0, skipped: 0 };
  for (const name of process.argv.slice(2)) {
    const count = await runRing(name);
    total.passed += count.passed;
    total.failed += count.failed;
    total.skipped += count.skipped;
  }
  console.log(
    `${total.passed} passed, ${total.failed} failed${total.skipped > 0 ? `, ${total.skipped} skipped` : ""}`,
  );
  process.exitCode = total.failed > 0 || total.passed === 0 ? 1 : 0;
}
