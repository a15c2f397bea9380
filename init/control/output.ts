/** Standard output and error of the client: what the reader does not take is not asked for, and a reader may go. */

/** The reader of this stream has gone; the client ends as sh(1) would: 128 + SIGPIPE. */
export class OutputClosed extends Error {
  override readonly name = "OutputClosed";
}

/** Resolves when the octets are on their way to the reader. Rejects with OutputClosed. */
export function writeTo(stream: NodeJS.WriteStream, octets: Uint8Array | string): Promise<void> {
  if (stream.listenerCount("error") === 0) stream.on("error", () => {}); // told below, to who wrote
  return new Promise((resolve, reject) => {
    stream.write(octets, (error) => (error ? reject(new OutputClosed(error.message)) : resolve()));
  });
}
