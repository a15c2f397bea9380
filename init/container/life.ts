/** The life of a container as states and moves; an illegal move does not compile. */
import type { ExitReport, StateName } from "./status.ts";

/** What exists while a guest runs; G is the running guest (guest.ts). */
export type State<G> =
  | { readonly is: "STOPPED"; readonly lastExit: ExitReport | undefined }
  | { readonly is: "STARTING"; readonly abort: AbortController; readonly ended: Promise<void> }
  | { readonly is: "BOOTING"; readonly guest: G }
  | { readonly is: "RUNNING"; readonly guest: G }
  | { readonly is: "SETUP"; readonly guest: G }
  | { readonly is: "FREEZING"; readonly guest: G; readonly before: Thawed }
  | { readonly is: "FROZEN"; readonly guest: G; readonly before: Thawed }
  | { readonly is: "SHUTTING_DOWN"; readonly guest: G }
  | { readonly is: "REBOOTING"; readonly lastExit: ExitReport }
  | { readonly is: "ZOMBIE"; readonly why: string };

/** Where an unfreeze leads back to. */
export type Thawed = "BOOTING" | "RUNNING" | "SETUP";

/** What was left behind could not be undone: ZOMBIE, until the next boot or a wipe. */
const next = {
  STOPPED: ["STARTING"],
  STARTING: ["BOOTING", "RUNNING", "SETUP", "STOPPED", "ZOMBIE"],
  BOOTING: ["RUNNING", "FREEZING", "SHUTTING_DOWN", "STOPPED", "REBOOTING", "ZOMBIE"],
  RUNNING: ["FREEZING", "SHUTTING_DOWN", "STOPPED", "REBOOTING", "ZOMBIE"],
  SETUP: ["FREEZING", "SHUTTING_DOWN", "STOPPED", "REBOOTING", "ZOMBIE"],
  FREEZING: ["FROZEN", "BOOTING", "RUNNING", "SETUP", "SHUTTING_DOWN", "STOPPED", "REBOOTING", "ZOMBIE"],
  FROZEN: ["BOOTING", "RUNNING", "SETUP", "SHUTTING_DOWN", "STOPPED", "ZOMBIE"],
  SHUTTING_DOWN: ["STOPPED", "REBOOTING", "ZOMBIE"],
  REBOOTING: ["STARTING", "STOPPED"],
  ZOMBIE: ["STOPPED"],
} as const satisfies Record<StateName, readonly StateName[]>;

export type After<G, From extends State<G>> = Extract<State<G>, { is: (typeof next)[From["is"]][number] }>;

/** The only place where a container changes state. */
export const move = <G, From extends State<G>>(_from: From, to: After<G, From>): State<G> => to;

/** States in which a guest's processes exist. */
export function guestOf<G>(state: State<G>): G | undefined {
  return "guest" in state ? state.guest : undefined;
}
