/**
 * How octets reach a TPM and come back. Everything above takes a `Transport` as its first parameter, so that a test
 * can hand in a software TPM, or make the n-th command fail.
 */
import { open } from "node:fs/promises";
import { connect, type Socket } from "node:net";
import { GimbalError, reasonOf } from "../errors.ts";

/** Sends one whole command, resolves with its whole response. Calls are carried out one after the other. */
export interface Transport {
  execute(command: Uint8Array): Promise<Uint8Array>;
}

/** A transport that owns a descriptor. After disposal every call is refused. */
export type OpenTransport = Transport & AsyncDisposable;

/** TPM_PT_MAX_COMMAND_SIZE and _RESPONSE_SIZE of PC client TPMs. */
export const transportMaxBytes = 4096;

const headerBytes = 10;

/** What a kind of channel does for one command, without a queue and without limits. */
type Channel = {
  readonly name: string;
  readonly timeoutMs: number;
  exchange(command: Uint8Array): Promise<Uint8Array>;
  close(): Promise<void>;
};

/**
 * Opens the kernel's TPM behind its resource manager. What a process leaves loaded there goes with the descriptor.
 * Throws "tpm-absent" where there is no such device.
 * @param timeoutMs the kernel gives up by itself after at most five minutes; this is the limit before that
 */
export async function openTpmDevice(path = "/dev/tpmrm0", timeoutMs = 120_000): Promise<OpenTransport> {
  const file = await open(path, "r+").catch((error: unknown) => {
    const code = error instanceof Error && "code" in error ? error.code : undefined;
    const absent = code === "ENOENT" || code === "ENODEV" || code === "ENXIO";
    throw new GimbalError(
      absent ? "tpm-absent" : "tpm-failure",
      {
        tried: "open the TPM",
        on: path,
        why: absent ? "there is no such device" : reasonOf(error),
        todo: "check that the firmware shows a TPM 2.0 and that its driver is loaded",
      },
      error,
    );
  });
  return queued({
    name: path,
    timeoutMs,
    // write(2) returns when the TPM has carried the command out; both calls run on the thread pool.
    async exchange(command) {
      await file.write(command, 0, command.length, null);
      const buffer = new Uint8Array(transportMaxBytes);
      const { bytesRead } = await file.read(buffer, 0, buffer.length, null);
      return buffer.subarray(0, bytesRead);
    },
    close: () => file.close(),
  });
}

/** Connects to the data channel of a software TPM (swtpm's --server type=unixio). No resource manager is behind it. */
export async function connectSwtpm(socketPath: string, timeoutMs = 30_000): Promise<OpenTransport> {
  const socket = await new Promise<Socket>((resolve, reject) => {
    const candidate = connect(socketPath);
    candidate.once("connect", () => resolve(candidate));
    candidate.once("error", (cause) =>
      reject(
        new GimbalError(
          "tpm-absent",
          { tried: "connect to the software TPM", on: socketPath, why: cause.message },
          cause,
        ),
      ),
    );
  });
  return queued({
    name: socketPath,
    timeoutMs,
    exchange: (command) => exchangeOnSocket(socket, command),
    close: () =>
      new Promise<void>((resolve) => {
        if (socket.closed) return resolve(); // the other end was quicker
        socket.once("close", () => resolve());
        socket.destroy();
      }),
  });
}

/** Writes a command and gathers octets until the response's own length is reached. */
function exchangeOnSocket(socket: Socket, command: Uint8Array): Promise<Uint8Array> {
  return new Promise<Uint8Array>((resolve, reject) => {
    let gathered = Buffer.alloc(0);
    const finish = (act: () => void) => {
      socket.off("data", onData).off("error", onError).off("close", onClose);
      act();
    };
    const onError = (error: Error) => finish(() => reject(error));
    const onClose = () => finish(() => reject(new Error("the connection was closed")));
    const onData = (chunk: Buffer) => {
      gathered = Buffer.concat([gathered, chunk]);
      if (gathered.length > transportMaxBytes) return finish(() => resolve(gathered));
      if (gathered.length < headerBytes || gathered.length < gathered.readUInt32BE(2)) return;
      finish(() => resolve(gathered));
    };
    if (socket.destroyed) return reject(new Error("the connection was closed"));
    socket.on("data", onData).once("error", onError).once("close", onClose);
    socket.write(command);
  });
}

/** One command at a time, within its limits. A command that timed out leaves the channel unusable: its answer may still come. */
function queued(channel: Channel): OpenTransport {
  let last: Promise<unknown> = Promise.resolve();
  let broken: string | undefined;
  const refuse = (why: string, cause?: unknown) =>
    new GimbalError("tpm-failure", { tried: "send a command to the TPM", on: channel.name, why }, cause);

  const run = async (command: Uint8Array): Promise<Uint8Array> => {
    if (broken !== undefined) throw refuse(broken);
    if (command.length > transportMaxBytes) throw refuse(`the command has ${command.length} octets`);
    const response = await limited(channel.exchange(command), channel.timeoutMs).catch((cause: unknown) => {
      broken = `an earlier command failed (${reasonOf(cause)})`;
      throw refuse(reasonOf(cause), cause);
    });
    const declared = response.length < headerBytes ? -1 : readU32(response, 2);
    if (declared !== response.length || response.length > transportMaxBytes) {
      broken = "an earlier response was malformed";
      throw refuse(`the response has ${response.length} octets and declares ${declared}`);
    }
    return response;
  };
  return {
    execute(command) {
      const mine = last.then(
        () => run(command),
        () => run(command), // whoever asked for the command before was told of its failure
      );
      last = mine;
      return mine;
    },
    async [Symbol.asyncDispose]() {
      if (broken === "it was closed") return;
      await last.catch(() => undefined); // its own caller was told
      broken = "it was closed";
      await channel.close();
    },
  };
}

function readU32(bytes: Uint8Array, offset: number): number {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.length).getUint32(offset);
}

function limited<T>(work: Promise<T>, timeoutMs: number): Promise<T> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const limit = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`no answer within ${timeoutMs} ms`)), timeoutMs);
  });
  return Promise.race([work, limit]).finally(() => clearTimeout(timer));
}
