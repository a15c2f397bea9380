/** Joins standard input and output to a unix socket: how tpm2-tools (TCTI "cmd:") reach a software TPM's data channel. */
import { connect } from "node:net";

const socket = connect(process.argv[2] ?? "");
process.stdin.pipe(socket);
socket.pipe(process.stdout);
socket.on("error", () => {
  process.exitCode = 1;
});
