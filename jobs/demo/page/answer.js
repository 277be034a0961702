// The answer of one model: its first guess, and the probability of each class, or of the ten most probable.

import { make } from "./dom.js";
import { percent } from "./words.js";

const MOST_FIXED = 20; // up to so many classes stay in their places while one draws
const TOP = 10;

/** A card with a model's answer. */
export class Answer {
  #model;
  #guess = make("p", { class: "guess" });
  #sure = make("p", { class: "sure" });
  #rows;

  /** `root`: an empty element. `isTitled`: with the model's title, where there are two. */
  constructor(root, model, isTitled) {
    this.#model = model;
    const count = model.classes.length <= MOST_FIXED ? model.classes.length : TOP;
    this.#rows = Array.from({ length: count }, () => {
      const [name, bar, share] = ["name", "bar", "share"].map((kind) => make("span", { class: kind }));
      const fill = make("span", { class: "fill" });
      bar.append(fill);
      return { item: make("li", {}, name, bar, share), name, fill, share };
    });
    const list = make("ol", { class: "classes", "aria-label": `probabilities of ${model.title}` });
    list.append(...this.#rows.map(({ item }) => item));
    if (isTitled) root.append(make("h3", {}, model.title));
    root.append(make("div", { class: "first" }, this.#guess, this.#sure), list);
  }

  /** Shows probabilities, one a class. Returns the first guess as a sentence. */
  show(probabilities) {
    const { classes } = this.#model;
    const best = first(probabilities);
    this.#guess.textContent = classes[best].name;
    this.#guess.classList.toggle("long", classes[best].name.length > 3);
    this.#sure.textContent = percent(probabilities[best]);
    const order = this.#rows.length === classes.length ? classes.map((_, i) => i) : top(probabilities, TOP);
    this.#rows.forEach(({ item, name, fill, share }, row) => {
      const at = order[row];
      name.textContent = classes[at].name;
      fill.style.transform = `scaleX(${probabilities[at]})`;
      share.textContent = percent(probabilities[at]);
      item.classList.toggle("best", at === best);
    });
    return `${classes[best].name}, ${percent(probabilities[best])}`;
  }
}

/** Returns the most probable class. */
export const first = (probabilities) => probabilities.reduce((best, each, i) => (each > probabilities[best] ? i : best), 0);

const top = (probabilities, count) =>
  probabilities.map((_, i) => i).sort((a, b) => probabilities[b] - probabilities[a]).slice(0, count);
