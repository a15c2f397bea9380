/**
 * Sections of a PE32+ image (PE/COFF specification, 2.4 to 4), as far as a UKI's measurements need them, and the
 * Authenticode digest. A bounded reader: offsets are checked before use, nothing throws. Left out: PE32, relocations,
 * symbols, imports.
 */
import { createHash } from "node:crypto";

export type PeSection = {
  /** Up to eight characters, ".linux". */
  readonly name: string;
  /** What the image says the section has in memory. Beyond `data` it is zeros. */
  readonly virtualBytes: number;
  /** A view into the image, at most `virtualBytes` long. */
  readonly data: Uint8Array;
};

export type Pe = { readonly is: "pe"; readonly sections: readonly PeSection[] };
export type PeRefused = { readonly is: "refused"; readonly reason: string };

const maxSections = 96;
const maxVirtualBytes = 2 ** 30;
const sectionHeaderBytes = 40;

type Layout = {
  readonly is: "layout";
  readonly view: DataView;
  readonly optional: number;
  readonly table: number;
  readonly sectionCount: number;
};

/** Reads the section table. */
export function readPe(image: Uint8Array): Pe | PeRefused {
  const layout = readLayout(image);
  if (layout.is === "refused") return layout;
  const sections: PeSection[] = [];
  for (let index = 0; index < layout.sectionCount; index++) {
    const section = readSection(image, layout, index);
    if ("is" in section) return section;
    if (sections.some(({ name }) => name === section.name))
      return refused(`it has two sections of one name (section ${index})`);
    sections.push(section);
  }
  return { is: "pe", sections };
}

/** SHA-256 as Authenticode has it, the value that firmware measures into PCR 4 and that signatures cover. */
export function authenticodeDigest(
  image: Uint8Array,
): { readonly is: "digest"; readonly digest: Uint8Array } | PeRefused {
  const layout = readLayout(image);
  if (layout.is === "refused") return layout;
  const { view, optional } = layout;
  const headerBytes = view.getUint32(optional + 60, true);
  const certificateEntry = optional + 112 + 8 * 4;
  const certificateBytes = view.getUint32(certificateEntry + 4, true);
  const end = image.length - certificateBytes;
  const tableEnd = layout.table + layout.sectionCount * sectionHeaderBytes;
  if (headerBytes < tableEnd || headerBytes > end) return refused("its header's length is out of range");
  const hash = createHash("sha256");
  const linkerSum = optional + 64; // left out, as is the certificate table entry
  hash.update(image.subarray(0, linkerSum));
  hash.update(image.subarray(linkerSum + 4, certificateEntry));
  hash.update(image.subarray(certificateEntry + 8, headerBytes));
  const parts = Array.from({ length: layout.sectionCount }, (_, index) => {
    const at = layout.table + index * sectionHeaderBytes;
    return { bytes: view.getUint32(at + 16, true), offset: view.getUint32(at + 20, true) };
  });
  let hashed = headerBytes;
  for (const { bytes, offset } of parts
    .filter(({ bytes }) => bytes > 0)
    .sort((a, b) => a.offset - b.offset)) {
    if (offset + bytes > end) return refused("a section lies outside the file");
    hash.update(image.subarray(offset, offset + bytes));
    hashed += bytes;
  }
  if (hashed > end) return refused("its sections overlap");
  hash.update(image.subarray(hashed, end));
  return { is: "digest", digest: new Uint8Array(hash.digest()) };
}

const refused = (reason: string): PeRefused => ({ is: "refused", reason });

function readLayout(image: Uint8Array): Layout | PeRefused {
  const view = new DataView(image.buffer, image.byteOffset, image.length);
  if (image.length < 64 || view.getUint16(0) !== 0x4d5a) return refused("it does not begin with MZ");
  const pe = view.getUint32(0x3c, true);
  if (pe + 24 > image.length || view.getUint32(pe) !== 0x50450000) return refused("it has no PE signature");
  const sectionCount = view.getUint16(pe + 6, true);
  const optionalBytes = view.getUint16(pe + 20, true);
  const optional = pe + 24;
  const table = optional + optionalBytes;
  // 112 octets and five data directories: the fifth is the certificate table
  if (optionalBytes < 152 || table > image.length || view.getUint16(optional, true) !== 0x20b)
    return refused("it is no PE32+ image");
  if (view.getUint32(optional + 108, true) < 5) return refused("it has no certificate table entry");
  if (sectionCount > maxSections) return refused(`it has more than ${maxSections} sections`);
  if (table + sectionCount * sectionHeaderBytes > image.length)
    return refused("its section table lies outside the file");
  return { is: "layout", view, optional, table, sectionCount };
}

function readSection(image: Uint8Array, layout: Layout, index: number): PeSection | PeRefused {
  const at = layout.table + index * sectionHeaderBytes;
  const nameOctets = image.subarray(at, at + 8);
  const nameEnd = nameOctets.indexOf(0);
  const name = new TextDecoder("latin1").decode(nameEnd < 0 ? nameOctets : nameOctets.subarray(0, nameEnd));
  const virtualBytes = layout.view.getUint32(at + 8, true);
  const rawBytes = layout.view.getUint32(at + 16, true);
  const rawOffset = layout.view.getUint32(at + 20, true);
  if (virtualBytes > maxVirtualBytes) return refused(`section ${index} is larger than 1 GiB`);
  if (rawBytes > 0 && rawOffset + rawBytes > image.length)
    return refused(`section ${index} lies outside the file`);
  const data = image.subarray(rawOffset, rawOffset + Math.min(rawBytes, virtualBytes));
  return { name, virtualBytes, data: rawBytes > 0 ? data : new Uint8Array() };
}
