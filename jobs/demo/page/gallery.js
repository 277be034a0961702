// Test images and errors to choose from, a page at a time.

import { image, images } from "./api.js";
import { byId, make, roving } from "./dom.js";
import { paintPicture } from "./sheet.js";
import { percent } from "./words.js";

const PAGE = 48;
const AT_ONCE = 6; // requests: as many as a browser keeps open to one server

/** The browser of test images of a model. */
export class Gallery {
  #model;
  #chosen;
  #from = 0;
  #turn = 0; // counts the pages asked for: an answer to an older question is dropped

  /** `chosen`: called with a test image's pixels and its description. */
  constructor(model, chosen) {
    this.#model = model;
    this.#chosen = chosen;
    const classes = model.classes.map(({ name }, i) => make("option", { value: i }, name));
    byId("gallery-class").append(...classes);
    for (const id of ["gallery-which", "gallery-class"]) {
      byId(id).addEventListener("change", () => this.#show(0));
    }
    byId("gallery-before").addEventListener("click", () => this.#show(this.#from - PAGE));
    byId("gallery-after").addEventListener("click", () => this.#show(this.#from + PAGE));
  }

  /** Shows the first page. Returns the description of the first image, or undefined. */
  async open() {
    return this.#show(0);
  }

  async #show(from) {
    const turn = ++this.#turn;
    this.#from = Math.max(0, from);
    const grid = byId("gallery-grid");
    try {
      const [which, of] = [byId("gallery-which").value, byId("gallery-class").value];
      const list = await images(this.#model.id, which, of, this.#from, PAGE);
      if (turn !== this.#turn) return undefined;
      const items = list.map((each) => this.#item(each));
      grid.replaceChildren(...items);
      const across = () => Math.max(1, items.filter((item) => item.offsetTop === items[0].offsetTop).length);
      if (items.length > 0) roving(grid, items, { across });
      byId("gallery-state").textContent = list.length
        ? `${this.#from + 1} to ${this.#from + list.length}`
        : "no images";
      byId("gallery-before").disabled = this.#from === 0;
      byId("gallery-after").disabled = list.length < PAGE;
      void this.#paint(items, list, turn);
      return list[0];
    } catch (error) {
      grid.replaceChildren();
      byId("gallery-state").textContent = error.message;
      return undefined;
    }
  }

  async #paint(items, list, turn) {
    for (let from = 0; from < list.length && turn === this.#turn; from += AT_ONCE) {
      const some = list.slice(from, from + AT_ONCE);
      const pictures = await Promise.all(some.map(({ index }) => image(this.#model.id, index)));
      pictures.forEach((each, i) => paintPicture(items[from + i].firstChild, each, this.#model.shape));
    }
  }

  #item(each) {
    const name = (label) => this.#model.classes[label]?.name ?? String(label);
    const isError = each.label !== each.predicted;
    const text = isError ? `${name(each.label)} → ${name(each.predicted)}` : name(each.label);
    const words = `test image ${each.index}, ${name(each.label)}, predicted ${name(each.predicted)}, ${percent(each.probability)}`;
    const item = make(
      "button",
      { type: "button", class: isError ? "error" : "", title: words, "aria-label": words, "data-index": each.index },
      make("canvas", { "aria-hidden": "true" }),
      make("span", {}, text),
    );
    item.addEventListener("click", async () => this.#chosen(await image(this.#model.id, each.index), each));
    return item;
  }
}
