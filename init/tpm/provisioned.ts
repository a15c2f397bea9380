/**
 * Whether this device was handed over to its owner: an NV index that exists or not. It lies in the TPM, since it must be known
 * before the disk is open: an emptied disk must not make a provisioned device begin anew. TPM2_Clear takes it away together
 * with the storage key, so that the old disk then opens by its recovery key only.
 */
import { nvDefineSpace, nvReadPublic } from "./commands.ts";
import { execute } from "./execute.ts";
import { rc, refusedWith } from "./response-code.ts";
import { handleEntity } from "./session.ts";
import { permanentHandles } from "./structures.ts";
import type { Transport } from "./transport.ts";

/** In the range of owner-defined indices (TCG registry of reserved handles, 2.2.2). */
const provisionedIndex = 0x01800011;
/** TPMA_NV, Part 2, 13.4: OWNERWRITE, AUTHREAD, OWNERREAD, NO_DA. */
const attributes = 0x2 | 0x40000 | 0x20000 | 0x2000000;

export async function isProvisioned(tpm: Transport): Promise<boolean> {
  try {
    await execute(tpm, nvReadPublic, { index: handleEntity(provisionedIndex) }, {});
    return true;
  } catch (error) {
    // "The handle is not correct for the use": there is no such index.
    if (refusedWith(error, rc.handle)) return false;
    throw error;
  }
}

/** One way: nothing of gimbal undefines the index. Doing it twice changes nothing. */
export async function markProvisioned(tpm: Transport): Promise<void> {
  if (await isProvisioned(tpm)) return;
  const area = {
    index: provisionedIndex,
    nameAlg: "sha256",
    attributes,
    authPolicy: new Uint8Array(),
    dataBytes: 1,
  } as const;
  const hierarchy = handleEntity(permanentHandles.owner);
  await execute(tpm, nvDefineSpace, { hierarchy }, { auth: new Uint8Array(), public: area });
}
