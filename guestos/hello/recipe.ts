/** A static program of a few kilobytes that prints a line and exits: for tests and measurements. */
import type { ProgramRecipe } from "../recipe.ts";

export const hello: ProgramRecipe = {
  is: "program",
  source: "hello.c",
  path: "/hello",
  limits: { imageBytes: 64 * 2 ** 10, executables: 1 },
};
