// What the binary puts into the page: a report (report.schema.json), the
// readings around the stall, the processes, and stacks where there are any.

import type { Stacks } from "./flame";

export interface Culprit {
  kind: string;
  pid?: number; comm?: string; exe?: string; cmdline?: string; unit?: string; cgroup?: string; container?: string;
  user?: string; device?: string; mount?: string; address?: string; interface?: string; count?: number;
}
export interface Evidence { text: string; source?: string; column?: string; before?: string; during?: string }
export interface Cause {
  id: string; title: string; summary: string; confidence: number; explained_pct: number; culprit: Culprit;
  chain: string[]; evidence: Evidence[]; remedy: string[]; symptom_of?: string;
}
export interface Symptom {
  probe: string; target: string; start: string; end: string; worst_ms: number; count: number; error?: string; victims?: string[]; doubtful?: boolean;
}
export interface Account { victim: string; symptom: string; total_ms: number; class_ms: Record<string, number>; longest?: string }
export interface Item { at: string; end?: string; what: string; text: string }
export interface NotSeen { what: string; lost: string; fix?: string; error?: string }
export interface Report {
  schema: string; id: string; fingerprint: string; version: string;
  host: { name: string; kernel: string; os: string; virtualization?: string; cpus: number; memory_bytes: number; boot: string };
  stall: { start: string; end: string; duration_ms: number; ongoing: boolean; symptoms: Symptom[] };
  causes: Cause[]; unexplained_pct: number; ledger: Account[]; not_seen: NotSeen[];
  recorder: { cpu_pct: number; rss_bytes: number; samples: number; late_samples: number; worst_late_ms: number; dropped_records?: number };
  timeline: Item[];
  recurrence?: { count: number; first: string; last: string; spacing_s: number; regular: boolean; pattern?: string; unit?: string };
}
export interface Series { key: string; column: string; rate: boolean; values: (number | null)[] }
export interface Source { source: string; at: number[]; series: Series[] }
export interface Process {
  pid: number; ppid: number; comm: string; cmdline: string; unit: string; state: string; threads: number;
  cpu_pct: number; rss_bytes: number; read_bytes: number; write_bytes: number;
}
export interface Data { headline: string; recurs?: string; report: Report; charts: Source[]; processes: Process[]; stacks?: Stacks }

// How the values of a chart are shown.
export type Unit = "pct" | "bytes" | "bytes/s" | "count" | "count/s" | "ms";

export interface Line { label: string; values: (number | null)[] }
export interface Chart { title: string; note: string; unit: Unit; at: number[]; lines: Line[]; stacked: boolean; top?: number }

const nonzero = (values: (number | null)[]) => values.some((v) => v !== null && v !== 0);

// One chart of some columns of one source.
interface Spec {
  title: string; source: string; unit: Unit; columns: Record<string, string>; note?: string; scale?: number; stacked?: boolean; top?: number;
}

// Times in µs that grow per second are shares: 10,000 µs/s is 1 %.
const specs: Spec[] = [
  { title: "CPU time by class", note: "100 % is one CPU", source: "stat", unit: "pct", scale: 1e-4, stacked: true,
    columns: { user_us: "user", nice_us: "nice", system_us: "system", softirq_us: "softirq", irq_us: "irq", steal_us: "steal", iowait_us: "iowait (idle)" } },
  { title: "Run queue", source: "stat", unit: "count", columns: { procs_running: "running or wanting a CPU", procs_blocked: "blocked on IO" } },
  { title: "Pressure: time in which some task waited", source: "pressure", unit: "pct", scale: 1e-4, top: 100, columns: { some_us: "some" } },
  { title: "Pressure: time in which all tasks waited", source: "pressure", unit: "pct", scale: 1e-4, top: 100, columns: { full_us: "full" } },
  { title: "Memory", source: "meminfo", unit: "bytes",
    columns: { mem_available_bytes: "available", mem_free_bytes: "free", anon_bytes: "anonymous", cached_bytes: "page cache", slab_unreclaimable_bytes: "kernel" } },
  { title: "Dirty pages and writeback", source: "meminfo", unit: "bytes", columns: { dirty_bytes: "dirty", writeback_bytes: "being written" } },
  { title: "Reclaim and swap", source: "vmstat", unit: "count/s",
    columns: { pswpin: "swapped in", pswpout: "swapped out", pgmajfault: "major faults", pgscan_direct: "direct reclaim scans", allocstall: "allocations that waited" } },
  { title: "Disk busy", note: "share of time with a request in flight", source: "diskstats", unit: "pct", scale: 1e-4, top: 100, columns: { io_us: "busy" } },
  { title: "Disk requests in flight", source: "diskstats", unit: "count", columns: { in_flight: "in flight" } },
  { title: "Disk throughput", source: "diskstats", unit: "bytes/s", columns: { read_bytes: "read", write_bytes: "written" } },
  { title: "Network throughput", source: "netdev", unit: "bytes/s", columns: { rx_bytes: "received", tx_bytes: "sent" } },
  { title: "Network drops", source: "netdev", unit: "count/s", columns: { rx_drop: "received", tx_drop: "sent" } },
  { title: "Packets dropped before the stack", source: "softnet", unit: "count/s", columns: { dropped: "dropped", time_squeeze: "budget spent" } },
  { title: "TCP trouble", source: "netstat", unit: "count/s",
    columns: { TcpRetransSegs: "retransmits", TcpExtListenOverflows: "listen overflows", TcpExtListenDrops: "listen drops", TcpExtTCPTimeouts: "timeouts" } },
  { title: "Listen queues", note: "connections that nobody has accepted yet", source: "listeners", unit: "count", columns: { queue: "waiting" } },
  { title: "CPU quota: throttled", note: "share of time, summed over CPUs", source: "cgroups", unit: "pct", scale: 1e-4, columns: { cpu_throttled_us: "throttled" } },
  { title: "Memory of control groups", source: "cgroups", unit: "bytes", columns: { memory_bytes: "used" } },
  { title: "JVM: time stopped for garbage collection", source: "jvm", unit: "pct", scale: 1e-4, top: 100, columns: { gc_us: "collecting", safepoint_us: "at a safepoint" } },
  { title: "JVM heap", source: "jvm", unit: "bytes", columns: { heap_used_bytes: "used" } },
  { title: "FUSE requests without an answer", source: "fuse", unit: "count", columns: { waiting: "waiting" } },
  { title: "freezeframe itself", note: "100 % is one CPU", source: "self", unit: "pct", scale: 1e-4, columns: { cpu_us: "CPU" } },
];

const label = (key: string, name: string, alone: boolean) => (key === "" || key === "all CPUs" ? name : alone ? key : `${key} ${name}`);

// charts picks what the page draws out of the readings; a chart in which
// nothing moved is left out.
export function charts(sources: Source[]): Chart[] {
  const out: Chart[] = [];
  for (const spec of specs) {
    const source = sources.find((s) => s.source === spec.source);
    if (!source) continue;
    const names = Object.keys(spec.columns);
    const lines: Line[] = [];
    for (const name of names) {
      for (const s of source.series) {
        if (s.column !== name || !nonzero(s.values)) continue;
        const scale = spec.scale ?? 1;
        lines.push({ label: label(s.key, spec.columns[name], names.length === 1), values: s.values.map((v) => (v === null ? null : v * scale)) });
      }
    }
    if (lines.length > 0) out.push({ title: spec.title, note: spec.note ?? "", unit: spec.unit, at: source.at, lines, stacked: spec.stacked ?? false, top: spec.top });
  }
  const latency = diskLatency(sources.find((s) => s.source === "diskstats"));
  if (latency) out.splice(Math.max(out.findIndex((c) => c.title === "Disk busy"), 0), 0, latency);
  return out;
}

// diskLatency is the mean time of the requests that were completed between two
// readings: time per second over requests per second.
export function diskLatency(source: Source | undefined): Chart | null {
  if (!source) return null;
  const lines: Line[] = [];
  for (const [time, count, name] of [["read_us", "reads", "read"], ["write_us", "writes", "write"]]) {
    for (const t of source.series) {
      const n = source.series.find((s) => s.key === t.key && s.column === count);
      if (t.column !== time || !n) continue;
      lines.push({ label: `${t.key} ${name}`, values: t.values.map((us, i) => {
        const requests = n.values[i];
        return us === null || !requests ? null : us / requests / 1000;
      }) });
    }
  }
  return lines.length > 0 ? { title: "Disk latency", note: "mean of the requests completed", unit: "ms", at: source.at, lines, stacked: false } : null;
}

// stack adds up the lines for drawing one upon the other; what is missing
// counts as 0. The last line drawn is the first given.
export function stack(lines: Line[]): (number | null)[][] {
  const sums = lines[0].values.map(() => 0);
  return lines.map((line) => line.values.map((v, i) => (v === null ? (sums[i] === 0 ? null : sums[i]) : (sums[i] += v))));
}

export function number(v: number, unit: Unit): string {
  switch (unit) {
    case "pct": return `${short(v)} %`;
    case "ms": return v >= 1000 ? `${short(v / 1000)} s` : `${short(v)} ms`;
    case "bytes": return bytes(v);
    case "bytes/s": return `${bytes(v)}/s`;
    case "count/s": return `${short(v)}/s`;
    default: return short(v);
  }
}

function short(v: number): string {
  const a = Math.abs(v);
  if (a >= 1e9) return `${trim(v / 1e9)} G`;
  if (a >= 1e6) return `${trim(v / 1e6)} M`;
  if (a >= 1e4) return `${trim(v / 1e3)} k`;
  return trim(v);
}

function trim(v: number): string {
  const a = Math.abs(v);
  return String(Number(v.toFixed(a >= 100 ? 0 : a >= 10 ? 1 : 2)));
}

export function bytes(v: number): string {
  let i = 0;
  for (; Math.abs(v) >= 1024 && i < 5; i++) v /= 1024;
  return `${trim(v)} ${["B", "KiB", "MiB", "GiB", "TiB", "PiB"][i]}`;
}

export function duration(ms: number): string {
  if (ms < 1) return `${Math.round(ms * 1000)} µs`;
  if (ms < 999.5) return `${Math.round(ms)} ms`;
  if (ms < 59995) return `${(ms / 1000).toFixed(2)} s`;
  const s = Math.round(ms / 1000);
  return s < 3600 ? `${Math.floor(s / 60)} min ${s % 60} s` : `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
}

// seconds from the start of the stall, of a time of the report.
export function offset(report: Report, time: string): number {
  return nanos(time) - nanos(report.stall.start);
}

// nanos reads RFC 3339 with up to nine decimals, to the microsecond, in
// seconds since 1970; Date.parse alone keeps milliseconds only.
export function nanos(time: string): number {
  const fraction = /\.(\d+)/.exec(time)?.[1] ?? "";
  return Math.floor(Date.parse(time.replace(/\.\d+/, "")) / 1000) + Number(`0.${fraction || "0"}`);
}

// who names a culprit in a few words.
export function who(c: Culprit): string {
  const parts: string[] = [];
  if (c.pid) parts.push(`${c.comm || "process"} (pid ${c.pid})`);
  else if (c.comm) parts.push(c.comm);
  if (c.count && c.count > 1) parts.push(`${c.count} processes like it`);
  for (const [name, value] of [["mount", c.mount], ["device", c.device], ["address", c.address], ["interface", c.interface], ["unit", c.unit], ["container", c.container], ["user", c.user]] as const) {
    if (value) parts.push(`${name} ${value}`);
  }
  if (!c.unit && !c.container && c.cgroup && c.cgroup !== "/") parts.push(`cgroup ${c.cgroup}`);
  if (c.kind === "hypervisor") parts.push("the hypervisor");
  if (c.kind === "host") parts.push("nobody on this machine");
  return parts.join(", ");
}

// classes gives the classes of an account by how much time each has.
export function classes(account: Account): [string, number][] {
  return Object.entries(account.class_ms).filter(([, v]) => v > 0).sort((a, b) => b[1] - a[1] || (a[0] < b[0] ? -1 : 1));
}

// folded joins neighbours of the timeline that say the same.
export function folded(items: Item[]): Item[] {
  const out: Item[] = [];
  for (let i = 0; i < items.length; ) {
    let n = 1;
    while (i + n < items.length && items[i + n].what === items[i].what && items[i + n].text === items[i].text) n++;
    const last = items[i + n - 1];
    out.push(n === 1 ? items[i] : { ...items[i], end: last.end ?? last.at, text: `${items[i].text} (${n} times)` });
    i += n;
  }
  return out;
}
