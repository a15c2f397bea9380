/**
 * Appends sections to a PE image (PE/COFF specification, 2.4 to 4): how a UKI is made from the stub. The stub has no
 * symbols and no overlay; a signed image is refused. The same inputs give the same octets.
 */
import { GimbalError } from "../init/errors.ts";

export type Section = { readonly name: string; readonly data: Uint8Array };

const sectionHeaderBytes = 40;
/** IMAGE_SCN_CNT_INITIALIZED_DATA | IMAGE_SCN_MEM_READ */
const readOnlyData = 0x40000040;

/** The image with `sections` behind those it has, in the order given. @throws GimbalError "build-failed" */
export function appendSections(image: Buffer, sections: readonly Section[]): Buffer {
  const headers = readHeaders(image);
  const tableEnd = headers.table + (headers.sectionCount + sections.length) * sectionHeaderBytes;
  const firstRaw = Math.min(...headers.sections.map((each) => each.rawOffset).filter((offset) => offset > 0));
  if (tableEnd > firstRaw) throw refused(`its header has no room for ${sections.length} more sections`);

  const output = [padded(image, headers.fileAlignment)];
  const head = output[0] as Buffer;
  let raw = head.length;
  let address = roundUp(headers.endAddress, headers.sectionAlignment);
  let initialized = head.readUInt32LE(headers.optional + 8);
  for (const [index, { name, data }] of sections.entries()) {
    const body = padded(data, headers.fileAlignment);
    const at = headers.table + (headers.sectionCount + index) * sectionHeaderBytes;
    writeSectionHeader(head, at, {
      name,
      virtualBytes: data.length,
      address,
      rawBytes: body.length,
      rawOffset: raw,
    });
    output.push(body);
    raw += body.length;
    initialized += body.length;
    address = roundUp(address + data.length, headers.sectionAlignment);
  }
  head.writeUInt16LE(headers.sectionCount + sections.length, headers.coff + 2);
  head.writeUInt32LE(initialized, headers.optional + 8);
  head.writeUInt32LE(address, headers.optional + 56); // SizeOfImage
  head.writeUInt32LE(0, headers.optional + 64); // CheckSum: UEFI does not look at it
  return Buffer.concat(output);
}

type Headers = {
  readonly coff: number;
  readonly optional: number;
  readonly table: number;
  readonly sectionCount: number;
  readonly sectionAlignment: number;
  readonly fileAlignment: number;
  readonly endAddress: number;
  readonly sections: readonly { readonly rawOffset: number }[];
};

function readHeaders(image: Buffer): Headers {
  if (image.toString("latin1", 0, 2) !== "MZ") throw refused("it does not begin with MZ");
  const pe = image.readUInt32LE(0x3c);
  if (image.toString("latin1", pe, pe + 4) !== "PE\0\0") throw refused("it has no PE signature");
  const coff = pe + 4;
  const optional = coff + 20;
  if (image.readUInt16LE(optional) !== 0x20b) throw refused("it is no PE32+ image");
  if (image.readUInt32LE(optional + 112 + 4 * 8) !== 0) throw refused("it is signed already");
  const sectionCount = image.readUInt16LE(coff + 2);
  const table = optional + image.readUInt16LE(coff + 16);
  const sections = Array.from({ length: sectionCount }, (_, index) => {
    const at = table + index * sectionHeaderBytes;
    return {
      end: image.readUInt32LE(at + 12) + image.readUInt32LE(at + 8),
      rawOffset: image.readUInt32LE(at + 20),
    };
  });
  return {
    coff,
    optional,
    table,
    sectionCount,
    sectionAlignment: image.readUInt32LE(optional + 32),
    fileAlignment: image.readUInt32LE(optional + 36),
    endAddress: Math.max(...sections.map(({ end }) => end)),
    sections,
  };
}

type SectionHeader = {
  readonly name: string;
  readonly virtualBytes: number;
  readonly address: number;
  readonly rawBytes: number;
  readonly rawOffset: number;
};

function writeSectionHeader(image: Buffer, at: number, header: SectionHeader): void {
  if (Buffer.byteLength(header.name) > 8) throw refused(`${header.name} is longer than 8 octets`);
  image.fill(0, at, at + sectionHeaderBytes);
  image.write(header.name, at, "latin1");
  image.writeUInt32LE(header.virtualBytes, at + 8);
  image.writeUInt32LE(header.address, at + 12);
  image.writeUInt32LE(header.rawBytes, at + 16);
  image.writeUInt32LE(header.rawOffset, at + 20);
  image.writeUInt32LE(readOnlyData, at + 36);
}

function padded(data: Uint8Array, unit: number): Buffer {
  return Buffer.concat([data, Buffer.alloc(roundUp(data.length, unit) - data.length)]);
}

const roundUp = (value: number, unit: number): number => Math.ceil(value / unit) * unit;

function refused(why: string): GimbalError {
  return new GimbalError("build-failed", { tried: "append sections to", on: "the UKI stub", why });
}
