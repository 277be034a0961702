// One layer, large: its maps or units, the scale of its colors, and the number under the pointer or the cursor.

import { byId, draw } from "./dom.js";
import { colorsOf, largest, Sheet, signed } from "./sheet.js";
import { count, exact, placeOf, short, sizeOf } from "./words.js";

const MOST_LABELED = 40; // units of a flat layer that get their names and numbers beside the cells

/** The panel of the chosen layer. */
export class Focus {
  #model = null;
  #layer = null;
  #output = null;
  #sheet = null;
  #at = null;
  #pointed = null; // the unit under the pointer
  #chosen;
  #canvas = byId("focus-canvas");
  #marks = byId("focus-marks");
  #box = byId("focus-units");

  /** `chosen`: called with the place of a unit, [row, column, map] or [index]. */
  constructor(chosen) {
    this.#chosen = chosen;
    const box = this.#box;
    // A click's own coordinates are whole pixels, a pointer's are not: the click chooses what the pointer read.
    let pointed = null;
    for (const name of ["pointerdown", "pointermove"]) {
      box.addEventListener(name, (event) => {
        pointed = this.#under(event);
        this.#read(pointed ?? this.#at);
      });
    }
    box.addEventListener("pointerleave", () => this.#read(this.#at));
    box.addEventListener("click", () => this.#choose(pointed));
    box.addEventListener("keydown", (event) => this.#key(event));
    new ResizeObserver(() => this.#resize()).observe(byId("focus-room"));
  }

  get layer() {
    return this.#layer;
  }

  get at() {
    return this.#at;
  }

  /** Shows a layer, and the unit that answers most strongly. */
  show(model, layer, output) {
    this.#model = model;
    this.#layer = layer;
    this.#at = null;
    this.#sheet = null;
    const parameters = layer.parameters ? ` · ${count(layer.parameters)} parameters` : "";
    byId("focus-name").textContent = layer.name;
    byId("focus-facts").textContent = `${layer.kind} · ${sizeOf(layer.shape)}${parameters}`;
    byId("focus").setAttribute("aria-labelledby", `layer-${model.id}-${layer.name}`);
    this.#resize();
    if (output) this.paint(output);
  }

  /** Draws the layer's output. */
  paint(output) {
    this.#output = output;
    if (this.#sheet === null) return;
    this.#sheet.paint(output.values, colorsOf(this.#layer, output));
    this.#legend();
    this.#labels();
    if (this.#at === null) this.select(this.#strongest());
    else this.#read(this.#at);
  }

  /** Moves the cursor to a unit without choosing it. */
  select(at) {
    this.#at = at;
    const { x, y, width, height } = this.#boxOf(at);
    const frame = { x: x - 1.5, y: y - 1.5, width: width + 3, height: height + 3, rx: 2 };
    this.#marks.replaceChildren(draw("rect", { class: "unit", ...frame }));
    this.#read(at);
  }

  #resize() {
    if (this.#layer === null) return;
    const room = byId("focus-room");
    const height = innerWidth < 700 ? 300 : innerWidth < 1700 ? 380 : 470;
    const grid = largest(this.#layer.shape, room.clientWidth - 8, height);
    if (this.#sheet !== null && this.#sheet.grid.zoom === grid.zoom && this.#sheet.grid.columns === grid.columns) return;
    this.#sheet = new Sheet(this.#canvas, grid);
    this.#marks.setAttribute("width", grid.cssWidth);
    this.#marks.setAttribute("height", grid.cssHeight);
    this.#box.style.width = `${grid.cssWidth}px`;
    if (this.#output !== null && this.#at !== null) {
      this.paint(this.#output);
      this.select(this.#at);
    }
  }

  #legend() {
    const { min, max } = this.#output;
    const { shades, factor, middle } = colorsOf(this.#layer, this.#output);
    const [low, high] = [-middle / factor, (shades.length - 1 - middle) / factor];
    const bar = byId("legend-bar");
    if (bar.width !== shades.length) bar.width = shades.length;
    const image = new ImageData(shades.length, 1);
    new Uint32Array(image.data.buffer).set(shades);
    bar.getContext("2d").putImageData(image, 0, 0);
    byId("legend-low").textContent = short(low);
    byId("legend-zero").textContent = low < 0 ? "0" : "";
    byId("legend-high").textContent = short(high);
    byId("legend-range").style.left = `${(100 * (min - low)) / (high - low)}%`;
    byId("legend-range").style.right = `${(100 * (high - max)) / (high - low)}%`;
    byId("layer-min").textContent = exact(min);
    byId("layer-max").textContent = exact(max);
  }

  #labels() {
    const list = byId("focus-list");
    const { shape } = this.#layer;
    const isShort = shape.length === 1 && shape[0] <= MOST_LABELED;
    list.hidden = !isShort;
    if (!isShort) return;
    while (list.children.length < shape[0]) list.append(document.createElement("li"));
    while (list.children.length > shape[0]) list.lastChild.remove();
    const { classes } = this.#model;
    [...list.children].forEach((item, i) => {
      const name = classes.length === shape[0] ? classes[i].name : String(i);
      item.textContent = `${name}: ${short(this.#output.values[i])}`;
    });
  }

  #strongest() {
    const { values } = this.#output;
    // Of a unit for each class, that of the first guess; elsewhere a strong "no" is an answer, too.
    const isOfClasses = this.#layer.shape.length === 1 && values.length === this.#model.classes.length;
    const strength = isOfClasses ? (value) => value : Math.abs;
    let best = 0;
    for (let i = 1; i < values.length; i++) if (strength(values[i]) > strength(values[best])) best = i;
    return this.#place(best);
  }

  #place(i) {
    const [, width, maps] = this.#layer.shape;
    if (this.#layer.shape.length === 1) return [i];
    return [Math.floor(i / (width * maps)), Math.floor(i / maps) % width, i % maps];
  }

  #value([first, column, map]) {
    const [, width, maps] = this.#layer.shape;
    return this.#output.values[map === undefined ? first : (first * width + column) * maps + map];
  }

  #boxOf(at) {
    const { grid } = this.#sheet;
    return at.length === 1 ? grid.box(at[0]) : grid.box(at[2], at[0], at[1], 1, 1);
  }

  #read(at) {
    if (at === null || this.#output === null) return;
    byId("readout-place").textContent = placeOf(at);
    byId("readout-value").textContent = exact(this.#value(at));
  }

  #under(event) {
    const box = this.#canvas.getBoundingClientRect();
    const at = this.#sheet?.grid.unitAt(event.clientX - box.left, event.clientY - box.top) ?? null;
    return at !== null && this.#sheet.grid.isFlat ? [at[2]] : at;
  }

  #choose(at) {
    if (at === null || this.#output === null) return;
    this.select(at);
    this.#chosen(at);
  }

  #key(event) {
    if (this.#at === null || event.altKey || event.ctrlKey || event.metaKey) return;
    const next = this.#moved(event.key);
    if (next === null) return;
    event.preventDefault();
    this.#choose(next);
    byId("spoken").textContent = `${placeOf(next)}: ${short(this.#value(next))}`; // drawing changes it too often to speak
  }

  /** Returns where a key moves the cursor: arrows within a map, page keys to another map; null for other keys. */
  #moved(key) {
    const { grid } = this.#sheet;
    const steps = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
    const pages = { PageUp: -1, PageDown: 1 };
    const limited = (value, size) => Math.max(0, Math.min(size - 1, value));
    if (key === "Enter" || key === " ") return this.#at;
    if (grid.isFlat) {
      const [down, across] = steps[key] ?? [pages[key] ?? null, 0];
      return down === null ? null : [limited(this.#at[0] + down * grid.columns + across, grid.maps)];
    }
    const [row, column, map] = this.#at;
    if (key in pages) return [row, column, limited(map + pages[key], grid.maps)];
    if (!(key in steps)) return null;
    return [limited(row + steps[key][0], grid.height), limited(column + steps[key][1], grid.width), map];
  }
}

/** Returns the shade of a number on a layer's scale. */
export const shadeOf = (value, max) => signed()[255 + Math.round(Math.max(-1, Math.min(1, value / max)) * 255)];
