/** Standard output and error of the client: what the reader does not take is not asked for, and a reader may go. */

/** The reader of this stream has gone; the client ends as sh(1) would: 128 + SIGPIPE. */
export class OutputClosed extends Error {
  override readonly name = "OutputClosed";
}

/** Resolves when the octets are on their way to the reader. Rejects with OutputClosed, or where a file takes no more. */
export function writeTo(stream: NodeJS.WriteStream, octets: Uint8Array | string): Promise<void> {
  if (stream.listenerCount("error") === 0) stream.on("error", () => {}); // told below, to who wrote
  return new Promise((resolve, reject) => {
    stream.write(octets, (error: NodeJS.ErrnoException | null | undefined) => {
      if (!error) return resolve();
      const isGone = error.code === "EPIPE" || error.code === "EIO" || error.code === "ERR_STREAM_DESTROYED";
      return reject(
        isGone ? new OutputClosed(error.message) : new Error(`cannot write the output: ${error.message}`),
      );
    });
  });
}
