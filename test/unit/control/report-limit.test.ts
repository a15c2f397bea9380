import t from "tap";
import { limited } from "../../../init/control/report-limit.ts";
import { openDoor } from "./door.ts";
import { until } from "./fake-device.ts";

t.test("a flood of refusals is told in part, with how many were left out", (t) => {
  const told: string[] = [];
  let now = 0;
  const report = limited(
    ({ sentence }) => void told.push(sentence),
    () => now,
  );
  for (let i = 0; i < 10_000; i++) report({ code: "x", sentence: "no" });
  t.equal(told.length, 60);
  now = 1000;
  report({ code: "x", sentence: "later" });
  t.equal(told.at(-1), "later (and 9940 refusals before that are not listed)");
  now = 3_600_000;
  for (let i = 0; i < 100; i++) report({ code: "x", sentence: "no" });
  t.equal(told.length, 121, "quiet hours do not add up");
  t.end();
});

t.test(
  "a client that asks for nonsense thousands of times gets its answers, the log stays short",
  async (t) => {
    await using door = await openDoor();
    const raw = await door.raw();
    for (let id = 1; id <= 3000; id++) {
      raw.send({ id, command: "nonsense" });
      if (id % 10 === 0) await until(() => raw.answers.length === id, "answers");
    }
    t.ok(door.refused.length < 200);
  },
);
