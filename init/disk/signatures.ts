/** Well-known signatures of what others put on a partition: enough to name it in a refusal, no parsing beyond that. */

type Place = "start" | "end";
type Signature = {
  readonly what: string;
  readonly place: Place;
  /** From the start, or backwards from the end of the device. */
  readonly at: number;
  /** Latin-1 text or octets. */
  readonly octets: string;
};

const start = (what: string, at: number, octets: string): Signature => ({ what, place: "start", at, octets });
const end = (what: string, at: number, octets: string): Signature => ({ what, place: "end", at, octets });
const raidMagic = "\xfc\x4e\x2b\xa9";

/** The more telling first: a partition table in a partition comes before the file system whose boot sector it may be. */
const signatures: readonly Signature[] = [
  start("a LUKS1 volume", 0, "LUKS\xba\xbe\x00\x01"),
  start("an ext2/3/4 file system", 1080, "\x53\xef"),
  start("an XFS file system", 0, "XFSB"),
  start("a btrfs file system", 0x10040, "_BHRfS_M"),
  start("an F2FS file system", 1024, "\x10\x20\xf5\xf2"),
  start("an EROFS image", 1024, "\xe2\xe1\xf5\xe0"),
  start("a squashfs image", 0, "hsqs"),
  start("an ISO 9660 image", 32769, "CD001"),
  ...[0, 512, 1024, 1536].map((at) => start("an LVM physical volume", at, "LABELONE")),
  start("a member of a RAID (md 1.1)", 0, raidMagic),
  start("a member of a RAID (md 1.2)", 4096, raidMagic),
  end("a member of a RAID (md 1.0)", 8192, raidMagic),
  end("a member of a RAID (md 0.90)", 65536, raidMagic),
  start("a bcache device", 4120, "\xc6\x85\x73\xf6\x4e\x1a\x45\xca"),
  start("swap space", 4086, "SWAPSPACE2"),
  start("a BitLocker volume", 3, "-FVE-FS-"),
  start("an NTFS file system", 3, "NTFS    "),
  start("an exFAT file system", 3, "EXFAT   "),
  start("a dm-integrity device", 0, "integrt\x00"),
  start("a dm-verity hash device", 0, "verity\x00\x00"),
  ...[512, 4096].map((at) => start("a partition table (GPT)", at, "EFI PART")),
  end("a partition table (GPT)", 512, "EFI PART"),
  start("a FAT file system", 82, "FAT32   "),
  start("a FAT file system", 54, "FAT16   "),
  start("a FAT file system", 54, "FAT12   "),
  start("a boot sector or partition table (MBR)", 510, "\x55\xaa"),
];

/** What the octets at both ends of a device say it is, in words; undefined where no signature is known. */
export function signatureOf(first: Uint8Array, last: Uint8Array): string | undefined {
  return signatures.find(({ place, at, octets }) => {
    const from = place === "start" ? first : last;
    const offset = place === "start" ? at : last.length - at;
    if (offset < 0 || offset + octets.length > from.length) return false;
    return [...octets].every((sign, index) => from[offset + index] === sign.charCodeAt(0));
  })?.what;
}
