/**
 * A software TPM as a manufacturer delivers it: with an endorsement key and its certificate, by a CA that lives in the
 * cache folder. swtpm's own default, /var/lib/swtpm-localca, belongs to one system user only.
 */
import { mkdir, rename, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { cacheRoot } from "../initramfs/cache.ts";
import { command } from "../initramfs/command.ts";

/** Makes `folder`/tpm, which appears whole. */
export async function makeTpm(folder: string): Promise<void> {
  const config = await manufacturer();
  await rm(join(folder, "tpm.new"), { recursive: true, force: true });
  await mkdir(join(folder, "tpm.new"), { recursive: true });
  await command(
    "swtpm_setup",
    [
      ...[
        "--tpm2",
        "--tpmstate",
        "tpm.new",
        "--config",
        config,
        "--create-ek-cert",
        "--create-platform-cert",
      ],
      ...["--pcr-banks", "sha256", "--overwrite"],
    ],
    { cwd: folder },
  );
  await rename(join(folder, "tpm.new"), join(folder, "tpm"));
}

/** The settings of swtpm_setup for our own CA; swtpm_localca makes its keys at first use. */
async function manufacturer(): Promise<string> {
  const folder = join(cacheRoot, "tpm-manufacturer");
  await mkdir(folder, { recursive: true, mode: 0o700 });
  const at = (name: string) => join(folder, name);
  const settings: Readonly<Record<string, readonly string[]>> = {
    "swtpm_setup.conf": [
      "create_certs_tool = swtpm_localca",
      `create_certs_tool_config = ${at("swtpm-localca.conf")}`,
      `create_certs_tool_options = ${at("swtpm-localca.options")}`,
    ],
    "swtpm-localca.conf": [
      `statedir = ${folder}`,
      `signingkey = ${at("signkey.pem")}`,
      `issuercert = ${at("issuercert.pem")}`,
      `certserial = ${at("certserial")}`,
    ],
    "swtpm-localca.options": [
      "--platform-manufacturer gimbal",
      "--platform-version 1",
      "--platform-model QEMU",
    ],
  };
  for (const [name, lines] of Object.entries(settings)) await writeFile(at(name), `${lines.join("\n")}\n`);
  return at("swtpm_setup.conf");
}
