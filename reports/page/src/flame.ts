// Flame graphs: the trees in the page's data, where their boxes stand, and what
// a search finds in them. What is drawn of it is in flamegraph.ts.

// The form is that of internal/stacks (Flames): nodes are depth, index of the
// name and own nanoseconds, each frame before those that it called; the first
// kernel_names names are the kernel's.
export interface Stacks { names: string[]; kernel_names: number; graphs: Graph[] }
export interface Graph { kind: string; total_ns: number; stacks: number; other_stacks: number; nodes: number[] }

export interface Node {
  name: string; kernel: boolean; depth: number; self: number; total: number;
  start: number; // nanoseconds to the left of it
  parent: Node | null; children: Node[];
}

// tree makes the root, "all", of a graph. A node that is out of order ends it.
export function tree(stacks: Stacks, graph: Graph): Node {
  const root: Node = { name: "all", kernel: false, depth: 0, self: 0, total: 0, start: 0, parent: null, children: [] };
  const path = [root];
  for (let i = 0; i + 2 < graph.nodes.length; i += 3) {
    const [depth, index, self] = graph.nodes.slice(i, i + 3);
    const parent = path[depth];
    const name = stacks.names[index];
    if (!parent || name === undefined || !(self >= 0)) break;
    const node: Node = { name, kernel: index < stacks.kernel_names, depth: depth + 1, self, total: self, start: 0, parent, children: [] };
    parent.children.push(node);
    path.length = depth + 1;
    path.push(node);
    for (let p: Node | null = parent; p; p = p.parent) p.total += self;
  }
  place(root, 0);
  return root;
}

function place(node: Node, start: number): void {
  node.start = start;
  for (const c of node.children) {
    place(c, start);
    start += c.total;
  }
}

// A box is a node on the screen: x and width in pixels, row from the top.
export interface Box { node: Node; x: number; width: number; row: number }

// layout gives the boxes that can be seen when the graph shows the part below
// one node, row by row. Those that it was called by fill the rows above it; what
// is narrower than least pixels is left out.
export function layout(zoom: Node, width: number, least = 1): Box[] {
  const out: Box[] = [];
  for (let p = zoom.parent; p; p = p.parent) out.unshift({ node: p, x: 0, width, row: p.depth });
  const scale = zoom.total > 0 ? width / zoom.total : 0;
  let row: Node[] = [zoom];
  while (row.length > 0) {
    const next: Node[] = [];
    for (const node of row) {
      const w = node.total * scale;
      if (w < least && node !== zoom) continue;
      out.push({ node, x: (node.start - zoom.start) * scale, width: w, row: node.depth });
      next.push(...node.children);
    }
    row = next;
  }
  return out;
}

// search finds the nodes whose name has the text in it, in any case, and the
// time that was spent in or below them, counted once.
export function search(root: Node, text: string): { found: Set<Node>; total: number } {
  const found = new Set<Node>();
  let total = 0;
  const wanted = text.trim().toLowerCase();
  if (wanted === "") return { found, total };
  const walk = (node: Node, below: boolean): void => {
    const hit = node.depth > 0 && node.name.toLowerCase().includes(wanted);
    if (hit) {
      found.add(node);
      if (!below) total += node.total;
    }
    for (const c of node.children) walk(c, below || hit);
  };
  walk(root, false);
  return { found, total };
}

// move is where an arrow key leads from a box, among those that can be seen;
// null where it leads nowhere.
export function move(boxes: Box[], from: Node, key: string): Node | null {
  const at = boxes.findIndex((b) => b.node === from);
  if (at < 0) return boxes[0]?.node ?? null;
  switch (key) {
    case "ArrowUp": return from.parent;
    case "ArrowDown": {
      const below = boxes.filter((b) => b.node.parent === from);
      return below.length === 0 ? null : below.reduce((a, b) => (b.width > a.width ? b : a)).node;
    }
    case "ArrowLeft": return boxes[at - 1]?.row === boxes[at].row ? boxes[at - 1].node : null;
    case "ArrowRight": return boxes[at + 1]?.row === boxes[at].row ? boxes[at + 1].node : null;
    case "Home": return boxes[0].node;
    default: return null;
  }
}

// label cuts a name so that it fits into a box; "" where nothing does.
export function label(name: string, width: number, perCharacter = 6.6): string {
  const room = Math.floor((width - 6) / perCharacter);
  if (name.length <= room) return name;
  return room < 3 ? "" : `${name.slice(0, room - 1)}…`;
}

// colour is the same for a name wherever it stands: programs warm, the kernel
// blue, what has no name grey. All are light enough for black text.
export function colour(node: Node): string {
  if (node.parent === null || node.name.startsWith("[")) return "#cfd4da";
  let hash = 0;
  for (let i = 0; i < node.name.length; i++) hash = (hash * 31 + node.name.charCodeAt(i)) >>> 0;
  return node.kernel ? `hsl(${200 + (hash % 40)} 65% ${70 + (hash % 11)}%)` : `hsl(${8 + (hash % 44)} 85% ${64 + (hash % 11)}%)`;
}
