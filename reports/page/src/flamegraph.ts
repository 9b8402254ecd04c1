import { duration } from "./data";
import { colour, label, layout, move, search, tree, type Graph, type Node, type Stacks } from "./flame";

const row = 18;
const space = "http://www.w3.org/2000/svg";

// Names are hostile: they only ever become text or attributes.
function svg(tag: string, attrs: Record<string, string | number>): SVGElement {
  const e = document.createElementNS(space, tag);
  for (const [k, v] of Object.entries(attrs)) e.setAttribute(k, String(v));
  return e;
}

function html(tag: string, attrs: Record<string, string>, text = ""): HTMLElement {
  const e = document.createElement(tag);
  for (const [k, v] of Object.entries(attrs)) e.setAttribute(k, v);
  e.textContent = text;
  return e;
}

const percent = (part: number, all: number) => `${(all > 0 ? (100 * part) / all : 0).toFixed(1)} %`;

// flamegraph draws one graph: click or Enter shows the part below a frame,
// Escape goes back to all, arrows walk, and what is searched for is marked.
export function flamegraph(stacks: Stacks, graph: Graph, title: string): HTMLElement {
  const root = tree(stacks, graph);
  const told = (n: Node) => `${n.name}${n.kernel ? " (kernel)" : ""}: ${duration(n.total / 1e6)}, ${percent(n.total, root.total)}${
    n.self > 0 && n.self < n.total ? `; ${duration(n.self / 1e6)} in itself` : ""}`;
  let zoom = root, current = root, found = new Set<Node>();
  let width = 0;
  let boxes = layout(root, width);
  const shapes = new Map<Node, SVGElement>();

  const box = html("figure", { class: "flame" });
  const bar = html("div", { class: "flame-bar" });
  const input = html("input", { type: "search", placeholder: "search functions", "aria-label": `search functions: ${title}`, spellcheck: "false" }) as HTMLInputElement;
  const reset = html("button", { type: "button", hidden: "" }, "show all");
  const state = html("output", {}, told(root));
  const picture = svg("svg", { role: "tree", "aria-label": `${title}: flame graph`, width: "100%" });
  bar.append(input, reset, state);
  box.append(bar, picture);

  function paint(): void {
    boxes = layout(zoom, width);
    shapes.clear();
    const rows = boxes.reduce((max, b) => Math.max(max, b.row), 0) + 1;
    picture.setAttribute("height", String(rows * row));
    picture.replaceChildren(...boxes.map((b) => {
      const ancestor = b.node.depth < zoom.depth;
      const g = svg("g", { role: "treeitem", tabindex: -1, "aria-level": b.node.depth + 1, "aria-label": told(b.node), transform: `translate(${b.x.toFixed(2)} ${b.row * row})` });
      if (ancestor) g.setAttribute("class", "above");
      const tip = svg("title", {});
      tip.textContent = told(b.node);
      const text = svg("text", { x: 3, y: row - 5 });
      text.textContent = label(b.node.name, b.width);
      g.append(tip, svg("rect", { width: Math.max(b.width - 0.5, 0.5).toFixed(2), height: row - 1, rx: 1, fill: found.has(b.node) ? "#e64cf0" : colour(b.node) }), text);
      g.addEventListener("click", () => show(b.node));
      g.addEventListener("focus", () => tell(b.node));
      g.addEventListener("pointerenter", () => { state.textContent = told(b.node); });
      shapes.set(b.node, g);
      return g;
    }));
    (shapes.get(current) ?? shapes.get(zoom))?.setAttribute("tabindex", "0");
    reset.toggleAttribute("hidden", zoom === root);
  }

  function tell(node: Node): void {
    shapes.get(current)?.setAttribute("tabindex", "-1");
    current = node;
    shapes.get(current)?.setAttribute("tabindex", "0");
    state.textContent = told(node);
  }

  // show draws the part below a node; the keyboard stays where it was.
  function show(node: Node): void {
    zoom = node;
    current = node;
    paint();
    state.textContent = told(node);
    shapes.get(node)?.focus();
  }

  picture.addEventListener("keydown", (event) => {
    const { key } = event as KeyboardEvent;
    if (key === "Enter" || key === " ") show(current);
    else if (key === "Escape") show(root);
    else {
      const to = move(boxes, current, key);
      if (to === null) return;
      tell(to);
      shapes.get(to)?.focus();
    }
    event.preventDefault();
  });
  picture.addEventListener("pointerleave", () => { state.textContent = told(current); });
  reset.addEventListener("click", () => show(root));
  input.addEventListener("input", () => {
    const result = search(root, input.value);
    found = result.found;
    paint();
    state.textContent = input.value.trim() === "" ? told(zoom)
      : found.size === 0 ? "no function has that in its name"
      : `${found.size} ${found.size === 1 ? "frame" : "frames"}, ${duration(result.total / 1e6)}, ${percent(result.total, root.total)} in or below them`;
  });

  // Its width is known, and changes, with the page.
  const fit = () => {
    const now = Math.floor(box.clientWidth);
    if (now === width || now === 0) return;
    width = now;
    paint();
  };
  new ResizeObserver(fit).observe(box);
  return box;
}

const titles: Record<string, [string, string]> = {
  on_cpu: ["What used the CPUs", "time in which threads ran, by what they were in; each box hangs below what called it"],
  off_cpu: ["What threads waited in", "time in which threads did not run, by what they were in; each box hangs below what called it"],
};

// flamegraphs is a section for each graph that the page has.
export function flamegraphs(stacks: Stacks | undefined): HTMLElement[] {
  return (stacks?.graphs ?? []).filter((g) => g.nodes.length > 0).map((g) => {
    const [title, note] = titles[g.kind] ?? [g.kind.replace(/_/g, " "), ""];
    const section = html("section", {});
    const other = g.other_stacks > 0 ? ` The ${g.other_stacks} smallest of ${g.stacks} stacks are [other].` : "";
    section.append(html("h2", {}, title),
      html("p", { class: "dim" }, `${note}. Kernel functions are blue. Click a box or press Enter to see only what is below it, Escape to see all.${other}`),
      flamegraph(stacks!, g, title));
    return section;
  });
}
