import type { BuildResult } from "./build.ts";
export async function buildImage(_result: BuildResult): Promise<void> {}
