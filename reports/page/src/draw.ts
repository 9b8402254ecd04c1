import uPlot from "uplot";
import { number, offset, stack, type Chart, type Report } from "./data";

const colours = ["#1c7ed6", "#e8590c", "#2f9e44", "#ae3ec9", "#f08c00", "#0c8599", "#c2255c", "#495057"];

// Bytes are labelled at powers of two, so that the labels are round.
const byteSteps = Array.from({ length: 50 }, (_, i) => 2 ** i);

// draw puts every chart into the box. They share the cursor and the zoom.
export function draw(box: HTMLElement, charts: Chart[], report: Report): void {
  const group = uPlot.sync("window");
  const plots: uPlot[] = [];
  const width = () => {
    const columns = box.clientWidth > 900 ? 2 : 1;
    return Math.max(280, Math.floor((box.clientWidth - 16 * (columns - 1)) / columns) - 2);
  };
  let zooming = false;
  const zoom = (source: uPlot, key: string) => {
    if (zooming || key !== "x") return;
    zooming = true;
    const { min, max } = source.scales.x;
    for (const p of plots) if (p !== source && min != null && max != null) p.setScale("x", { min, max });
    zooming = false;
  };
  const range = [Math.min(...charts.map((c) => c.at[0])), Math.max(...charts.map((c) => c.at[c.at.length - 1]))];

  for (const chart of charts) {
    const holder = document.createElement("div");
    holder.className = "chart";
    const title = document.createElement("h3");
    title.textContent = chart.title;
    if (chart.note) {
      const note = document.createElement("span");
      note.className = "dim";
      note.textContent = ` ${chart.note}`;
      title.append(note);
    }
    holder.append(title);
    box.append(holder);
    const values = chart.stacked ? stack(chart.lines) : chart.lines.map((l) => l.values);
    // Stacked lines are drawn from the top, so that each fills down to the next.
    const order = chart.lines.map((_, i) => i);
    if (chart.stacked) order.reverse();
    const own = (i: number, at: number | null) => (at === null ? null : chart.lines[i].values[at]);
    plots.push(new uPlot({
      width: width(),
      height: 190,
      cursor: { sync: { key: group.key }, drag: { x: true, y: false } },
      scales: { x: { time: false, range: (_, min, max) => (min === max ? [range[0], range[1]] : [min, max]) },
        y: { range: (_, __, max) => [0, chart.top ? Math.max(chart.top * 0.1, Math.min(max * 1.05, chart.top * 1.05)) : max > 0 ? max * 1.08 : 1] } },
      axes: [
        { values: (_, ticks) => ticks.map((t) => `${t}`), grid: { stroke: "#8882", width: 1 }, stroke: "#888", size: 30 },
        { values: (_, ticks) => ticks.map((t) => number(t, chart.unit)), incrs: chart.unit.startsWith("bytes") ? byteSteps : undefined, size: 78, grid: { stroke: "#8882", width: 1 }, stroke: "#888" },
      ],
      series: [
        { value: (_, v) => (v == null ? "" : `${v.toFixed(2)} s`), label: "at" },
        ...order.map((i) => ({
          label: chart.lines[i].label,
          stroke: colours[i % colours.length],
          fill: chart.stacked ? colours[i % colours.length] + "55" : undefined,
          width: 1.2,
          points: { show: false },
          spanGaps: true,
          value: (_: uPlot, __: number, ___: number, at: number | null) => {
            const v = own(i, at);
            return v == null ? "" : number(v, chart.unit);
          },
        })),
      ],
      hooks: { drawClear: [(u) => mark(u, report)], setScale: [zoom] },
    }, [chart.at, ...order.map((i) => values[i])] as uPlot.AlignedData, holder));
  }
  plots.forEach((p) => group.sub(p));
  addEventListener("resize", () => plots.forEach((p) => p.setSize({ width: width(), height: 190 })));
}

// mark shades the stall and draws the beginning of each symptom.
function mark(u: uPlot, report: Report): void {
  const x = (seconds: number) => Math.min(Math.max(u.valToPos(seconds, "x", true), u.bbox.left), u.bbox.left + u.bbox.width);
  const from = x(0), to = x(offset(report, report.stall.end));
  u.ctx.save();
  u.ctx.fillStyle = "rgba(224, 49, 49, 0.12)";
  u.ctx.fillRect(from, u.bbox.top, Math.max(to - from, 1), u.bbox.height);
  u.ctx.strokeStyle = "rgba(224, 49, 49, 0.6)";
  u.ctx.setLineDash([4, 4]);
  for (const s of report.stall.symptoms) {
    for (const at of [s.start, s.end]) {
      const p = x(offset(report, at));
      u.ctx.beginPath();
      u.ctx.moveTo(p, u.bbox.top);
      u.ctx.lineTo(p, u.bbox.top + u.bbox.height);
      u.ctx.stroke();
    }
  }
  u.ctx.restore();
}
