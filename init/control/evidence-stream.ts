/** `attest`: evidence may be longer than a frame, since the kernel's list grows; so its octets are streamed. */
import type { CborValue } from "../bytes/cbor.ts";
import type { Channel, OpenStream } from "./channel.ts";
import type { Row } from "./handlers.ts";

export function evidenceStream(answer: Row, channel: Channel): OpenStream {
  return { take: () => "sends input to attest", heldBytes: 0, ended: send(answer, channel) };
}

async function send(answer: Row, channel: Channel): Promise<CborValue> {
  const result = new Map(answer);
  const evidence = answer.get("evidence");
  if (!(evidence instanceof Uint8Array)) return result;
  result.delete("evidence");
  result.set("evidence_bytes", evidence.length);
  await channel.octets("stdout", evidence);
  return result;
}
