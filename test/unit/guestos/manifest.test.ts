import fc from "fast-check";
import t from "tap";
import { type CborValue, decodeCbor, encodeCbor } from "../../../init/bytes/cbor.ts";
import { GimbalError } from "../../../init/errors.ts";
import { parseManifest, verifyManifest } from "../../../init/guestos/manifest.ts";
import {
  decodeManifest,
  encodeManifest,
  manifestContentType,
  mountTypes,
  unsupportedMount,
} from "../../../init/guestos/manifest-format.ts";
import { signEnvelope } from "../../../init/trust/cose.ts";
import {
  anchor,
  basicConstraints,
  day,
  ecKey,
  keyUsage,
  now,
  rootCa,
  signer,
  subCa,
} from "../trust/certificates.ts";
import {
  anchors,
  chain,
  fields,
  image,
  imageMount,
  judge,
  leaf,
  root,
  signed,
  sub,
  volume,
} from "./fixture.ts";

t.setTimeout(180_000); // two cores may be busy

const verify = (bytes: Uint8Array, trusted = anchors, how: { at: Date; hardware: string } = judge) =>
  verifyManifest(parseManifest(bytes), trusted, how);

/** An envelope around any payload. */
const around = (payload: Uint8Array, contentType = manifestContentType) =>
  signEnvelope(payload, contentType, chain, leaf.key.privateKey);

t.test("a manifest that a trusted signer signed is verified and says who signed it", async (t) => {
  const manifest = verify(signed({ min_ram_limit: 64, mounts: [imageMount(), volume()] }));
  t.match(manifest, {
    name: "web",
    version: 1,
    signer: "signer",
    trustLevel: "SIGNED",
    minimumMemoryMb: 64,
    defaultMemoryMb: undefined,
    initParam: [],
    setuid: false,
  });
  t.match(manifest.mounts[1], { mountPoint: "/home", defaultSizeMb: 16 });
  t.match(verify(signed(), [anchor(root, "registered")]), { trustLevel: "LOCALLY_SIGNED" });
});

t.test("refusals of the chain have their codes, and a sentence that names GuestOS and reason", async (t) => {
  const by = (leaf: ReturnType<typeof signer>, ...more: { der: Uint8Array }[]) =>
    signed({}, { leaf, chain: [leaf.der, ...more.map(({ der }) => der)] });
  const foreign = rootCa();
  const notCa = subCa(root, "no CA", { extensions: [basicConstraints(false), keyUsage(0x80)] });
  const later = new Date(now.getTime() + 400 * day);
  for (const [code, work] of [
    ["guestos-untrusted", () => verify(by(signer(foreign), foreign))],
    ["guestos-untrusted", () => verify(signed(), [])],
    ["guestos-role", () => verify(by(signer(sub, { extensions: [keyUsage(0x80)] }), sub))],
    ["guestos-chain", () => verify(by(signer(notCa), notCa))],
    ["guestos-chain", () => verify(by(leaf, sub, sub))],
    ["guestos-expired", () => verify(signed(), anchors, { ...judge, at: later })],
    ["guestos-expired", () => verify(signed(), anchors, { ...judge, at: new Date(0) })],
    ["guestos-hardware", () => verify(signed(), anchors, { ...judge, hardware: "arm64" })],
    ["guestos-hardware", () => verify(signed({ hardware: "armv7" }))],
  ] as const)
    t.throws(work, { code, message: /^cannot trust the GuestOS web-1: .+; .+/ }, code);
  t.throws(() => verify(signed(), anchors, { ...judge, at: later }), {
    message: /"signer" was valid until .*set the clock/,
  });
});

t.test("a manifest signed with another key than the certificate's is refused", async (t) => {
  const bytes = signed({}, { leaf: { ...leaf, key: ecKey() }, chain });
  t.throws(() => verify(bytes), { code: "guestos-signature", message: /altered after signing/ });
});

t.test("no bit of a manifest can change", async (t) => {
  const bytes = signed();
  let looked = 0;
  for (let at = 0; at < bytes.length; at++) {
    for (const bit of [1, 0x80]) {
      const changed = Buffer.from(bytes);
      changed[at] = (changed[at] ?? 0) ^ bit;
      try {
        verify(changed);
        t.fail(`octet ${at} was changed and nobody saw it`);
      } catch (error) {
        if (!(error instanceof GimbalError)) t.fail(`octet ${at}: ${error}`);
      }
      looked++;
    }
  }
  t.ok(looked > 2000);
});

t.test("the name of the core container is kept for the platform's CA", async (t) => {
  t.throws(() => verify(signed({ name: "c0" }), [anchor(root, "registered")]), {
    code: "guestos-untrusted",
    message: /must be signed under the platform's CA/,
  });
  t.match(verify(signed({ name: "c0" })), { name: "c0" });
});

t.test("a signer's name is fit for a screen, whatever its certificate says", async (t) => {
  const evil = signer(sub, { name: `\u001b[2Jx\u202e${"y".repeat(200)}` });
  const { signer: shown } = verify(signed({}, { leaf: evil, chain: [evil.der, sub.der] }));
  t.match(shown, /^[ -~]+$/);
  t.ok(shown.length < 100);
});

t.test("a signed payload of another kind is no manifest", async (t) => {
  t.throws(() => parseManifest(around(encodeManifest(fields()), "application/vnd.gimbal.container+cbor")), {
    code: "manifest-malformed",
    message: /vnd.gimbal.container/,
  });
  t.throws(() => parseManifest(around(encodeCbor([1]))), {
    code: "manifest-malformed",
    message: /it is no map/,
  });
});

t.test("fields that are missing, unknown or of a wrong form are refused by name", async (t) => {
  const bad: readonly (readonly [RegExp, Record<string, unknown>])[] = [
    [/lacks the key "name"/, { name: undefined }],
    [/name is no name/, { name: "Web" }],
    [/name is no name/, { name: "../etc" }],
    [/name is no name/, { name: "web-" }],
    [/name has more than 32/, { name: "a".repeat(33) }],
    [/unknown key "colour"/, { colour: "red" }],
    [/unknown key "__proto__"/, JSON.parse('{"__proto__": {"setuid": true}}')],
    [/version is not between/, { version: 0 }],
    [/version is no whole number/, { version: "1" }],
    [/format is not between 1 and 1/, { format: 2 }],
    [/hardware is none of/, { hardware: "riscv" }],
    [/init_path is no absolute path/, { init_path: "init" }],
    [/init_path is no absolute path/, { init_path: "/a/../b" }],
    [/init_path is no absolute path/, { init_path: "/a//b" }],
    [/init_path is no absolute path/, { init_path: "/a/" }],
    [/init_path is no absolute path/, { init_path: "/a\nb" }],
    [/init_path is no absolute path/, { init_path: "/a\u202eb" }],
    [/init_env\[0\] is not NAME=value/, { init_env: ["NODE"] }],
    [/init_param has more than 64/, { init_param: Array(65).fill("x") }],
    [/devices\[0\] is no device rule/, { devices: ["c 1:3"] }],
    [/capabilities\[0\]/, { capabilities: ["net raw"] }],
    [/stop_signal is none of/, { stop_signal: "SIGKILL" }],
    [/min_ram_limit is above/, { min_ram_limit: 64, def_ram_limit: 32 }],
    [/requires is no version/, { requires: "new" }],
    [/mounts has more than 16/, { mounts: Array(17).fill(imageMount()) }],
  ];
  for (const [why, more] of bad) {
    const value = Object.fromEntries(Object.entries(fields(more)).filter(([, entry]) => entry !== undefined));
    t.throws(() => encodeManifest(value), { code: "manifest-malformed", message: why }, String(why));
  }
});

t.test("mounts that do not fit each other are refused", async (t) => {
  const verity = { root_hash: Buffer.alloc(32), salt: Buffer.alloc(0), hash_offset: 4096, data_blocks: 1 };
  const bad: readonly (readonly [RegExp, readonly unknown[]])[] = [
    [/first mount is not on \//, []],
    [/first mount is not on \//, [volume()]],
    [/root is no SHARED or SHARED_RW image/, [volume({ mount_point: "/" })]],
    [/lacks size or digest: root.img/, [imageMount(image, { image_sha256: undefined })]],
    [
      /lacks verity: data.img/,
      [imageMount(), imageMount(image, { image_file: "data.img", mount_point: "/d", verity: undefined })],
    ],
    [/does not follow its data/, [imageMount(image, { verity: { ...verity, data_blocks: 2 } })]],
    [/no room for its hash tree/, [imageMount(Buffer.alloc(4096))]],
    [/fs_type cannot be tmpfs/, [imageMount(image, { fs_type: "tmpfs" })]],
    [/two mounts have one mount_point/, [imageMount(), volume(), volume({ image_file: "other" })]],
    [/two mounts have one image_file/, [imageMount(), volume({ image_file: "root.img" })]],
    ...["/proc", "/dev/shm", "/run/x"].map(
      (mount_point) =>
        [/is no place for an image or volume/, [imageMount(), volume({ mount_point })]] as const,
    ),
    [/has an image's fields: home/, [imageMount(), volume({ image_size: 4096 })]],
    [/has a volume's sizes/, [imageMount(image, { def_size: 1 })]],
    [/do not rise/, [imageMount(), volume({ min_size: 32 })]],
    [/image_file is no file name/, [imageMount(image, { image_file: "../root.img" })]],
    [/image_file is no file name/, [imageMount(image, { image_file: ".hidden" })]],
    [
      /root_hash has fewer than 32/,
      [imageMount(image, { verity: { ...verity, root_hash: Buffer.alloc(31) } })],
    ],
  ];
  for (const [why, mounts] of bad) {
    const list = mounts.map((mount) =>
      Object.fromEntries(Object.entries(mount as object).filter(([, entry]) => entry !== undefined)),
    );
    t.throws(
      () => encodeManifest(fields({ mounts: list })),
      { code: "manifest-malformed", message: why },
      String(why),
    );
  }
});

t.test(
  "mount types of later releases are read, and refused by name before anything is written",
  async (t) => {
    const read = (...mounts: unknown[]) =>
      unsupportedMount(decodeManifest(encodeManifest(fields({ mounts }))));
    t.equal(read(imageMount(), volume()), undefined);
    t.equal(read(imageMount(image, { mount_type: "SHARED_RW" })), undefined);
    const stored = { image_file: "extra.img", mount_point: "/x", fs_type: "none", verity: undefined };
    const later = mountTypes.filter((type) => !["SHARED", "EMPTY", "STORE_ONLY"].includes(type));
    for (const type of later) {
      const isImage = ["SHARED_RW", "OVERLAY_RO", "FLASH"].includes(type);
      const mount = isImage
        ? imageMount(image, { ...stored, fs_type: "erofs", verity: imageMount()["verity"], mount_type: type })
        : volume({ mount_type: type });
      t.match(read(imageMount(), mount), new RegExp(`mount type ${type} is not supported`), type);
    }
    t.throws(() => encodeManifest(fields({ mounts: [imageMount(), volume({ mount_type: "MAGIC" })] })), {
      message: /mount_type is none of SHARED/,
    });
  },
);

t.test(
  "a newer manifest is read where it says what may be passed over, else the refusal says what it requires",
  async (t) => {
    const payload = (more: [string, CborValue][]) => {
      const decoded = decodeCbor(encodeManifest(fields()), { maxBytes: 65_536 });
      if (decoded.is !== "value") throw new Error(decoded.reason);
      return encodeCbor(new Map([...(decoded.value as ReadonlyMap<string, CborValue>), ...more]));
    };
    t.match(
      decodeManifest(
        payload([
          ["icon", new Uint8Array(3)],
          ["ignorable", ["icon"]],
        ]),
      ),
      { name: "web" },
    );
    t.throws(
      () =>
        decodeManifest(
          payload([
            ["icon", 1],
            ["requires", "0.9.0"],
          ]),
        ),
      {
        code: "manifest-malformed",
        message: /unknown key "icon"; it requires gimbal "0.9.0"/,
      },
    );
    t.throws(
      () =>
        decodeManifest(
          payload([
            ["name", "Bad"],
            ["ignorable", ["name"]],
          ]),
        ),
      { message: /name is no name/ },
    );
  },
);

t.test(
  "keys that JavaScript objects inherit are unknown keys, and octets of 21 make nobody an admin",
  async (t) => {
    const proto = Buffer.from("a1695f5f70726f746f5f5fa16769734164 6d696ef5".replaceAll(" ", ""), "hex");
    t.throws(() => decodeManifest(proto), { code: "manifest-malformed", message: /unknown key "__proto__"/ });
    t.equal(({} as { isAdmin?: boolean }).isAdmin, undefined);
    for (const key of ["constructor", "toString", "hasOwnProperty"]) {
      t.throws(() => decodeManifest(encodeCbor(new Map([[key, 1]]))), { message: /unknown key/ }, key);
    }
    t.throws(() => decodeManifest(encodeCbor(new Map([[1, 1]]))), { message: /is no map/ }, "an integer key");
  },
);

t.test("what was encoded is decoded to the same, and encoded again to the same octets", async (t) => {
  const text = fc.string({ maxLength: 40 }).filter((value) => !value.includes("\0") && value.isWellFormed());
  const some = fc.record(
    {
      name: fc.stringMatching(/^[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?$/),
      version: fc.integer({ min: 1, max: Number.MAX_SAFE_INTEGER }),
      init_param: fc.array(text, { maxLength: 5 }),
      description: text,
      setuid: fc.boolean(),
      def_ram_limit: fc.integer({ min: 1, max: 4096 }),
    },
    { requiredKeys: [] },
  );
  fc.assert(
    fc.property(some, (more) => {
      const payload = encodeManifest(fields(more));
      const decoded = decodeManifest(payload);
      t.match(decoded, {
        name: more.name ?? "web",
        version: more.version ?? 1,
        initParam: more.init_param ?? [],
      });
      const again = decodeCbor(payload, { maxBytes: 65_536 });
      t.ok(again.is === "value" && Buffer.compare(encodeManifest(again.value), payload) === 0);
    }),
  );
});

t.test("whatever is sent, only a GimbalError is thrown", async (t) => {
  const onlyRefusals = (work: () => unknown): boolean => {
    try {
      work();
      return false;
    } catch (error) {
      return error instanceof GimbalError && error.code === "manifest-malformed";
    }
  };
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 400 }), (bytes) => onlyRefusals(() => parseManifest(bytes))),
  );
  const value = fc.letrec<{ value: CborValue }>((tie) => ({
    value: fc.oneof(
      { depthSize: "small" },
      fc.integer(),
      fc.constant(null),
      fc.boolean(),
      fc.stringMatching(/^[a-z_/]{0,12}$/),
      fc.uint8Array({ maxLength: 40 }),
      fc.array(tie("value"), { maxLength: 4 }),
      fc
        .array(
          fc.tuple(
            fc.constantFrom(...Object.keys(fields()), "verity", "image_file", "__proto__"),
            tie("value"),
          ),
        )
        .map((entries) => new Map(entries)),
    ),
  })).value;
  fc.assert(
    fc.property(value, (payload) => onlyRefusals(() => parseManifest(around(encodeCbor(payload))))),
    { numRuns: 300 },
  );
  fc.assert(
    fc.property(fc.constantFrom(...Object.keys(fields())), value, (key, wrong) => {
      try {
        const decoded = decodeCbor(encodeManifest(fields()), { maxBytes: 65_536 });
        if (decoded.is !== "value") return;
        decodeManifest(
          encodeCbor(new Map([...(decoded.value as ReadonlyMap<string, CborValue>), [key, wrong]])),
        );
      } catch (error) {
        t.ok(error instanceof GimbalError, String(error));
      }
    }),
    { numRuns: 300 },
  );
});
