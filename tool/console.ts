/**
 * The terminal of `make run`: the device's serial console, raw, so that every key reaches the device. Ctrl-A is the one
 * key that does not: Ctrl-A x ends QEMU, Ctrl-A a sends a Ctrl-A, Ctrl-A h lists these.
 */
import type { Machine } from "../board/qemu.ts";

const ctrlA = 0x01;
const help = [
  "",
  "  Ctrl-A x   end QEMU at once, as if the power were cut",
  "  Ctrl-A a   send a Ctrl-A to the device",
  "  Ctrl-A h   this list",
  "",
].join("\r\n");

/** Connects this terminal with the machine's console until QEMU ends; then the terminal is as it was. */
export async function attachTerminal(machine: Machine): Promise<number | string> {
  const { stdin, stdout } = process;
  const keys = new KeyFilter();
  const screen = new FirmwareFilter();
  const onKeys = (chunk: Buffer) => {
    const { forward, actions } = keys.take(chunk);
    if (forward.length > 0) machine.serial.write(forward);
    for (const action of actions) act(action, machine);
  };
  machine.serial.on("data", (chunk: Buffer) => stdout.write(screen.take(chunk)));
  stdin.setRawMode(true);
  stdin.on("data", onKeys);
  stdin.resume();
  try {
    return await machine.ended;
  } finally {
    stdin.off("data", onKeys);
    stdin.setRawMode(false);
    stdin.pause();
    // What a full-screen program of the device may have left behind: colours, a hidden cursor, the other screen.
    stdout.write("\x1b[?1049l\x1b[?25h\x1b[0m\r\n");
  }
}

type Action = "quit" | "help";

function act(action: Action, machine: Machine): void {
  if (action === "help") process.stdout.write(help);
  else void machine.monitor.command("quit");
}

/** Finds Ctrl-A and the key behind it in what the terminal sends, also when the two come apart. */
export class KeyFilter {
  #armed = false;

  take(chunk: Uint8Array): { forward: Buffer; actions: Action[] } {
    const forward: number[] = [];
    const actions: Action[] = [];
    for (const key of chunk) {
      if (!this.#armed) {
        if (key === ctrlA) this.#armed = true;
        else forward.push(key);
        continue;
      }
      this.#armed = false;
      const letter = String.fromCharCode(key).toLowerCase();
      if (letter === "x") actions.push("quit");
      else if (letter === "h" || letter === "?") actions.push("help");
      else if (letter === "a" || key === ctrlA) forward.push(ctrlA);
    }
    return { forward: Buffer.from(forward), actions };
  }
}

/** What firmware writes to clear and position a screen that is not there. */
// biome-ignore lint/suspicious/noControlCharactersInRegex: escape sequences begin with one
const firmwareSequences = /\x1b\[(=3h|2J|01;01H|8;\d+;\d+t)/g;

/** Keeps the firmware from clearing the user's terminal. The device's own sequences, from the kernel on, pass. */
export class FirmwareFilter {
  #over = false;

  take(chunk: Buffer): Buffer {
    if (this.#over) return chunk;
    const text = chunk.toString("latin1");
    const start = /BdsDxe: starting Boot[^\n]*\n/.exec(text);
    if (start === null) return Buffer.from(text.replace(firmwareSequences, ""), "latin1");
    this.#over = true;
    const end = start.index + start[0].length;
    return Buffer.from(text.slice(0, end).replace(firmwareSequences, "") + text.slice(end), "latin1");
  }
}
