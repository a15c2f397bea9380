import t from "tap";
import { parseVerityFault } from "../../../init/disk/verity-fault.ts";
import { kernelText } from "../../../init/machine/kernel-log.ts";

t.test("the kernel's lines about blocks that do not verify are read", async (t) => {
  t.same(parseVerityFault("device-mapper: verity: 7:3: data block 3756 is corrupted"), {
    device: "7:3",
    kind: "data",
    block: 3756,
  });
  t.match(parseVerityFault("device-mapper: verity: 254:10: metadata block 1 is corrupted"), {
    kind: "metadata",
  });
});

t.test("other lines, also those that look alike, are not", async (t) => {
  for (const text of [
    "",
    "device-mapper: verity: sha256 using shash",
    "x device-mapper: verity: 7:3: data block 1 is corrupted",
    "device-mapper: verity: 7:3: data block 1 is corrupted by me",
    "device-mapper: verity: 7:3: other block 1 is corrupted",
  ])
    t.equal(parseVerityFault(text), undefined, text);
});

t.test("a record's text is taken where the kernel wrote it, and only then", async (t) => {
  t.equal(kernelText("3,339,5140900,-;NET: Registered\n SUBSYSTEM=net\n"), "NET: Registered");
  t.equal(kernelText("6,1,0,c,caller=T1;a;b"), "a;b");
  for (const record of ["30,1,0,-;gimbal: device-mapper", "8,1,0,-;user", "", "x", "3,1,0;no flags"])
    t.equal(kernelText(record), undefined, record);
});
