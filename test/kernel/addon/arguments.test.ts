/** Nothing that JavaScript can pass may end the process: every wrong type is a TypeError. */
import t from "tap";
import { loadKernel } from "../load.ts";

const kernel = loadKernel();
const functions = Object.entries(kernel as unknown as Record<string, (...args: unknown[]) => unknown>);

const typeOf = (value: unknown): string => (value === null ? "null" : typeof value);

/** These take nothing, or act on the machine with the first number that they get. */
const withoutArguments = ["sync", "dmList", "landlockAbi", "peekExitedChild", "pipe"];
const notCalled = ["reboot", "setClock", ...withoutArguments];

t.test("arguments of wrong types are a TypeError", (t) => {
  t.ok(functions.length > 50, `${functions.length} functions`);
  const wrongs: unknown[][] = [
    [{}],
    ["\0"],
    [Number.NaN, {}],
    [Number.MAX_VALUE],
    [0.5],
    [-(2 ** 40)],
    [null, null, null, null, null],
    [Symbol("x")],
    [[], [], []],
    [() => undefined],
    [1n],
  ];
  for (const [name, call] of functions.filter(([name]) => !notCalled.includes(name))) {
    if (name !== "openPty") t.throws(() => call(), TypeError, `${name}()`);
    for (const wrong of wrongs) t.throws(() => call(...wrong), TypeError, `${name}(${wrong.map(typeOf)})`);
  }
  t.end();
});

t.test("a getter that throws, or changes the list, is its own error", (t) => {
  const boom = new Error("boom");
  const options = {
    get readOnly(): boolean {
      throw boom;
    },
  };
  const { loopAttach, clone, fsMount } = kernel as unknown as Record<string, (...args: unknown[]) => unknown>;
  t.throws(() => loopAttach?.(0, options), boom);
  const request = new Proxy(
    {},
    {
      get() {
        throw boom;
      },
    },
  );
  t.throws(() => clone?.(request), boom);
  const list = new Proxy([["size", "1"]], {
    get(target, key) {
      if (key === "0") throw boom;
      return Reflect.get(target, key);
    },
  });
  t.throws(() => fsMount?.("tmpfs", list, 0));
  t.end();
});

t.test("a descriptor that is not open is EBADF, with the call's name", (t) => {
  const bad = 1_000_000;
  for (const [call, syscall] of [
    [() => kernel.mkdirat(bad, "x", 0o755), "mkdirat"],
    [() => kernel.openat2(bad, "x", 0, 0, 0), "openat2"],
    [() => kernel.pidfdSignal(bad, 0), "pidfd_send_signal"],
    [() => kernel.windowSize(bad), "ioctl TIOCGWINSZ"],
    [() => kernel.watchFd(bad, 1, () => undefined), "fcntl F_DUPFD_CLOEXEC"],
    [() => kernel.netlink(bad, 0, new Uint8Array(16)), "setns"],
    [() => kernel.receiveDatagram(bad, 10), "recvmsg"],
  ] as const) {
    t.throws(call, { code: "EBADF", errno: 9, syscall });
  }
  t.end();
});
