/** A small PE32+ image with given sections, as a linker would lay it out. */
export type TestSection = { name: string; data: Uint8Array; virtualBytes?: number };

export const headerBytes = 1024;
const coff = 64 + 4;
const optional = coff + 20;
const optionalBytes = 112 + 16 * 8;
export const sectionTable = optional + optionalBytes;

export function peImage(sections: readonly TestSection[]): Buffer {
  const header = Buffer.alloc(headerBytes);
  header.write("MZ");
  header.writeUInt32LE(64, 0x3c);
  header.write("PE\0\0", 64, "latin1");
  header.writeUInt16LE(0x8664, coff);
  header.writeUInt16LE(sections.length, coff + 2);
  header.writeUInt16LE(optionalBytes, coff + 16);
  header.writeUInt16LE(0x20b, optional);
  header.writeUInt32LE(headerBytes, optional + 60);
  header.writeUInt32LE(16, optional + 108);
  const parts = [header];
  let offset = headerBytes;
  sections.forEach(({ name, data, virtualBytes }, index) => {
    const at = sectionTable + 40 * index;
    const raw = Math.ceil(data.length / 512) * 512;
    header.write(name, at, 8, "latin1");
    header.writeUInt32LE(virtualBytes ?? data.length, at + 8);
    header.writeUInt32LE(raw, at + 16);
    header.writeUInt32LE(offset, at + 20);
    parts.push(Buffer.concat([data, Buffer.alloc(raw - data.length)]));
    offset += raw;
  });
  return Buffer.concat(parts);
}
