// The image in the data's form: the switches of the steps that bring it there, and what the network attends to.

import { attention } from "./api.js";
import { css, signedIndex } from "./colors.js";
import { byId, make } from "./dom.js";
import { paintPicture, signed } from "./sheet.js";

/** The switches of the fitting steps. */
export class Steps {
  #before = null; // the choices before `off`

  /** `changed`: called after a switch was turned. */
  constructor(changed) {
    byId("steps").addEventListener("change", () => {
      this.#before = null;
      changed();
    });
  }

  /** Returns the choices as /api/fit takes them. */
  get chosen() {
    return {
      polarity: byId("step-polarity").value,
      center: byId("step-center").value,
      scale: Number(byId("step-scale").checked),
      thicken: Number(byId("step-thicken").checked),
    };
  }

  /** Turns every step off: a test image has the data's form already. `restore` undoes it. */
  off() {
    this.#before ??= this.chosen;
    this.#set({ polarity: "as-is", center: "none", scale: 0, thicken: 0 });
  }

  restore() {
    if (this.#before !== null) this.#set(this.#before);
    this.#before = null;
  }

  #set({ polarity, center, scale, thicken }) {
    byId("step-polarity").value = polarity;
    byId("step-center").value = center;
    byId("step-scale").checked = Boolean(scale);
    byId("step-thicken").checked = Boolean(thicken);
  }
}

/** The fitted image, and over it the map of attention. */
export class Fitted {
  #model;
  #image = null;
  #best = 0;
  #turn = 0;

  constructor(model, failed) {
    this.#model = model;
    this.failed = failed;
    const predicted = make("option", { value: "" }, "the first guess");
    byId("attention-class").replaceChildren(
      predicted,
      ...model.classes.map(({ name }, i) => make("option", { value: i }, name)),
    );
    for (const id of ["attention-on", "attention-class"]) byId(id).addEventListener("change", () => void this.attend());
  }

  /** Shows an image, float32 [height, width, channels]. */
  show(image, best) {
    this.#image = image;
    this.#best = best;
    this.#turn++;
    paintPicture(byId("fitted"), image, this.#model.shape);
  }

  /** Asks what speaks for and against a class, and draws it over the image. */
  async attend() {
    const canvas = byId("attention");
    const isOn = byId("attention-on").checked;
    canvas.hidden = byId("attention-legend").hidden = !isOn;
    byId("attention-class").disabled = !isOn;
    if (!isOn || this.#image === null) return;
    const turn = this.#turn;
    const chosen = byId("attention-class").value;
    try {
      const map = await attention(this.#model.id, chosen === "" ? this.#best : chosen, this.#image);
      if (turn === this.#turn) this.#overlay(canvas, map);
    } catch (error) {
      this.failed(error);
    }
  }

  #overlay(canvas, map) {
    const [height, width] = this.#model.shape;
    canvas.width = width;
    canvas.height = height;
    const context = canvas.getContext("2d");
    const most = map.reduce((max, value) => Math.max(max, Math.abs(value)), 1e-9);
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < width; x++) {
        const value = map[y * width + x];
        context.globalAlpha = 0.85 * Math.min(1, Math.abs(value) / most) ** 0.7;
        context.fillStyle = css(STRONG[value < 0 ? 0 : 1]());
        context.fillRect(x, y, 1, 1);
      }
    }
  }
}

// Half of the scale: the image below is seen through it.
const STRONG = [() => signed()[signedIndex(-0.5, 1)], () => signed()[signedIndex(0.5, 1)]];
