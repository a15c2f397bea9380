/**
 * The one table of commands. Server dispatch, the client's parsing and help, and docs/control.md come from it.
 */
import { type CborValue, encodeCbor } from "../bytes/cbor.ts";
import { type Shape, text } from "../bytes/shape.ts";
import type { DeviceHandlers, Level } from "./handlers.ts";

/** A positional argument, by the key it has in the request. */
export type Argument = {
  readonly key: string;
  /** As help shows it: "<container>". */
  readonly shown: string;
  readonly help: string;
  readonly optional?: true;
  /** Takes all that follows, at least one. */
  readonly rest?: true;
};

export type Flag = {
  /** "--nonce" */
  readonly name: string;
  readonly key: string;
  /** As help shows it, "HEX"; absent: it takes no value. */
  readonly value?: string;
  readonly help: string;
};

export type Column = { readonly key: string; readonly title: string; readonly right?: true };

/** How a person sees the result; --json shows all of it. */
export type View =
  | { readonly is: "nothing" }
  | { readonly is: "table"; readonly columns: readonly Column[]; readonly empty: string }
  | { readonly is: "fields" }
  | { readonly is: "line"; readonly of: (result: CborValue) => string };

export type Command = {
  readonly name: string;
  readonly aliases?: readonly string[];
  readonly summary: string;
  readonly help?: string;
  readonly args: readonly Argument[];
  readonly flags: readonly Flag[];
  readonly levels: readonly Level[];
  readonly examples: readonly string[];
  readonly view: View;
  /** Absent: the server streams it (run, logs). */
  readonly handle?: (
    device: DeviceHandlers,
    request: ReadonlyMap<string | number, CborValue>,
  ) => Promise<CborValue>;
};

const P: readonly Level[] = ["P"];
const PV: readonly Level[] = ["P", "V"];
const PVU: readonly Level[] = ["P", "V", "U"];

const container: Argument = { key: "container", shown: "<container>", help: "name or uuid of a container" };
const nothing: View = { is: "nothing" };
const fields: View = { is: "fields" };

const containerColumns: readonly Column[] = [
  { key: "name", title: "NAME" },
  { key: "state", title: "STATE" },
  { key: "guest_os", title: "GUESTOS" },
  { key: "version", title: "VERSION", right: true },
  { key: "trust_level", title: "TRUST" },
  { key: "uptime", title: "UPTIME S", right: true },
  { key: "uuid", title: "UUID" },
];

/** Where a person wants to see how a container is after a command. */
const stateLine: View = {
  is: "line",
  of: (result) => (result instanceof Map ? `${result.get("name")}: ${result.get("state")}` : ""),
};

export class BadRequest extends Error {
  override readonly name = "BadRequest";
}

/** Reads one field by its shape; throws BadRequest. */
function field<T>(request: ReadonlyMap<string | number, CborValue>, key: string, shape: Shape<T>): T {
  const parsed = shape.parse(request.get(key), "");
  if (parsed.is === "refused") throw new BadRequest(`the field "${key}" ${parsed.why}`);
  return parsed.value;
}

const nameOf = (request: ReadonlyMap<string | number, CborValue>) =>
  field(request, "container", text({ min: 1, max: 64 }));

const onContainer =
  (act: "state" | "start" | "stop" | "kill" | "freeze" | "unfreeze"): NonNullable<Command["handle"]> =>
  (device, request) =>
    device[act](nameOf(request));

function bytesField(
  request: ReadonlyMap<string | number, CborValue>,
  key: string,
  min: number,
  max: number,
): Uint8Array {
  const value = request.get(key);
  if (!(value instanceof Uint8Array)) throw new BadRequest(`the field "${key}" is no octet string`);
  if (value.length < min || value.length > max)
    throw new BadRequest(`the field "${key}" has ${value.length} octets, ${min} to ${max} are taken`);
  return value;
}

function configField(request: ReadonlyMap<string | number, CborValue>): CborValue {
  const value = request.get("config");
  if (!(value instanceof Map)) throw new BadRequest('the field "config" is no map');
  if (encodeCbor(value).length > 256 * 1024) throw new BadRequest("the config is too large");
  return value;
}

export const commands: readonly Command[] = [
  {
    name: "list",
    summary: "list the containers and their states",
    args: [],
    flags: [],
    levels: PV,
    examples: ["control list", "control list --json"],
    view: { is: "table", columns: containerColumns, empty: "no containers" },
    handle: (device) => device.list(),
  },
  {
    name: "list_guestos",
    summary: "list the GuestOSes on this device, and why one is not trusted",
    args: [],
    flags: [],
    levels: PVU,
    examples: ["control list_guestos"],
    view: {
      is: "table",
      columns: [
        { key: "name", title: "NAME" },
        { key: "version", title: "VERSION", right: true },
        { key: "trust_level", title: "TRUST" },
        { key: "signer", title: "SIGNER" },
        { key: "description", title: "DESCRIPTION" },
        { key: "refused", title: "REFUSED BECAUSE" },
      ],
      empty: "no GuestOSes",
    },
    handle: (device) => device.listGuestos(),
  },
  {
    name: "state",
    summary: "show the state of a container",
    args: [container],
    flags: [],
    levels: PV,
    examples: ["control state debian"],
    view: fields,
    handle: onContainer("state"),
  },
  {
    name: "create",
    summary: "create a container",
    help: "The config comes from a JSON file (- is standard input), or from the name and flags.",
    args: [
      { key: "name_or_file", shown: "<name|file.json|->", help: "name of the new container, or its config" },
    ],
    flags: [
      {
        name: "--guestos",
        key: "guest_os",
        value: "NAME",
        help: "the GuestOS it runs; default: one of its own name",
      },
      { name: "--ram", key: "ram_limit", value: "MB", help: "memory limit in MB of 2^20 octets" },
      { name: "--pids", key: "pids_limit", value: "N", help: "most tasks at once" },
      { name: "--autostart", key: "allow_autostart", help: "start it at each boot" },
    ],
    levels: PV,
    examples: [
      "control create debian",
      "control create web --guestos debian --ram 256 --autostart",
      "control create web.json",
    ],
    view: stateLine,
    handle: (device, request) => device.create(configField(request)),
  },
  {
    name: "update_config",
    summary: "replace the config of a container; it takes effect at the next start",
    args: [container, { key: "file", shown: "<file.json|->", help: "the new config" }],
    flags: [],
    levels: PV,
    examples: ["control update_config web web.json"],
    view: stateLine,
    handle: (device, request) => device.updateConfig(nameOf(request), configField(request)),
  },
  {
    name: "config",
    summary: "show the config of a container",
    args: [container],
    flags: [],
    levels: PV,
    examples: ["control config debian --json"],
    view: fields,
    handle: (device, request) => device.config(nameOf(request)),
  },
  {
    name: "remove",
    summary: "kill a container if it runs, and delete it with its data",
    args: [container],
    flags: [],
    levels: P,
    examples: ["control remove web"],
    view: nothing,
    handle: (device, request) => device.remove(nameOf(request)).then(() => null),
  },
  {
    name: "remove_guestos",
    summary: "delete a GuestOS that no container uses",
    args: [{ key: "name", shown: "<guestos>", help: "its name" }],
    flags: [],
    levels: P,
    examples: ["control remove_guestos hello"],
    view: nothing,
    handle: (device, request) =>
      device.removeGuestos(field(request, "name", text({ min: 1, max: 64 }))).then(() => null),
  },
  {
    name: "start",
    summary: "start a container",
    args: [container],
    flags: [],
    levels: PV,
    examples: ["control start debian"],
    view: stateLine,
    handle: onContainer("start"),
  },
  {
    name: "stop",
    summary: "ask a container to shut down, and kill it after its time limit",
    args: [container],
    flags: [],
    levels: PV,
    examples: ["control stop debian"],
    view: stateLine,
    handle: onContainer("stop"),
  },
  {
    name: "kill",
    summary: "end a container at once",
    args: [container],
    flags: [],
    levels: PV,
    examples: ["control kill debian"],
    view: stateLine,
    handle: onContainer("kill"),
  },
  {
    name: "freeze",
    summary: "hold all processes of a container",
    args: [container],
    flags: [],
    levels: P,
    examples: ["control freeze debian"],
    view: stateLine,
    handle: onContainer("freeze"),
  },
  {
    name: "unfreeze",
    summary: "let the processes of a frozen container go on",
    args: [container],
    flags: [],
    levels: P,
    examples: ["control unfreeze debian"],
    view: stateLine,
    handle: onContainer("unfreeze"),
  },
  {
    name: "run",
    summary: "run a command in a container",
    help: "With a terminal on standard input and output the command gets one of its own, which follows the window's size. After nopty, or without a terminal, it gets three pipes. The exit status is the command's; 126: it cannot be executed, 127: it does not exist, 128+n: it was ended by signal n.",
    args: [
      container,
      {
        key: "argv",
        shown: "[nopty] <command> [argument...]",
        help: "looked up in the container's PATH",
        rest: true,
      },
    ],
    flags: [{ name: "--user", key: "user", value: "UID", help: "numeric user in the container, default 0" }],
    levels: P,
    examples: ["control run debian bash", "control run debian nopty cat /etc/os-release"],
    view: nothing,
  },
  {
    name: "logs",
    summary: "print the console log of a container",
    args: [container],
    flags: [{ name: "-f", key: "follow", help: "go on with what comes" }],
    levels: PV,
    examples: ["control logs debian", "control logs -f debian"],
    view: nothing,
  },
  {
    name: "status",
    summary: "show how the device booted and what it warns of",
    args: [],
    flags: [],
    levels: PV,
    examples: ["control status"],
    view: fields,
    handle: (device) => device.status(),
  },
  {
    name: "attest",
    summary: "get signed evidence of what booted and what runs",
    args: [],
    flags: [{ name: "--nonce", key: "nonce", value: "HEX", help: "32 to 64 octets chosen by the verifier" }],
    levels: PV,
    examples: ["control attest --nonce $(head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \\n') --json"],
    view: fields,
    handle: (device, request) => device.attest(bytesField(request, "nonce", 32, 64)),
  },
  {
    name: "device_stats",
    summary: "show disk and memory of the device",
    args: [],
    flags: [],
    levels: PV,
    examples: ["control device_stats"],
    view: fields,
    handle: (device) => device.deviceStats(),
  },
  {
    name: "ca_register",
    summary: "trust a CA for GuestOSes",
    args: [{ key: "file", shown: "<ca.crt>", help: "its certificate in PEM (- is standard input)" }],
    flags: [],
    levels: P,
    examples: ["control ca_register owner-ca.crt"],
    view: fields,
    handle: (device, request) => device.registerCa(field(request, "pem", text({ min: 1, max: 65_536 }))),
  },
  {
    name: "get_provisioned",
    summary: "tell whether the device is provisioned",
    args: [],
    flags: [],
    levels: PV,
    examples: ["control get_provisioned"],
    view: { is: "line", of: (result) => (result === true ? "provisioned" : "not provisioned") },
    handle: (device) => device.getProvisioned(),
  },
  {
    name: "set_provisioned",
    summary: "end provisioning: from then on fewer commands are allowed, and there is no way back",
    args: [],
    flags: [],
    levels: P,
    examples: ["control set_provisioned"],
    view: nothing,
    handle: (device) => device.setProvisioned().then(() => null),
  },
  {
    name: "reboot",
    summary: "stop all containers in order and restart the device",
    args: [],
    flags: [],
    levels: PV,
    examples: ["control reboot"],
    view: nothing,
    handle: (device) => device.reboot().then(() => null),
  },
  {
    name: "poweroff",
    summary: "stop all containers in order and switch the device off",
    args: [],
    flags: [],
    levels: PV,
    examples: ["control poweroff"],
    view: nothing,
    handle: (device) => device.powerOff().then(() => null),
  },
];

export function findCommand(name: string): Command | undefined {
  return commands.find((command) => command.name === name || command.aliases?.includes(name));
}
