import type { Board } from "../board.ts";
import { commonModules, virtioModules } from "../modules.ts";

/** PCs and industrial x86 boards with UEFI Secure Boot and a TPM 2.0. */
export const board: Board = {
  name: "x86-64",
  title: "x86-64 with UEFI and TPM 2.0",
  arch: "x64",
  kernel: { is: "debian", package: "linux-image-amd64" },
  modules: [
    // disks
    "nvme",
    "ahci",
    "sd_mod",
    "sdhci-pci",
    "sdhci-acpi",
    "mmc_block",
    "xhci_pci",
    "ehci_pci",
    "usb-storage",
    "uas",
    ...virtioModules,
    // network
    "e1000e",
    "igb",
    "igc",
    "r8169",
    "ixgbe",
    // keyboard, for the recovery key
    "usbhid",
    "hid_generic",
    "i8042",
    "atkbd",
    // watchdogs
    "iTCO_wdt",
    "sp5100_tco",
    ...commonModules,
  ],
  cmdline: ["console=tty0", "console=ttyS0,115200", "intel_iommu=on", "iommu.strict=1"],
  storageKey: "tpm",
  disk: { bootBytes: 1 << 30, dataBytes: 2 * (1 << 30) },
};
