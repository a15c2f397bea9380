/** Runs a program as root, or as one who looks like it: files then carry the ids of a user namespace. */
import { command } from "../initramfs/command.ts";

/** @throws GimbalError "build-failed" */
export async function asRoot(program: string, args: readonly string[]): Promise<Buffer> {
  if (process.getuid?.() === 0) return await command(program, args);
  return await command("unshare", ["--map-root-user", "--map-auto", "--", program, ...args], {
    todo: "a line for this user in /etc/subuid and /etc/subgid is needed (usermod --add-subuids), or run the build as root",
  });
}
