import { describe, expect, it } from "vitest";
import { colour, label, layout, move, search, tree, type Graph, type Node, type Stacks } from "./flame";

// comm "redis" 100: main 60 (aof 40 of it: vfs_fsync 40), loop 40 in itself; "sh" 20.
const graph: Graph = { kind: "off_cpu", total_ns: 120, stacks: 4, other_stacks: 0,
  nodes: [0, 3, 0, 1, 2, 20, 2, 1, 0, 3, 0, 40, 1, 5, 40, 0, 4, 20] };
const stacks: Stacks = { names: ["vfs_fsync", "aof", "main", "redis", "sh", "loop"], kernel_names: 1, graphs: [graph] };

const find = (n: Node, name: string): Node => {
  const all: Node[] = [n];
  for (const a of all) {
    if (a.name === name) return a;
    all.push(...a.children);
  }
  throw new Error(name);
};

describe("tree", () => {
  it("adds up what was called to who called it", () => {
    const root = tree(stacks, graph);
    expect(root.total).toBe(120);
    expect(["redis", "main", "aof", "vfs_fsync", "loop", "sh"].map((n) => [find(root, n).start, find(root, n).total, find(root, n).self, find(root, n).depth])).toEqual(
      [[0, 100, 0, 1], [0, 60, 20, 2], [0, 40, 0, 3], [0, 40, 40, 4], [60, 40, 40, 2], [100, 20, 20, 1]]);
    expect(find(root, "vfs_fsync").kernel).toBe(true);
    expect(find(root, "aof").kernel).toBe(false);
  });
  it("stops where the nodes make no tree", () => {
    for (const nodes of [[1, 2, 5], [0, 9, 5], [0, 2, -1], [0, 2, 5, 2, 1, 5], [0, 2], []]) {
      const root = tree(stacks, { ...graph, nodes });
      expect(root.total).toBeLessThanOrEqual(5);
    }
  });
});

describe("layout", () => {
  const root = tree(stacks, graph);
  const shape = (zoom: Node, width: number, least?: number) => layout(zoom, width, least).map((b) => [b.node.name, b.x, b.width, b.row]);
  it("gives every box its share of the width", () => {
    expect(shape(root, 1200)).toEqual([["all", 0, 1200, 0], ["redis", 0, 1000, 1], ["sh", 1000, 200, 1], ["main", 0, 600, 2], ["loop", 600, 400, 2], ["aof", 0, 400, 3], ["vfs_fsync", 0, 400, 4]]);
  });
  it("shows a part over the whole width, below those that called it", () => {
    expect(shape(find(root, "loop"), 400)).toEqual([["all", 0, 400, 0], ["redis", 0, 400, 1], ["loop", 0, 400, 2]]);
    expect(shape(find(root, "main"), 600)).toEqual([["all", 0, 600, 0], ["redis", 0, 600, 1], ["main", 0, 600, 2], ["aof", 0, 400, 3], ["vfs_fsync", 0, 400, 4]]);
  });
  it("leaves out what is too narrow, with all below it", () => {
    expect(shape(root, 120, 50).map((b) => b[0])).toEqual(["all", "redis", "main"]);
  });
  it("draws nothing of no time", () => expect(shape(tree(stacks, { ...graph, nodes: [0, 3, 0] }), 100)).toEqual([["all", 0, 0, 0]]));
});

describe("search", () => {
  const root = tree(stacks, graph);
  it("finds names in any case and counts time once", () => {
    const r = search(root, " A ");
    expect([...r.found].map((n) => n.name)).toEqual(["main", "aof"]);
    expect(r.total).toBe(60);
    expect(search(root, "VFS").total).toBe(40);
  });
  it("takes no pattern, and finds nothing for nothing", () => {
    expect(search(root, ".*").found.size).toBe(0);
    expect(search(root, "  ").found.size).toBe(0);
    expect(search(root, "all").found.size).toBe(0);
  });
});

describe("move", () => {
  const root = tree(stacks, graph);
  const boxes = layout(root, 1200);
  const go = (from: string, key: string) => move(boxes, find(root, from), key)?.name ?? null;
  it("walks the boxes", () => {
    expect([go("redis", "ArrowDown"), go("redis", "ArrowUp"), go("redis", "ArrowRight"), go("sh", "ArrowLeft"), go("vfs_fsync", "Home")]).toEqual(["main", "all", "sh", "redis", "all"]);
  });
  it("stays where there is nothing", () => {
    expect([go("all", "ArrowUp"), go("vfs_fsync", "ArrowDown"), go("sh", "ArrowRight"), go("main", "ArrowLeft"), go("main", "x")]).toEqual([null, null, null, null, null]);
  });
  it("starts at the top from a box that is not shown", () => expect(move(layout(find(root, "sh"), 100), find(root, "aof"), "ArrowUp")?.name).toBe("all"));
});

describe("boxes", () => {
  it("cut names to their width", () => expect([label("vfs_fsync", 100), label("vfs_fsync", 46), label("vfs_fsync", 20)]).toEqual(["vfs_fsync", "vfs_f…", ""]));
  it("have a colour by name and kind", () => {
    const root = tree(stacks, graph);
    expect(colour(root)).toBe("#cfd4da");
    expect(colour(find(root, "vfs_fsync"))).toMatch(/^hsl\(2\d\d /);
    expect(colour(find(root, "aof"))).toMatch(/^hsl\([1-5]?\d /);
  });
});
