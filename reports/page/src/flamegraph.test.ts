import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { flamegraphs } from "./flamegraph";
import type { Stacks } from "./flame";

// As much of a document as a flame graph needs. There is no innerHTML in it:
// code that made markup of strings would fail here.
class Element {
  attrs: Record<string, string> = {};
  children: Element[] = [];
  text = "";
  value = "";
  clientWidth = 1000;
  heard: Record<string, ((e: unknown) => void)[]> = {};
  constructor(readonly tag: string) {}
  get textContent(): string { return this.text + this.children.map((c) => c.textContent).join(""); }
  set textContent(text: string) { this.text = text; this.children = []; }
  setAttribute(k: string, v: string) { this.attrs[k] = v; }
  toggleAttribute(k: string, on: boolean) { if (on) this.attrs[k] = ""; else delete this.attrs[k]; }
  append(...c: Element[]) { this.children.push(...c); }
  replaceChildren(...c: Element[]) { this.children = c; }
  addEventListener(name: string, f: (e: unknown) => void) { (this.heard[name] ??= []).push(f); }
  fire(name: string, event: object = {}) { this.heard[name]?.forEach((f) => f({ preventDefault() {}, ...event })); }
  focus() { this.fire("focus"); }
  all(tag: string): Element[] { return this.children.flatMap((c) => [...(c.tag === tag ? [c] : []), ...c.all(tag)]); }
}

const before = { document: globalThis.document, ResizeObserver: globalThis.ResizeObserver };
beforeAll(() => {
  const make = (tag: string) => new Element(tag);
  Object.assign(globalThis, {
    document: { createElement: make, createElementNS: (_: string, tag: string) => make(tag) },
    ResizeObserver: class { constructor(private readonly f: () => void) {} observe() { this.f(); } },
  });
});
afterAll(() => { Object.assign(globalThis, before); });

const evil = "</title><script>alert(1)</script>";
const stacks: Stacks = { names: ["vfs_fsync", evil, "main", "redis"], kernel_names: 1, graphs: [
  { kind: "off_cpu", total_ns: 3e9, stacks: 40, other_stacks: 7, nodes: [0, 3, 0, 1, 2, 1e9, 2, 0, 1.5e9, 1, 1, 5e8] },
] };

function drawn() {
  const section = flamegraphs(stacks)[0] as unknown as Element;
  const [svg] = section.all("svg"), [input] = section.all("input"), [button] = section.all("button"), [state] = section.all("output");
  const names = () => svg.all("text").map((t) => t.textContent);
  const item = (name: string) => svg.all("g").find((g) => g.attrs["aria-label"].startsWith(name))!;
  return { section, svg, input, button, state, names, item };
}

describe("flamegraphs", () => {
  it("draw nothing without stacks", () => {
    expect(flamegraphs(undefined)).toEqual([]);
    expect(flamegraphs({ names: [], kernel_names: 0, graphs: [] })).toEqual([]);
  });
  it("draw one box a frame, and say what is left out", () => {
    const d = drawn();
    expect(d.names()).toEqual(["all", "redis", "main", expect.stringMatching(/^<\/title><script>a.*…$/), "vfs_fsync"]);
    expect(d.section.textContent).toContain("The 7 smallest of 40 stacks are [other].");
    expect(d.item("vfs_fsync").attrs["aria-label"]).toBe("vfs_fsync (kernel): 1.50 s, 50.0 %");
    expect(d.item("main").attrs["aria-label"]).toBe("main: 2.50 s, 83.3 %; 1.00 s in itself");
  });
  it("keep hostile names text", () => {
    const d = drawn();
    expect(d.item(evil).all("title")[0].textContent).toBe(`${evil}: 500 ms, 16.7 %`);
    expect(d.section.all("script")).toEqual([]);
  });
  it("show a part on a click, and all again", () => {
    const d = drawn();
    expect("hidden" in d.button.attrs).toBe(true);
    d.item("main").fire("click");
    expect(d.names()).toEqual(["all", "redis", "main", "vfs_fsync"]);
    expect(d.item("main").all("rect")[0].attrs.width).toBe("999.50");
    expect(d.item("redis").attrs.class).toBe("above");
    expect("hidden" in d.button.attrs).toBe(false);
    d.button.fire("click");
    expect(d.names().length).toBe(5);
  });
  it("are walked by the keyboard, with one stop for the tab key", () => {
    const d = drawn();
    const stops = () => d.svg.all("g").filter((g) => g.attrs.tabindex === "0").map((g) => g.attrs["aria-label"].split(/[: ]/)[0]);
    expect(stops()).toEqual(["all"]);
    d.svg.fire("keydown", { key: "ArrowDown" });
    d.svg.fire("keydown", { key: "ArrowDown" });
    expect(stops()).toEqual(["main"]);
    expect(d.state.textContent).toContain("main: 2.50 s");
    d.svg.fire("keydown", { key: "Enter" });
    expect(d.names()).toEqual(["all", "redis", "main", "vfs_fsync"]);
    expect(stops()).toEqual(["main"]);
    d.svg.fire("keydown", { key: "Escape" });
    expect(d.names().length).toBe(5);
    expect(stops()).toEqual(["all"]);
  });
  it("mark what is searched for", () => {
    const d = drawn();
    const marked = () => d.svg.all("g").filter((g) => g.all("rect")[0].attrs.fill === "#e64cf0").length;
    expect(marked()).toBe(0);
    d.input.value = "FSYNC";
    d.input.fire("input");
    expect(marked()).toBe(1);
    expect(d.state.textContent).toBe("1 frame, 1.50 s, 50.0 % in or below them");
    d.input.value = "nobody";
    d.input.fire("input");
    expect(marked()).toBe(0);
    expect(d.state.textContent).toContain("no function");
  });
});
