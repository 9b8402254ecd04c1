import "uplot/dist/uPlot.min.css";
import "./style.css";
import { draw } from "./draw";
import { flamegraphs } from "./flamegraph";
import { bytes, charts, classes, duration, folded, nanos, offset, who, type Cause, type Data, type Report } from "./data";

// Everything a report quotes is hostile: it only ever becomes text, by
// textContent. No markup is made from strings anywhere in this page.
function el(tag: string, attrs: Record<string, string> = {}, ...children: (Node | string)[]): HTMLElement {
  const e = document.createElement(tag);
  for (const [k, v] of Object.entries(attrs)) e.setAttribute(k, v);
  e.append(...children);
  return e;
}

const section = (title: string, ...children: (Node | string)[]) => el("section", {}, el("h2", {}, title), ...children);
const pct = (v: number) => `${v.toFixed(1)} %`;

// One colour a class, the same on every bar: causes of waiting in warm
// colours, running in blue, what is nobody's fault in grey.
const colours: Record<string, string> = {
  on_cpu: "#3b7dd8", runnable: "#e0a100", throttled: "#d9480f", device_wait: "#c2255c", filesystem_wait: "#9c36b5",
  kernel_lock: "#6741d9", reclaim: "#2b8a3e", swap_in: "#66a80f", user_lock: "#0c8599", file_lock: "#5f3dc4", pipe_wait: "#a61e4d",
  peer_wait: "#e8590c", child_wait: "#868e96", sleeping: "#adb5bd", stopped: "#862e9c", frozen: "#1098ad", idle: "#ced4da", machine_gone: "#212529", unseen: "#dee2e6",
};

function verdict(r: Report, headline: string, recurs: string): HTMLElement {
  const c = r.causes[0];
  return el("header", {},
    el("p", { class: "mark" }, "freezeframe"),
    el("h1", {}, headline),
    el("p", { class: "cause" },
      c.id === "unknown" ? "Nothing that could be seen explains it." : "",
      c.id === "unknown" ? "" : el("span", {}, `${pct(c.explained_pct)} of that is explained by ${c.title}`),
    ),
    el("p", {}, c.summary),
    shares(r),
    facts([
      ["Cause", c.id], ["Confidence", `${Math.round(c.confidence * 100)} %`], ["Blame", who(c.culprit)], ["Command", c.culprit.cmdline ?? ""],
      ["Stall", `${duration(r.stall.duration_ms)}, ${local(r.stall.start)} to ${local(r.stall.end)}${r.stall.ongoing ? " (not over)" : ""}`],
      ["Recurs", recurs],
      ["Host", [r.host.name, r.host.os, `kernel ${r.host.kernel}`, `${r.host.cpus} CPUs`, bytes(r.host.memory_bytes), r.host.virtualization ?? ""].filter(Boolean).join(", ")],
      ["Report", `${r.id}, fingerprint ${r.fingerprint}`],
    ]),
  );
}

// local is the reader's own time, to the millisecond, with its offset.
function local(time: string): string {
  const d = new Date(nanos(time) * 1000);
  const two = (v: number, n = 2) => String(v).padStart(n, "0");
  const zone = -d.getTimezoneOffset();
  const offset = zone === 0 ? "UTC" : `UTC${zone < 0 ? "−" : "+"}${Math.floor(Math.abs(zone) / 60)}:${two(Math.abs(zone) % 60)}`;
  return `${d.getFullYear()}-${two(d.getMonth() + 1)}-${two(d.getDate())} ${two(d.getHours())}:${two(d.getMinutes())}:${two(d.getSeconds())}.${two(d.getMilliseconds(), 3)} ${offset}`;
}

function facts(rows: [string, string][]): HTMLElement {
  return el("dl", {}, ...rows.filter(([, v]) => v !== "").flatMap(([k, v]) => [el("dt", {}, k), el("dd", {}, v)]));
}

// shares is one bar: what each cause explains, and what nothing does.
function shares(r: Report): HTMLElement {
  const parts: [string, number, string][] = r.causes.filter((c) => !c.symptom_of && c.explained_pct > 0)
    .map((c, i) => [c.id, c.explained_pct, ["#c92a2a", "#e67700", "#5f3dc4", "#2b8a3e"][i % 4]]);
  parts.push(["unexplained", r.unexplained_pct, "#adb5bd"]);
  return el("div", {},
    bar(parts, 100),
    el("p", { class: "legend" }, ...parts.map(([name, v, colour]) => key(colour, `${name} ${pct(v)}`))),
  );
}

function bar(parts: [string, number, string][], total: number): HTMLElement {
  const box = el("div", { class: "bar" });
  for (const [name, v, colour] of parts) {
    const piece = el("span", { title: name });
    piece.style.width = `${total > 0 ? (100 * v) / total : 0}%`;
    piece.style.background = colour;
    box.append(piece);
  }
  return box;
}

function key(colour: string, text: string): HTMLElement {
  const dot = el("i");
  dot.style.background = colour;
  return el("span", {}, dot, text);
}

function evidence(c: Cause): HTMLElement {
  return el("table", {},
    el("thead", {}, el("tr", {}, ...["What was measured", "Before", "During", "Read from"].map((t) => el("th", {}, t)))),
    el("tbody", {}, ...c.evidence.map((e) => el("tr", {}, el("td", {}, e.text), el("td", {}, e.before ?? ""), el("td", {}, e.during ?? ""),
      el("td", { class: "dim" }, e.source ? [e.source, e.column].filter(Boolean).join(".") : "")))),
  );
}

function ledger(r: Report): HTMLElement {
  const used = new Set<string>();
  const rows = r.ledger.map((a) => {
    const parts = classes(a);
    parts.forEach(([c]) => used.add(c));
    return el("div", { class: "account" },
      el("div", { class: "who" }, el("b", {}, a.victim), el("span", { class: "dim" }, ` ${a.symptom}`)),
      bar(parts.map(([c, v]) => [`${words(c)} ${duration(v)}`, v, colours[c] ?? "#495057"]), a.total_ms),
      el("div", { class: "dim" }, a.longest ? `longest: ${a.longest}` : duration(a.total_ms)),
    );
  });
  return section("Where the time of those who waited went",
    el("p", { class: "legend" }, ...Object.keys(colours).filter((c) => used.has(c)).map((c) => key(colours[c], words(c)))), ...rows);
}

const words = (name: string) => name.replace(/_/g, " ");

function timeline(r: Report): HTMLElement {
  return section("Timeline", el("p", { class: "dim" }, "seconds from the start of the stall"),
    el("table", { class: "timeline" }, el("tbody", {}, ...folded(r.timeline).map((t) =>
      el("tr", { class: `what-${t.what.replace(/[^a-z_]/g, "")}` }, el("td", { class: "num" }, signed(offset(r, t.at))),
        el("td", { class: "num dim" }, t.end ? duration((nanos(t.end) - nanos(t.at)) * 1000) : ""), el("td", { class: "dim" }, words(t.what)), el("td", {}, t.text))))));
}

const signed = (v: number) => (v < 0 ? "−" : "+") + Math.abs(v).toFixed(3);

function processes(d: Data): HTMLElement {
  return section("Processes of the window", el("p", { class: "dim" }, "those with the most CPU, disk or memory"),
    el("div", { class: "wide" }, el("table", {},
      el("thead", {}, el("tr", {}, ...["pid", "command", "unit", "state", "threads", "CPU", "memory", "read", "written"].map((t) => el("th", {}, t)))),
      el("tbody", {}, ...d.processes.map((p) => el("tr", {}, el("td", { class: "num" }, String(p.pid)), el("td", { title: p.cmdline, class: "cmd" }, p.cmdline || p.comm),
        el("td", {}, p.unit), el("td", {}, p.state), el("td", { class: "num" }, String(p.threads)), el("td", { class: "num" }, pct(p.cpu_pct)),
        el("td", { class: "num" }, bytes(p.rss_bytes)), el("td", { class: "num" }, p.read_bytes ? bytes(p.read_bytes) : ""), el("td", { class: "num" }, p.write_bytes ? bytes(p.write_bytes) : "")))))));
}

function notSeen(r: Report): HTMLElement {
  if (r.not_seen.length === 0) return section("What was not seen", el("p", {}, "Every source and probe of this version could be had. Waits shorter than one reading (50 ms) are not told apart."));
  return section("What was not seen", el("ul", {}, ...r.not_seen.map((n) =>
    el("li", {}, el("b", {}, n.what), n.error ? ` (${n.error})` : "", n.lost ? `: ${n.lost}. ` : ". ", n.fix ? el("span", { class: "fix" }, n.fix) : ""))));
}

function download(d: Data): HTMLElement {
  const link = el("a", { href: "#", download: `${d.report.id}.json` }, "the report, the readings of the charts and the processes as JSON");
  link.addEventListener("click", () => {
    link.setAttribute("href", URL.createObjectURL(new Blob([JSON.stringify(d, null, 1)], { type: "application/json" })));
  });
  return section("Raw data", el("p", {}, "Save ", link, ". Every reading of the window is in the recording (.frz) that was saved beside this file."));
}

function show(d: Data): void {
  const r = d.report;
  const c = r.causes[0];
  const page = document.getElementById("page")!;
  document.title = `${c.id} on ${r.host.name}, ${r.stall.start}`;
  page.append(verdict(r, d.headline, d.recurs ?? ""));
  if (c.chain.length > 0) page.append(section("Who waited for whom", el("ol", { class: "chain" }, ...c.chain.map((t) => el("li", {}, t)))));
  if (c.remedy.length > 0) page.append(section("What to do", el("ol", {}, ...c.remedy.map((t) => el("li", {}, t)))));
  if (c.evidence.length > 0) page.append(section("Evidence", evidence(c)));
  const others = r.causes.slice(1);
  if (others.length > 0) {
    page.append(section("Other causes, and what followed", ...others.map((o) => el("details", {},
      el("summary", {}, `${o.id}: ${o.summary} `, el("span", { class: "dim" }, o.symptom_of ? `(brought about by ${o.symptom_of})` : `(explains ${pct(o.explained_pct)})`)),
      facts([["Blame", who(o.culprit)], ["Confidence", `${Math.round(o.confidence * 100)} %`]]), evidence(o)))));
  }
  if (r.ledger.length > 0) page.append(ledger(r));
  page.append(...flamegraphs(d.stacks));
  const drawn = charts(d.charts);
  if (drawn.length > 0) {
    const box = el("div", { class: "charts" });
    page.append(section("The window", el("p", { class: "dim" }, "Seconds from the start of the stall, which is shaded; symptoms are dashed. Drag to zoom all charts, double-click to go back."), box));
    draw(box, drawn, r);
  }
  page.append(timeline(r));
  if (d.processes.length > 0) page.append(processes(d));
  page.append(notSeen(r), download(d));
  page.append(el("footer", {}, `freezeframe ${r.version} used ${r.recorder.cpu_pct.toFixed(1)} % of one CPU and ${bytes(r.recorder.rss_bytes)}; ${r.recorder.samples} readings, ${r.recorder.late_samples} late.`));
}

const data = JSON.parse(document.getElementById("data")!.textContent ?? "{}") as Data;
if (data.report) show(data);
else document.getElementById("page")!.append(el("p", {}, "This page has no report in it: freezeframe view FILE.frz --html makes one that has."));
