import { describe, expect, it } from "vitest";
import { bytes, charts, classes, diskLatency, duration, folded, nanos, number, stack, who, type Source } from "./data";

const series = (column: string, values: (number | null)[], key = "") => ({ key, column, rate: true, values });

describe("charts", () => {
  it("turns µs per second into percent and leaves out what did not move", () => {
    const sources: Source[] = [{ source: "stat", at: [0, 1], series: [series("user_us", [null, 10000], "all CPUs"), series("system_us", [0, 0], "all CPUs"), series("procs_running", [1, 2], "all CPUs")] }];
    const out = charts(sources);
    expect(out.map((c) => c.title)).toEqual(["CPU time by class", "Run queue"]);
    expect(out[0].lines).toEqual([{ label: "user", values: [null, 1] }]);
  });
  it("names a line by its key where there is one column", () => {
    const out = charts([{ source: "listeners", at: [0], series: [series("queue", [3], "0.0.0.0:80")] }]);
    expect(out[0].lines[0].label).toBe("0.0.0.0:80");
  });
  it("gives no charts without readings", () => expect(charts([])).toEqual([]));
});

describe("disk latency", () => {
  it("divides time by requests and has no value without requests", () => {
    const c = diskLatency({ source: "diskstats", at: [0, 1, 2], series: [series("write_us", [null, 30000, 0], "vda"), series("writes", [null, 10, 0], "vda")] });
    expect(c?.lines).toEqual([{ label: "vda write", values: [null, 3, null] }]);
  });
});

describe("stack", () => {
  it("adds each line to those before it", () => {
    expect(stack([{ label: "a", values: [1, null, 2] }, { label: "b", values: [1, 1, null] }])).toEqual([[1, null, 2], [2, 1, 2]]);
  });
});

describe("words", () => {
  it("says times", () => expect([0.5, 340, 999.6, 3210, 125000].map(duration)).toEqual(["500 µs", "340 ms", "1.00 s", "3.21 s", "2 min 5 s"]));
  it("says bytes", () => expect([0, 1023, 1536, 2 ** 31].map(bytes)).toEqual(["0 B", "1023 B", "1.5 KiB", "2 GiB"]));
  it("says values", () => expect([number(12.345, "pct"), number(1500, "ms"), number(12345, "count/s")]).toEqual(["12.3 %", "1.5 s", "12.3 k/s"]));
  it("reads times to the microsecond", () => expect(nanos("2026-11-25T03:01:40.123456789Z") - nanos("2026-11-25T03:01:40Z")).toBeCloseTo(0.123456789, 6));
  it("names culprits", () => {
    expect(who({ kind: "process", pid: 3, comm: "x", count: 2, unit: "a.service", cgroup: "/a" })).toBe("x (pid 3), 2 processes like it, unit a.service");
    expect(who({ kind: "host" })).toBe("nobody on this machine");
  });
  it("folds what repeats", () => {
    const items = ["a", "a", "b"].map((text, i) => ({ at: `${i}`, what: "refused", text }));
    expect(folded(items)).toEqual([{ at: "0", end: "1", what: "refused", text: "a (2 times)" }, items[2]]);
  });
  it("orders classes by time", () => expect(classes({ victim: "", symptom: "", total_ms: 3, class_ms: { a: 1, b: 2, c: 0 } })).toEqual([["b", 2], ["a", 1]]));
});
