/** Which Debian packages an image is made of, and which package holds which library. */

/** Libraries by the name that ELF files ask for (NEEDED). A missing row is an error that names it. */
export const packageOfLibrary: Readonly<Record<string, string>> = {
  "libargon2.so.1": "libargon2-1",
  "libblkid.so.1": "libblkid1",
  "libc.so.6": "libc6",
  "libcap.so.2": "libcap2",
  "libcom_err.so.2": "libcom-err2",
  "libcrypto.so.3": "libssl3t64",
  "libcryptsetup.so.12": "libcryptsetup12",
  "libdevmapper.so.1.02.1": "libdevmapper1.02.1",
  "libdl.so.2": "libc6",
  "libe2p.so.2": "libext2fs2t64",
  "libext2fs.so.2": "libext2fs2t64",
  "libgcc_s.so.1": "libgcc-s1",
  "libjson-c.so.5": "libjson-c5",
  "libm.so.6": "libc6",
  "libpcre2-8.so.0": "libpcre2-8-0",
  "libpopt.so.0": "libpopt0",
  "libpthread.so.0": "libc6",
  "librt.so.1": "libc6",
  "libselinux.so.1": "libselinux1",
  "libstdc++.so.6": "libstdc++6",
  "libudev.so.1": "libudev1",
  "libuuid.so.1": "libuuid1",
  "libz.so.1": "zlib1g",
  "libzstd.so.1": "libzstd1",
  "ld-linux-x86-64.so.2": "libc6",
};

export const toolPackages = ["cryptsetup-bin", "e2fsprogs"] as const;
export const stubPackage = "systemd-boot-efi";
export const firmwarePackage = "ovmf";
/** Meta packages: they name the kernel of the day. cloud for QEMU, the other for real machines. */
export const kernelPackages = ["linux-image-cloud-amd64", "linux-image-amd64"] as const;

export const libraryPackages: readonly string[] = [...new Set(Object.values(packageOfLibrary))];
export const imagePackages: readonly string[] = [
  ...toolPackages,
  stubPackage,
  firmwarePackage,
  ...kernelPackages,
  ...libraryPackages,
];
