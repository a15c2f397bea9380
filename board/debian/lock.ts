/** `node board/debian/lock.ts`: writes board/debian.lock.json anew with what the archive offers now. */
import { writeAtomic } from "../../initramfs/cache.ts";
import { type Architecture, PrivateApt } from "./apt.ts";
import { type Locked, lockPath, newest } from "./packages.ts";
import { imagePackages } from "./wanted.ts";

const lock: Record<Architecture, Record<string, Locked>> = { amd64: {}, arm64: {} };
const apt = await PrivateApt.open("amd64");
await apt.update();
for (const [name, locked] of await newest(apt, [...imagePackages].sort())) lock.amd64[name] = locked;
await writeAtomic(lockPath, `${JSON.stringify(lock, undefined, 2)}\n`);
process.stderr.write(`  LOCK  ${Object.keys(lock.amd64).length} packages\n`);
