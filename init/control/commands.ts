/**
 * The one table of commands. The server's dispatch and checks, the client's parsing and help, and docs/control.md come from it.
 * Names are those of GyroidOS where it has the command.
 */
import { type CborValue, encodeCbor } from "../bytes/cbor.ts";
import {
  bool,
  bytesOf,
  listOf,
  optional,
  record,
  type Shape,
  text,
  uint,
  withDefault,
} from "../bytes/shape.ts";
import { type Argument, answering, type Command, type Field, type Result, streaming } from "./command.ts";
import { evidenceStream } from "./evidence-stream.ts";
import type { DeviceHandlers, Level, Row } from "./handlers.ts";
import { logStream } from "./log-stream.ts";
import { runStream } from "./run-stream.ts";

const P: readonly Level[] = ["P"];
const PV: readonly Level[] = ["P", "V"];
const PVU: readonly Level[] = ["P", "V", "U"];

const nothing: Result = { is: "nothing" };
const noFields = record({});
const name = text({ min: 1, max: 64 });
const onlyContainer = record({ container: name });

const container: Argument = { key: "container", shown: "<container>", help: "name or uuid of a container" };

/** A config as the engine will check it; here only that it is a map of bearable size. */
const config: Shape<CborValue> = {
  parse(value, path) {
    if (!(value instanceof Map)) return { is: "refused", path, why: "is no map" };
    if (encodeCbor(value).length > configBytes)
      return { is: "refused", path, why: `has more than ${configBytes} octets` };
    return { is: "ok", value };
  },
  toCbor: (value) => value,
};
const configBytes = 256 * 1024;

const containerFields: readonly Field[] = [
  { key: "name", title: "NAME", help: "the name" },
  {
    key: "state",
    title: "STATE",
    help: "STOPPED, STARTING, BOOTING, RUNNING, FREEZING, FROZEN, SHUTTING_DOWN, REBOOTING, SETUP or ZOMBIE",
  },
  { key: "guest_os", title: "GUESTOS", help: "the GuestOS it runs" },
  { key: "version", title: "VERSION", right: true, help: "the GuestOS' version, once it was started" },
  { key: "trust_level", title: "TRUST", help: "who vouches for the GuestOS: SIGNED or LOCALLY_SIGNED" },
  { key: "uptime", title: "UPTIME", as: "seconds", help: "seconds since its start" },
  { key: "uuid", title: "UUID", help: "the uuid" },
  { key: "autostart", help: "whether it starts at each boot" },
  { key: "created", as: "time", help: "when it was created, in seconds since 1970" },
  { key: "id_base", help: "first of its 65,536 user and group ids on the device" },
  { key: "guest_says", help: "what the guest says of itself: a claim" },
  { key: "last_exit", help: "how it ended the last time" },
  { key: "exit", help: "how it ended now" },
  { key: "missing", help: "walls that this device or its config lacks" },
];

/** What a person wants to see after a command: how the container is now. */
const stateLine: Result = {
  is: "line",
  fields: containerFields,
  of: (result) =>
    result instanceof Map ? `${result.get("name")}: ${[result.get("state"), exitOf(result)].join("")}` : "",
};

const exitOf = (result: Row): string => (result.has("exit") ? ` (${result.get("exit")})` : "");

type Act = "state" | "start" | "stop" | "kill" | "freeze" | "unfreeze";

function onContainer(
  act: Act,
  summary: string,
  levels: readonly Level[],
  result: Result = stateLine,
): Command {
  return answering({
    name: act,
    summary,
    args: [container],
    levels,
    examples: [`control ${act} debian`],
    result,
    request: onlyContainer,
    answer: (device, request) => device[act](request.container),
  });
}

const deviceFields: readonly Field[] = [
  { key: "version", help: "gimbal's version" },
  { key: "release", help: "the release's number, which never goes down" },
  { key: "board", help: "the board it was built for" },
  { key: "development", help: "whether this is a development image" },
  { key: "provisioned", help: "whether provisioning has ended" },
  { key: "secure_boot", help: "whether the firmware took only signed programs" },
  { key: "lockdown", help: "the kernel's lockdown mode" },
  { key: "module_signatures", help: "whether the kernel takes only signed modules" },
  { key: "tpm", help: "whether there is a TPM" },
  { key: "disk", help: "what opened the data partition" },
  { key: "disk_uuid", help: "the data partition's uuid" },
  { key: "uptime", as: "seconds", help: "seconds since the kernel started" },
  { key: "containers", help: "how many containers there are" },
  { key: "warnings", help: "what should be looked at" },
];

const versionFields = deviceFields.slice(0, 4);

const runHelp =
  "With a terminal on standard input and output the command gets one of its own, which follows the window's size. " +
  "After the word nopty, or without a terminal, it gets three pipes: standard output and error stay apart, every octet passes. " +
  "The exit status is the command's; 126: it cannot be executed, 127: it does not exist, 128+n: signal n ended it, " +
  "125: control itself failed. When control ends, so does the command.";

export const commands: readonly Command[] = [
  answering({
    name: "list",
    summary: "list the containers and their states",
    levels: PV,
    examples: ["control list", "control list --json"],
    result: { is: "rows", fields: containerFields, empty: "no containers" },
    request: noFields,
    answer: (device) => device.list(),
  }),
  answering({
    name: "list_guestos",
    summary: "list the GuestOSes on this device, and why one is not trusted",
    levels: PVU,
    examples: ["control list_guestos"],
    result: {
      is: "rows",
      empty: "no GuestOSes",
      fields: [
        { key: "name", title: "NAME", help: "the name" },
        { key: "version", title: "VERSION", right: true, help: "the version, a number that never goes down" },
        { key: "trust_level", title: "TRUST", help: "SIGNED or LOCALLY_SIGNED" },
        { key: "signer", title: "SIGNER", help: "who signed it" },
        { key: "description", title: "DESCRIPTION", help: "what it is" },
        { key: "refused", title: "REFUSED", help: "why it is not trusted" },
        { key: "code", help: "the error's code where it is not trusted" },
        { key: "hardware", help: "what it runs on" },
        { key: "upstream_version", help: "the version of what is in it" },
        { key: "build_date", help: "when it was built" },
      ],
    },
    request: noFields,
    answer: (device) => device.listGuestos(),
  }),
  onContainer("state", "show the state of a container", PV, { is: "fields", fields: containerFields }),
  answering({
    name: "create",
    summary: "create a container",
    help:
      "The config comes from a JSON file (- is standard input), or from the name and flags; flags go before what the file says. " +
      "Its fields are listed in containers.md.",
    args: [
      {
        key: "name_or_file",
        shown: "<name|file.json|->",
        kind: "name-or-json-file",
        help: "name of the new container, or its config",
      },
    ],
    flags: [
      {
        name: "--guestos",
        key: "guest_os",
        value: "NAME",
        help: "the GuestOS it runs; default: the one of its own name",
      },
      {
        name: "--ram",
        key: "ram_limit",
        value: "MB",
        kind: "number",
        help: "memory limit in MB of 2^20 octets",
      },
      { name: "--pids", key: "pids_limit", value: "N", kind: "number", help: "most tasks at once" },
      { name: "--autostart", key: "allow_autostart", help: "start it at each boot" },
    ],
    levels: PV,
    examples: [
      "control create debian",
      "control create web --guestos debian --ram 256 --autostart",
      "control create web.json",
    ],
    result: stateLine,
    fields: configOf,
    request: record({ config }),
    answer: (device, request) => device.create(request.config),
  }),
  answering({
    name: "update_config",
    summary: "replace a container's config, from its next start on",
    args: [
      container,
      { key: "config", shown: "<file.json|->", kind: "json-file", help: "the whole new config" },
    ],
    levels: PV,
    examples: ["control config web --json > web.json", "control update_config web web.json"],
    result: stateLine,
    request: record({ container: name, config }),
    answer: (device, request) => device.updateConfig(request.container, request.config),
  }),
  answering({
    name: "config",
    summary: "show the config of a container",
    args: [container],
    levels: PV,
    examples: ["control config debian", "control config debian --json > debian.json"],
    result: { is: "fields", fields: [] },
    request: onlyContainer,
    answer: (device, request) => device.config(request.container),
  }),
  answering({
    name: "remove",
    summary: "kill a container if it runs, and delete it with its data",
    args: [container],
    levels: P,
    examples: ["control remove web"],
    result: nothing,
    request: onlyContainer,
    answer: (device, request) => device.remove(request.container).then(() => null),
  }),
  answering({
    name: "remove_guestos",
    summary: "delete a GuestOS that no container uses",
    args: [{ key: "name", shown: "<guestos>", help: "its name" }],
    levels: P,
    examples: ["control remove_guestos hello"],
    result: nothing,
    request: record({ name }),
    answer: (device, request) => device.removeGuestos(request.name).then(() => null),
  }),
  onContainer("start", "start a container", PV),
  onContainer("stop", "shut a container down, and kill it after its time limit", PV),
  onContainer("kill", "end a container at once", PV),
  onContainer("freeze", "hold all processes of a container", P),
  onContainer("unfreeze", "let the processes of a frozen container go on", P),
  streaming({
    name: "run",
    summary: "run a command in a container",
    help: runHelp,
    args: [
      container,
      {
        key: "argv",
        shown: "[nopty] <command> [argument...]",
        help: "the command; without a / it is looked up in the container's PATH",
        rest: true,
      },
    ],
    flags: [
      { name: "--user", key: "user", value: "UID[:GID]", help: "numeric ids in the container, default 0:0" },
      {
        name: "--env",
        key: "env",
        value: "NAME=VALUE",
        many: true,
        help: "set a variable; may stand several times",
      },
      { name: "--cwd", key: "directory", value: "DIR", help: "the directory it starts in, default /" },
    ],
    levels: P,
    examples: [
      "control run debian bash",
      "control run debian nopty tar -C /etc -c . > etc.tar",
      "control run --json debian nopty uname -r",
    ],
    result: {
      is: "stream",
      fields: [
        { key: "status", help: "the exit status" },
        { key: "stdout", help: "standard output as text" },
        { key: "stderr", help: "standard error as text" },
      ],
    },
    fields: runFields,
    request: record({
      container: name,
      argv: listOf(text({ max: 128 * 1024 }), 4096),
      env: withDefault(
        listOf(text({ max: 128 * 1024, pattern: /^[^=]+=/, what: "is not NAME=VALUE" }), 1024),
        [],
      ),
      user: withDefault(uint({ max: 65_535 }), 0),
      group: withDefault(uint({ max: 65_535 }), 0),
      directory: optional(text({ min: 1, max: 4096 })),
      pty: optional(
        record({
          rows: uint({ max: 9999 }),
          columns: uint({ max: 9999 }),
          term: text({ max: 64, pattern: /^[\w.+-]*$/, what: "is no terminal's name" }),
        }),
      ),
    }),
    async open(device, { pty, ...request }, channel) {
      const env = pty ? [`TERM=${pty.term}`, ...request.env] : request.env;
      const terminal = pty && { rows: pty.rows, columns: pty.columns };
      return runStream(await device.run({ ...request, env, terminal }), channel);
    },
  }),
  streaming({
    name: "logs",
    summary: "print the console log of a container",
    help: "On a terminal, control characters of the guest other than colours are shown as escapes; into a file or pipe all octets pass.",
    args: [container],
    flags: [{ name: "-f", key: "follow", help: "go on with what comes, until interrupted" }],
    levels: PV,
    examples: ["control logs debian", "control logs -f debian"],
    result: {
      is: "stream",
      fields: [
        { key: "stdout", help: "the log as text; with -f one object per line and piece" },
        { key: "dropped_lines", help: "older lines that are no longer kept" },
      ],
    },
    request: record({ container: name, follow: withDefault(bool(), false) }),
    open: async (device, { container, follow }, channel) =>
      logStream(await device.logs(container), channel, follow),
  }),
  answering({
    name: "status",
    summary: "show how the device booted and what it warns of",
    help: "With a container it does what `control state` does.",
    args: [{ ...container, optional: true }],
    levels: PV,
    examples: ["control status", "control status debian"],
    result: { is: "fields", fields: deviceFields },
    request: record({ container: optional(name) }),
    answer: (device, request) =>
      request.container === undefined ? device.status() : device.state(request.container),
  }),
  answering({
    name: "version",
    summary: "show the device's version",
    levels: PV,
    examples: ["control version"],
    result: {
      is: "line",
      fields: versionFields,
      of: (result) =>
        result instanceof Map
          ? `gimbal ${result.get("version")}, release ${result.get("release")} for ${result.get("board")}${result.get("development") === true ? ", development image" : ""}`
          : "",
    },
    request: noFields,
    answer: async (device) => {
      const status = await device.status();
      return new Map(versionFields.map(({ key }) => [key, status.get(key) ?? null]));
    },
  }),
  streaming({
    name: "attest",
    summary: "get signed evidence of what booted and what runs",
    help:
      "Without --nonce a random one is taken, which proves nothing to others: a verifier chooses its own. " +
      "Into a file or pipe goes the evidence, for `gimbal attest verify`; a terminal shows what it is.",
    flags: [
      {
        name: "--nonce",
        key: "nonce",
        value: "HEX",
        kind: "octets",
        help: "32 to 64 octets chosen by the verifier",
      },
    ],
    levels: PV,
    examples: ["control attest --nonce $(openssl rand -hex 32) > evidence.cbor"],
    result: {
      is: "stream",
      fields: [
        { key: "format", help: "the format of the evidence" },
        { key: "nonce", help: "the nonce in hex" },
        { key: "evidence_bytes", as: "bytes", help: "the evidence's length" },
        { key: "evidence", help: "the evidence in base64" },
      ],
    },
    request: record({ nonce: bytesOf({ min: 32, max: 64 }) }),
    open: async (device, { nonce }, channel) => evidenceStream(await device.attest(nonce), channel),
  }),
  answering({
    name: "device_stats",
    summary: "show disk and memory of the device",
    levels: PV,
    examples: ["control device_stats"],
    result: {
      is: "fields",
      fields: [
        { key: "disk_total_bytes", as: "bytes", help: "size of the data partition" },
        { key: "disk_free_bytes", as: "bytes", help: "free on it" },
        { key: "memory_total_bytes", as: "bytes", help: "memory of the device" },
        { key: "memory_free_bytes", as: "bytes", help: "of it, what new programs can have" },
        { key: "init_memory_bytes", as: "bytes", help: "anonymous memory of gimbal itself" },
      ],
    },
    request: noFields,
    answer: (device) => device.deviceStats(),
  }),
  answering({
    name: "ca_register",
    summary: "trust a CA for GuestOSes",
    args: [{ key: "pem", shown: "<ca.crt|->", kind: "text-file", help: "its certificate in PEM" }],
    levels: P,
    examples: ["control ca_register owner-ca.crt"],
    result: {
      is: "fields",
      fields: [
        { key: "registered", help: "the names in the certificates" },
        { key: "trusted", help: "how many CAs are trusted now" },
      ],
    },
    request: record({ pem: text({ min: 1, max: 65_536 }) }),
    answer: (device, request) => device.registerCa(request.pem),
  }),
  answering({
    name: "get_provisioned",
    summary: "tell whether the device is provisioned",
    levels: PV,
    examples: ["control get_provisioned"],
    result: {
      is: "line",
      fields: [{ key: "provisioned", help: "true or false" }],
      of: (result) => (provisionedOf(result) ? "provisioned" : "not provisioned"),
    },
    request: noFields,
    answer: async (device) => new Map([["provisioned", await device.getProvisioned()]]),
  }),
  answering({
    name: "set_provisioned",
    summary: "end provisioning: fewer commands from then on, and no way back",
    levels: P,
    examples: ["control set_provisioned"],
    result: nothing,
    request: noFields,
    answer: (device) => device.setProvisioned().then(() => null),
  }),
  onDevice("reboot", "stop all containers in order and restart the device", (device) => device.reboot()),
  onDevice("poweroff", "stop all containers in order and switch the device off", (device) =>
    device.powerOff(),
  ),
];

function onDevice(name: string, summary: string, act: (device: DeviceHandlers) => Promise<void>): Command {
  return answering({
    name,
    summary,
    levels: PV,
    examples: [`control ${name}`],
    result: nothing,
    request: noFields,
    answer: (device) => act(device).then(() => null),
  });
}

export function findCommand(name: string): Command | undefined {
  return commands.find((command) => command.name === name);
}

const provisionedOf = (result: CborValue): boolean =>
  result instanceof Map && result.get("provisioned") === true;

/** `create`: the file's config or a new one, then the flags. */
function configOf(given: ReadonlyMap<string, CborValue>): ReadonlyMap<string, CborValue> {
  const { name_or_file: first, ...flags } = Object.fromEntries(given);
  const base: ReadonlyMap<string | number, CborValue> =
    first instanceof Map
      ? first
      : new Map<string, CborValue>([
          ["name", first ?? ""],
          ["guest_os", first ?? ""],
        ]);
  return new Map([["config", new Map([...base, ...Object.entries(flags)])]]);
}

/** `run`: "UID[:GID]" apart; both are checked by the device. */
function runFields(given: ReadonlyMap<string, CborValue>): ReadonlyMap<string, CborValue> {
  const fields = new Map(given);
  const user = given.get("user");
  if (typeof user !== "string") return fields;
  const [uid = "", gid = uid] = user.split(":");
  const number = (digits: string) => (/^\d{1,9}$/.test(digits) ? Number(digits) : digits);
  return fields.set("user", number(uid)).set("group", number(gid));
}
