import { mkdtemp, rm } from "node:fs/promises";
import { createServer, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t from "tap";
import { pcrRead } from "../../../init/tpm/commands.ts";
import { execute } from "../../../init/tpm/execute.ts";
import { connectSwtpm, openTpmDevice, type Transport } from "../../../init/tpm/transport.ts";

const octets = (hex: string) => new Uint8Array(Buffer.from(hex.replaceAll(" ", ""), "hex"));
const fine = octets("8001 0000000a 00000000");
const command = octets("8001 0000000a 00000181");

/** A server on a socket that answers as a test tells it. */
async function serve(answer: (command: Buffer, socket: Socket) => void) {
  const folder = await mkdtemp(join(tmpdir(), "gimbal-transport-"));
  const path = join(folder, "s");
  const sockets = new Set<Socket>();
  const server = createServer((socket) => {
    sockets.add(socket);
    socket.on("error", () => socket.destroy());
    socket.on("data", (data) => answer(data, socket));
  });
  await new Promise<void>((resolve) => server.listen(path, resolve));
  return {
    path,
    async [Symbol.asyncDispose]() {
      for (const socket of sockets) socket.destroy();
      await new Promise((resolve) => server.close(resolve));
      await rm(folder, { recursive: true });
    },
  };
}

t.test("a TPM that is not there is tpm-absent", async (t) => {
  await t.rejects(openTpmDevice("/dev/no-such-tpm"), {
    code: "tpm-absent",
    message: /there is no such device/,
  });
  await t.rejects(connectSwtpm("/no/such/socket"), { code: "tpm-absent" });
});

t.test("responses that lie about their length are refused, and so is everything after", async (t) => {
  const lies = {
    "shorter than it says": "8001 0000000b 00000000",
    "longer than it says": "8001 0000000a 00000000 00",
    "no header": "8001",
    "a length of zero": "8001 00000000 00000000",
    "a length of 4 GiB": "8001 ffffffff 00000000",
    "much too long": "00".repeat(5000),
  };
  for (const [name, response] of Object.entries(lies)) {
    await using server = await serve((_, socket) => {
      socket.write(octets(response));
    });
    await using tpm = await connectSwtpm(server.path, 200);
    await t.rejects(tpm.execute(command), { code: "tpm-failure" }, name);
    await t.rejects(tpm.execute(command), { code: "tpm-failure", message: /an earlier/ }, name);
  }
});

t.test("a TPM that does not answer, or hangs up, is a failure within the limit", async (t) => {
  await using silent = await serve(() => undefined);
  await using one = await connectSwtpm(silent.path, 100);
  await t.rejects(one.execute(command), { code: "tpm-failure", message: /no answer within 100 ms/ });
  await using rude = await serve((_, socket) => socket.destroy());
  await using two = await connectSwtpm(rude.path, 5000);
  await t.rejects(two.execute(command), { code: "tpm-failure", message: /closed/ });
});

t.test("commands are sent one after the other, and a response may come in pieces", async (t) => {
  let open = 0;
  await using server = await serve((_, socket) => {
    open++;
    setTimeout(() => socket.write(fine.subarray(0, 3)), 5);
    setTimeout(() => {
      t.equal(open, 1, "no second command before the answer");
      open--;
      socket.write(fine.subarray(3));
    }, 10);
  });
  await using tpm = await connectSwtpm(server.path);
  const answers = await Promise.all([1, 2, 3].map(() => tpm.execute(command)));
  t.same(answers, [fine, fine, fine]);
});

t.test("after disposal every call is refused; twice is harmless", async (t) => {
  await using server = await serve((_, socket) => socket.write(fine));
  const tpm = await connectSwtpm(server.path);
  await tpm[Symbol.asyncDispose]();
  await tpm[Symbol.asyncDispose]();
  await t.rejects(tpm.execute(command), { code: "tpm-failure", message: /closed/ });
});

t.test("execute tries again while the TPM asks for it, and not for ever", async (t) => {
  const codes = ["00000922", "00000908", "0000090a"];
  let sent = 0;
  const busy: Transport = {
    execute: async () => octets(`8001 0000000a ${codes[sent++] ?? "00000101"}`),
  };
  const request = { pcrs: [] };
  await t.rejects(execute(busy, pcrRead, {}, request), { code: "tpm-failure", message: /TPM_RC_FAILURE/ });
  t.equal(sent, 4);
  let always = 0;
  const stuck: Transport = {
    execute: async () => {
      always++;
      return octets("8001 0000000a 00000922");
    },
  };
  await t.rejects(execute(stuck, pcrRead, {}, request), { message: /TPM_RC_RETRY/ });
  t.equal(always, 8);
  const locked: Transport = { execute: async () => octets("8001 0000000a 00000921") };
  await t.rejects(execute(locked, pcrRead, {}, request), {
    message: /dictionary attacks.*leave the device switched on/,
  });
});

t.test("execute refuses a response that is malformed in any way", async (t) => {
  // update counter 20, no selection, no digest
  const good = octets("8001 00000016 00000000 00000014 00000000 00000000");
  await execute({ execute: async () => good }, pcrRead, {}, { pcrs: [] });
  for (let length = 0; length < good.length; length++) {
    const cut = good.slice(0, length);
    if (length >= 10) new DataView(cut.buffer).setUint32(2, length);
    const tpm: Transport = { execute: async () => cut };
    await t.rejects(execute(tpm, pcrRead, {}, { pcrs: [] }), { code: "tpm-failure" }, `${length} octets`);
  }
});
