/** What a command is: how it is written, who may use it, what it asks of the device, how its result looks. */
import type { CborValue } from "../bytes/cbor.ts";
import { type Parsed, parse, type Shape } from "../bytes/shape.ts";
import type { Channel, OpenStream } from "./channel.ts";
import type { Message } from "./frame.ts";
import type { DeviceHandlers, Level } from "./handlers.ts";

/** What a word of the command line becomes. A file named "-" is standard input. */
export type Kind = "text" | "number" | "octets" | "text-file" | "json-file" | "name-or-json-file";

/** A positional argument, by the key it has in the request. */
export type Argument = {
  readonly key: string;
  /** As help shows it: "<container>". */
  readonly shown: string;
  readonly help: string;
  /** Default "text". */
  readonly kind?: Kind;
  /** Only the last may be. */
  readonly optional?: true;
  /** Takes all that follows, at least one word. */
  readonly rest?: true;
};

export type Flag = {
  /** "--nonce" */
  readonly name: string;
  readonly key: string;
  /** As help shows it, "HEX"; absent: it takes no value. */
  readonly value?: string;
  readonly kind?: Kind;
  /** May stand several times: the request has a list. */
  readonly many?: true;
  readonly help: string;
};

/** How a value is shown to a person. */
export type As = "text" | "seconds" | "bytes" | "time";

/** One field of a result, by its key in JSON. */
export type Field = {
  readonly key: string;
  readonly help: string;
  readonly as?: As;
  /** In a table: its column, and whether numbers stand at the right. */
  readonly title?: string;
  readonly right?: true;
};

/** What the command answers, and how a person sees it; --json shows all of it. */
export type Result =
  | { readonly is: "nothing" }
  | { readonly is: "rows"; readonly fields: readonly Field[]; readonly empty: string }
  | { readonly is: "fields"; readonly fields: readonly Field[] }
  /** One line for a person. */
  | { readonly is: "line"; readonly fields: readonly Field[]; readonly of: (result: CborValue) => string }
  /** Octets as they come; JSON has them in these fields. */
  | { readonly is: "stream"; readonly fields: readonly Field[] };

/** What the server does with a request; the fields were checked before. */
type Act =
  | { readonly is: "answer"; readonly result: () => Promise<CborValue> }
  | { readonly is: "stream"; readonly open: (channel: Channel) => Promise<OpenStream> };

type Described = {
  readonly name: string;
  readonly summary: string;
  readonly help?: string;
  readonly args?: readonly Argument[];
  readonly flags?: readonly Flag[];
  readonly levels: readonly Level[];
  readonly examples: readonly string[];
  readonly result: Result;
  /** Makes the request's fields of what args and flags gave. */
  readonly fields?: (given: ReadonlyMap<string, CborValue>) => ReadonlyMap<string, CborValue>;
};

export type Command = Described & {
  readonly args: readonly Argument[];
  readonly flags: readonly Flag[];
  /** Checks a request's fields. */
  readonly plan: (device: DeviceHandlers, request: Message) => Parsed<Act>;
};

/** A command with one answer. */
export function answering<T>(
  is: Described & {
    readonly request: Shape<T>;
    readonly answer: (device: DeviceHandlers, request: T) => Promise<CborValue>;
  },
): Command {
  const { request: shape, answer, ...described } = is;
  return complete(described, shape, (device, request) => ({
    is: "answer",
    result: () => answer(device, request),
  }));
}

/** A command that streams before its answer. */
export function streaming<T>(
  is: Described & {
    readonly request: Shape<T>;
    readonly open: (device: DeviceHandlers, request: T, channel: Channel) => Promise<OpenStream>;
  },
): Command {
  const { request: shape, open, ...described } = is;
  return complete(described, shape, (device, request) => ({
    is: "stream",
    open: (channel) => open(device, request, channel),
  }));
}

function complete<T>(
  described: Described,
  shape: Shape<T>,
  act: (device: DeviceHandlers, request: T) => Act,
): Command {
  return {
    args: [],
    flags: [],
    ...described,
    plan(device, request) {
      const fields = new Map([...request].filter(([key]) => key !== "id" && key !== "command"));
      const parsed = parse(shape, fields);
      return parsed.is === "ok" ? { is: "ok", value: act(device, parsed.value) } : parsed;
    },
  };
}
