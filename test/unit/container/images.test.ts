import t from "tap";
import { OpenImages } from "../../../init/container/images.ts";
import type { MountView, VerifiedGuestOs } from "../../../init/container/ports.ts";

const guestOs = (digest: number) => ({ manifestDigest: Uint8Array.of(digest) }) as unknown as VerifiedGuestOs;
const mount = { imageFile: "root.img" } as MountView;
const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

function store(lingerMs: number, fail: { open?: boolean; close?: boolean } = {}) {
  const said: string[] = [];
  const images = new OpenImages(
    async ({ manifestDigest }) => {
      said.push(`open ${manifestDigest[0]}`);
      await pause(1);
      if (fail.open) throw new Error("no");
      return {
        newMount: () => 7,
        async [Symbol.asyncDispose]() {
          said.push(`close ${manifestDigest[0]}`);
          if (fail.close) throw new Error("busy");
        },
      };
    },
    lingerMs,
    (error) => said.push(String(error)),
  );
  return { images, said };
}

t.test("an image that does not open is asked for again, and nobody holds it", async (t) => {
  const fail = { open: true };
  const { images, said } = store(0, fail);
  const both = await Promise.allSettled([images.lease(guestOs(1), mount), images.lease(guestOs(1), mount)]);
  t.same(
    both.map(({ status }) => status),
    ["rejected", "rejected"],
  );
  fail.open = false;
  const lease = await images.lease(guestOs(1), mount);
  await lease[Symbol.asyncDispose]();
  t.same(said, ["open 1", "open 1", "close 1"]);
});

t.test("two users share one, the last closes it, once", async (t) => {
  const { images, said } = store(0);
  const [a, b] = await Promise.all([images.lease(guestOs(1), mount), images.lease(guestOs(1), mount)]);
  const other = await images.lease(guestOs(2), mount);
  await a[Symbol.asyncDispose]();
  await a[Symbol.asyncDispose]();
  t.same(said, ["open 1", "open 2"]);
  await b[Symbol.asyncDispose]();
  await other[Symbol.asyncDispose]();
  t.same(said, ["open 1", "open 2", "close 1", "close 2"], "another manifest is another image");
});

t.test("it stays a moment for the next start, and is closed when nobody comes", async (t) => {
  const { images, said } = store(30, { close: true });
  const lease = async () => {
    await using _lease = await images.lease(guestOs(1), mount);
  };
  await lease();
  await lease();
  t.same(said, ["open 1"]);
  await pause(100);
  t.same(said, ["open 1", "close 1", "Error: busy"]);
});

t.test("at the end nothing idle stays open", async (t) => {
  const { images, said } = store(60_000);
  const held = await images.lease(guestOs(1), mount);
  await (await images.lease(guestOs(2), mount))[Symbol.asyncDispose]();
  await images[Symbol.asyncDispose]();
  t.same(said, ["open 1", "open 2", "close 2"], "what is used stays");
  await held[Symbol.asyncDispose]();
});
