/** DESIGN's one-way rule: a floor imports only floors below it. test/unit/house.test.ts runs this. */
const floors = [
  ["main.ts"],
  ["boot", "boot.ts", "device.ts"],
  ["control", "update"],
  ["container"],
  ["attest", "guestos"],
  ["measure", "trust"],
  ["disk", "audit"],
  ["tpm", "net"],
  ["machine", "state"],
  ["bytes"],
  ["kernel.ts", "linux.ts", "errors.ts"],
];
const pattern = (rooms) => `^init/(${rooms.map((room) => room.replace(".", "\\.")).join("|")})(/|$)`;

const upward = floors.slice(1).map((rooms, index) => ({
  name: `floor-${rooms.join("-")}-imports-upwards`,
  severity: "error",
  from: { path: pattern(rooms) },
  to: { path: pattern(floors.slice(0, index + 1).flat()) },
}));

module.exports = {
  forbidden: [
    ...upward,
    {
      name: "no-circular",
      severity: "error",
      from: {},
      to: { circular: true, viaOnly: { dependencyTypesNot: ["type-only"] } },
    },
    {
      name: "init-imports-only-itself",
      comment: "what runs on the device knows nothing of the build host",
      severity: "error",
      from: { path: "^init/" },
      to: { path: "^(tool|board|initramfs|guestos|test)/" },
    },
    {
      name: "init-npm-dependencies",
      comment: "PID 1 takes a new npm dependency only with a reason",
      severity: "error",
      from: { path: "^init/" },
      to: { dependencyTypes: ["npm", "npm-dev"], pathNot: "node_modules/(cbor-x|tiny-typed-emitter)/" },
    },
    {
      name: "tool-board-initramfs",
      comment: "tool -> board -> initramfs",
      severity: "error",
      from: { path: "^initramfs/" },
      to: { path: "^(tool|board|guestos)/" },
    },
    {
      name: "product-imports-no-test",
      severity: "error",
      from: { path: "^(tool|board|guestos|addon)/" },
      to: { path: "^test/" },
    },
  ],
  options: {
    doNotFollow: { path: "node_modules" },
    tsPreCompilationDeps: true,
    tsConfig: { fileName: "tsconfig.json" },
    enhancedResolveOptions: { exportsFields: ["exports"], conditionNames: ["import", "node", "default"] },
  },
};
