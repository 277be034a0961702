// The page: what was drawn goes to the server, and what comes back is drawn.

import { draw, image as testImage, look, models, unit } from "./api.js";
import { Answer, first } from "./answer.js";
import { onScheme } from "./colors.js";
import { byId, make } from "./dom.js";
import { Drawing } from "./drawing.js";
import { Fitted, Steps } from "./fitting.js";
import { Focus } from "./focus.js";
import { Gallery } from "./gallery.js";
import { Live, settled } from "./live.js";
import { Overview } from "./overview.js";
import { acceptPictures } from "./picture.js";
import { paintPicture, renewShades } from "./sheet.js";
import { showNoUnit, showUnit } from "./unit.js";
import { count, percent } from "./words.js";

const SPEED_OF = 20; // the newest redraws whose median time is shown
const QUIET = 150; // ms without a redraw before a unit and the attention are asked for again

class Page {
  #views; // one a model: {model, overview, answer, image, look}
  #active = 0; // the model whose layer is large
  #layer = "";
  #unit = null;
  #source = { kind: "drawing" }; // or {kind: "file", file} or {kind: "test", image, isExample}
  #isOpening = true; // what is shown now, nobody has chosen

  constructor(all) {
    this.#views = all.map((model, i) => this.#view(model, i, all.length > 1));
    const [{ model }] = this.#views;
    this.#layer = opening(model).name;
    this.live = new Live(() => this.#redraw(), (error) => this.#failed(error));
    this.steps = new Steps(() => this.live.changed());
    this.fitted = new Fitted(model, (error) => this.#failed(error));
    this.focus = new Focus((at) => void this.#explain(at));
    this.drawing = new Drawing(byId("drawing"), sizeOf(model), (since) => this.#drawn(since));
    this.gallery = new Gallery(model, (image, about) => this.#test(image, about));
    this.quiet = settled(() => this.#settled(), QUIET);
    this.#controls(model);
    this.choose(0, this.#layer);
  }

  async open() {
    const about = await this.gallery.open();
    if (about === undefined) return;
    const [{ model }] = this.#views;
    this.#test(await testImage(model.id, about.index), about, true);
  }

  /** Shows a layer of a model large. */
  choose(which, name) {
    this.#active = which;
    this.#layer = name;
    const view = this.#views[which];
    const { layers } = view.model;
    const at = layers.findIndex((layer) => layer.name === name);
    this.#views.forEach(({ overview }, i) => {
      overview.select(i === which ? name : null);
      overview.light(null);
    });
    const scrubber = byId("scrubber");
    scrubber.max = layers.length - 1;
    scrubber.value = at;
    scrubber.setAttribute("aria-valuetext", `${name}, layer ${at + 1} of ${layers.length}`);
    byId("focus-model").textContent = this.#views.length > 1 ? `${view.model.title} · ` : "";
    this.#unit = null;
    this.focus.show(view.model, layers[at], view.look?.layers.get(name));
    if (view.look !== null) this.quiet();
  }

  #view(model, i, isTitled) {
    const box = make("div", { class: "network", "data-model": model.id });
    const facts = [`${model.layers.length} layers`, `${count(model.parameters)} parameters`];
    if (model.accuracy !== null) facts.push(`${percent(model.accuracy)} of its test images correct`);
    const about = make("p", { class: "about" }, make("b", {}, model.title), ` · recipe ${model.recipe} · ${facts.join(" · ")}`);
    byId("networks").append(about, box);
    const card = make("div", { class: "answer" });
    byId("answers").append(card);
    const overview = new Overview(box, model, (name) => this.choose(i, name));
    return { model, overview, answer: new Answer(card, model, isTitled), image: null, look: null };
  }

  #controls(model) {
    byId("clear").addEventListener("click", () => this.#clear());
    byId("undo").addEventListener("click", () => {
      this.drawing.undo();
      this.#drawn();
    });
    byId("stroke").addEventListener("input", () => (this.drawing.width = (this.drawing.size * byId("stroke").value) / 100));
    byId("colors").hidden = model.shape[2] < 3;
    byId("ink").addEventListener("input", () => (this.drawing.ink = byId("ink").value));
    byId("paper").addEventListener("input", () => {
      this.drawing.paper = byId("paper").value;
      this.drawing.repaint();
      this.#drawn();
    });
    acceptPictures(byId("file"), byId("sheet"), (file, bitmap) => this.#file(file, bitmap), (error) => this.#failed(error));
    byId("scrubber").addEventListener("input", (event) => {
      this.choose(this.#active, this.#views[this.#active].model.layers[event.target.value].name);
    });
    byId("focus").addEventListener("rebuilt", () => {
      this.#views.forEach(({ overview }, i) => overview.select(i === this.#active ? this.#layer : null));
      if (this.#unit !== null) this.#views[this.#active].overview.light(this.#unit);
    });
    document.addEventListener("keydown", (event) => this.#key(event));
    onScheme(() => {
      renewShades();
      this.#paint();
    });
  }

  #key(event) {
    const isTyping = event.target.matches("input, select, [role=tab], #focus-units, #gallery-grid *");
    if ((event.ctrlKey || event.metaKey) && event.key === "z") {
      event.preventDefault();
      byId("undo").click();
    } else if (isTyping || event.ctrlKey || event.metaKey || event.altKey) {
      return;
    } else if (event.key === "ArrowLeft" || event.key === "ArrowRight") {
      event.preventDefault();
      const scrubber = byId("scrubber");
      scrubber.value = Number(scrubber.value) + (event.key === "ArrowLeft" ? -1 : 1);
      scrubber.dispatchEvent(new Event("input"));
    }
  }

  /** Notes a change of the drawing. `since`: the time of the event, if it was a stroke. */
  #drawn(since = null) {
    if (this.#source.kind === "test" && this.drawing.hasStrokes && this.drawing.hasPicture) this.steps.off();
    if (this.#source.kind !== "drawing") this.#source = { kind: "drawing" };
    byId("hint").hidden = !this.drawing.isEmpty;
    byId("source").textContent = "";
    byId("answers").classList.toggle("stale", this.drawing.isEmpty);
    this.live.changed(since);
  }

  #clear() {
    this.steps.restore();
    this.drawing.clear();
    this.#drawn();
  }

  #file(file, bitmap) {
    this.steps.restore();
    this.drawing.show(bitmap);
    this.#take({ kind: "file", file }, file.name || "a pasted picture");
  }

  /** Puts a test image on the sheet. `isExample`: nobody chose it, so the first stroke removes it. */
  #test(image, about, isExample = false) {
    this.steps.restore();
    const [view] = this.#views;
    const picture = make("canvas");
    paintPicture(picture, image, view.model.shape);
    this.drawing.show(picture, { isSharp: true, isExample });
    const name = view.model.classes[about.label]?.name ?? about.label;
    this.#take({ kind: "test", image, isExample }, `test image ${about.index}: ${name}`);
  }

  #take(source, text) {
    this.#source = source;
    byId("hint").hidden = true;
    byId("source").textContent = text;
    byId("answers").classList.remove("stale");
    this.live.changed();
  }

  /** Asks for the answers to what is on the sheet. Returns the function that draws them. */
  async #redraw() {
    const source = this.#source;
    const body = source.kind === "file" ? source.file : await this.#body();
    const answers = await Promise.all(this.#views.map(async ({ model }) => {
      const isReady = source.kind === "test" && String(model.shape) === String(this.#views[0].model.shape);
      const answer = isReady ? await look(model.id, source.image) : await draw(model.id, this.steps.chosen, body);
      return { image: answer.layers.get(model.layers[0].name).values, look: answer };
    }));
    return () => {
      this.#views.forEach((view, i) => Object.assign(view, answers[i]));
      this.#fail("");
      this.#paint();
      this.quiet();
    };
  }

  #body() {
    return this.#views[0].model.shape[2] >= 3 ? this.drawing.png() : this.drawing.gray();
  }

  #paint() {
    for (const view of this.#views) {
      if (view.look === null) return;
      view.overview.paint(view.look);
      view.said = view.answer.show(view.look.probabilities);
    }
    const [{ image, look: { probabilities } }] = this.#views;
    this.fitted.show(image, first(probabilities));
    this.focus.paint(this.#views[this.#active].look.layers.get(this.#layer));
  }

  async #settled() {
    const said = this.#views.map(({ model, said: text }) => (this.#views.length > 1 ? `${model.title}: ${text}` : text));
    if (!this.drawing.isEmpty) byId("spoken").textContent = said.join("; ");
    const times = performance.getEntriesByName("stroke to redraw").slice(-SPEED_OF).map(({ duration }) => duration);
    times.sort((a, b) => a - b);
    byId("speed").textContent =
      times.length < SPEED_OF ? "" : `Stroke to redraw: ${Math.round(times[SPEED_OF / 2])} ms (median of ${SPEED_OF}).`;
    await Promise.all([this.fitted.attend(), this.focus.at && this.#explain(this.focus.at)]);
  }

  /** Asks how a unit of the large layer comes to its value, and shows it. */
  async #explain(at) {
    const view = this.#views[this.#active];
    const name = this.#layer;
    if (view.image === null) return;
    const isWanted = () => name === this.#layer && view === this.#views[this.#active] && String(at) === String(this.focus.at);
    if (!this.focus.layer.explains) {
      this.#unit = { layer: name, at, reads: [] };
      showNoUnit(name, at, `${this.focus.layer.kind}: the number is given, not computed.`);
      view.overview.light(this.#unit);
      return;
    }
    try {
      const explained = await unit(view.model.id, name, at, view.image);
      if (!isWanted()) return;
      this.#unit = explained;
      showUnit(explained, view.model);
      view.overview.light(explained);
    } catch (error) {
      this.#failed(error);
    }
  }

  #failed(error) {
    this.#fail(error instanceof TypeError ? "the server does not answer; is `idxtrain demo` still running?" : error.message);
  }

  #fail(text) {
    byId("failure").textContent = text;
    byId("failure").hidden = text === "";
  }
}

/** Returns the layer to begin with: the first whose units are computed from patches, or else from all inputs. */
const opening = ({ layers }) =>
  layers.find(({ kind }) => kind.includes("Conv2D")) ?? layers.find(({ kind }) => kind === "Dense") ?? layers[0];

/** Returns the size of the sheet to draw on: whole pixels for each pixel of the data, about 280. */
function sizeOf({ shape: [height, width] }) {
  const side = Math.max(height, width);
  return side * Math.max(1, Math.round(280 / side));
}

history.replaceState(null, "", location.pathname); // without the token, which is a cookie now
try {
  const page = new Page(await models());
  await page.open();
} catch (error) {
  byId("failure").textContent = error.message;
  byId("failure").hidden = false;
}
document.body.dataset.ready = "true";
