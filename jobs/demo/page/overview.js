// The whole network as a row of layers, from the image to the probabilities, and what connects them.

import { byId, draw, make, roving } from "./dom.js";
import { arrange } from "./layout.js";
import { colorsOf, paintPicture, Sheet } from "./sheet.js";
import { kindOf, sizeOf } from "./words.js";
import { connections, spokes } from "./wires.js";

/** A model's layers as tabs: the arrow keys move between them, and the chosen one is shown large. */
export class Overview {
  #root;
  #model;
  #chosen;
  #places = new Map(); // layer name → {layer, grid, x, y, sheet, tab}
  #marks;
  #look = null;
  #width = 0;

  /** `root`: an empty element. `chosen`: called with the name of a layer, and whether to scroll to it. */
  constructor(root, model, chosen) {
    this.#root = root;
    this.#model = model;
    this.#chosen = chosen;
    new ResizeObserver(() => {
      if (root.clientWidth !== this.#width) this.#build();
    }).observe(root);
    this.#build();
  }

  /** Draws the outputs of every layer. */
  paint(look) {
    this.#look = look;
    for (const { layer, sheet, canvas } of this.#places.values()) {
      const output = look.layers.get(layer.name);
      if (sheet === null) paintPicture(canvas, output.values, output.shape);
      else sheet.paint(output.values, colorsOf(layer, output));
    }
  }

  /** Marks a layer as the chosen one, or none. */
  select(name) {
    for (const [each, { tab }] of this.#places) {
      const isChosen = each === name;
      tab.setAttribute("aria-selected", String(isChosen));
      tab.tabIndex = isChosen || (name === null && each === this.#model.layers[0].name) ? 0 : -1;
      if (isChosen) this.#reveal(tab);
    }
  }

  /** Lights what a unit reads, with a line from each patch. `unit`: see /api/unit; null puts the light out. */
  light(unit) {
    this.#marks.replaceChildren(...(unit === null ? [] : spokes(unit, this.#places)));
  }

  #reveal(tab) {
    const [left, right] = [tab.offsetLeft, tab.offsetLeft + tab.offsetWidth];
    const root = this.#root;
    if (left >= root.scrollLeft + 40 && right <= root.scrollLeft + root.clientWidth - 40) return;
    const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    root.scrollTo({ left: (left + right - root.clientWidth) / 2, behavior: calm ? "instant" : "smooth" });
  }

  #build() {
    this.#width = this.#root.clientWidth;
    const { places, width, height } = arrange(this.#model.layers, this.#width);
    const wires = draw("svg", { class: "wires", width, height, "aria-hidden": "true" }, ...connections(places));
    this.#marks = draw("svg", { class: "marks", width, height, "aria-hidden": "true" });
    const tabs = make("div", { role: "tablist", "aria-label": `layers of ${this.#model.title}` });
    this.#places = new Map(places.map((place) => [place.layer.name, this.#tab(place)]));
    tabs.append(...[...this.#places.values()].map(({ tab }) => tab));
    const names = [...this.#places.keys()];
    const moved = (index) => this.#chosen(names[index]);
    roving(tabs, [...tabs.children], { across: () => 1, moved });
    const board = make("div", { class: "board" }, wires, tabs, this.#marks);
    board.style.width = `${width}px`;
    board.style.height = `${height}px`;
    const scrolled = this.#root.scrollLeft;
    this.#root.replaceChildren(board);
    this.#root.scrollLeft = scrolled;
    if (this.#look !== null) this.paint(this.#look);
    byId("focus").dispatchEvent(new Event("rebuilt")); // the chosen layer and the lit patches are set again
  }

  #tab(place) {
    const { layer, grid, x, y, slot } = place;
    const canvas = make("canvas", { "aria-hidden": "true" });
    const tab = make(
      "button",
      {
        role: "tab",
        type: "button",
        id: `layer-${this.#model.id}-${layer.name}`,
        "aria-controls": "focus",
        "aria-label": `${layer.name}: ${layer.kind}, ${sizeOf(layer.shape)}`,
        title: `${layer.name} · ${layer.kind} · ${sizeOf(layer.shape)}`,
        "data-layer": layer.name,
      },
      canvas,
      make("span", { class: "kind" }, kindOf(layer)),
      make("span", { class: "size" }, layer.shape.join("×")),
    );
    const isPicture = layer.kind === "InputLayer";
    const sheet = isPicture ? null : new Sheet(canvas, grid);
    canvas.style.width = `${grid.cssWidth}px`;
    canvas.style.height = `${grid.cssHeight}px`;
    canvas.style.left = `${(slot - grid.cssWidth) / 2}px`;
    canvas.style.top = `${y}px`;
    tab.style.left = `${x - (slot - grid.cssWidth) / 2}px`;
    tab.style.width = `${slot}px`;
    tab.addEventListener("click", () => this.#chosen(layer.name));
    return { ...place, sheet, canvas, tab };
  }
}
