/** Module lists that boards share. A name that the kernel has built in is passed over; an unknown one is an error. */

/** Disk encryption and dm-verity. sha256-ssse3 first: dm-verity keeps the implementation it finds when it is loaded. */
const storage = [
  "sha256-ssse3",
  "aesni-intel",
  "crc32c-intel",
  "xts",
  "authenc",
  "dm-mod",
  "dm-verity",
  "dm-crypt",
  "dm-integrity",
  "loop",
];

const fileSystems = [
  "erofs",
  "squashfs",
  "overlay",
  "ext4",
  "vfat",
  "nls_ascii",
  "nls_cp437",
  "efivarfs",
  "fuse",
];

/** What containers use. The kernel loads nothing by itself later: PID 1 closes that door. */
const containers = [
  "veth",
  "bridge",
  "macvlan",
  "tun",
  "nfnetlink",
  "nf_tables",
  "nf_conntrack",
  "nft_chain_nat",
  "nft_ct",
  "nft_limit",
  "nft_log",
  "nft_masq",
  "nft_redir",
  "nft_reject_inet",
];

export const commonModules: readonly string[] = [...storage, ...fileSystems, ...containers];

/** QEMU's devices. */
export const virtioModules: readonly string[] = [
  "virtio_blk",
  "virtio_net",
  "virtio_console",
  "virtio-rng",
  "i6300esb",
];
