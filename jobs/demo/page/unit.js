// How one unit comes to its value: what it reads, what that is multiplied by, and the sum, written as on paper.

import { byId, make } from "./dom.js";
import { factors } from "./factors.js";
import { matrix, mostOf } from "./matrix.js";
import { exact, placeOf, short } from "./words.js";

const SENTENCES = {
  Conv2D: "multiplies a patch of every input map by its kernel, and adds it all up",
  SeparableConv2D: "filters every input map, then weighs the results",
  DepthwiseConv2D: "multiplies a patch of one input map by its kernel",
  Dense: "multiplies every input by its weight, and adds it all up",
  BatchNormalization: "subtracts the mean, divides by the standard deviation, then scales and shifts",
  MaxPooling2D: "takes the largest value of a window",
  GlobalMaxPooling2D: "takes the largest value of a whole map",
  AveragePooling2D: "takes the mean of a window",
  GlobalAveragePooling2D: "takes the mean of a whole map",
  ReLU: "lets positive numbers pass, and makes negative ones zero",
  Rescaling: "multiplies by a number and adds another",
  Add: "adds its inputs",
  Concatenate: "puts its inputs one after another",
  Flatten: "lines all values up",
  Dropout: "does nothing outside training",
  Softmax: "makes probabilities: e to the power of each logit, divided by the sum of all",
  InputLayer: "is a pixel of the image",
};

/** Shows the explanation of a unit. `source`: the layer that it reads, to arrange a flat layer's weights as maps. */
export function showUnit(unit, model) {
  byId("unit-name").textContent = `${unit.layer}, ${placeOf(unit.at)}`;
  byId("unit-does").textContent = SENTENCES[unit.kind] ? `${unit.kind} ${SENTENCES[unit.kind]}.` : unit.kind;
  byId("unit-ledger").replaceChildren(...ledger(unit));
  const body = byId("unit-body");
  if (unit.weights) body.replaceChildren(...factors(unit, model, chosenMap(unit, body)));
  else if (unit.values && unit.kind.includes("Pooling")) body.replaceChildren(windowOf(unit));
  else if (unit.kind === "Softmax") body.replaceChildren(logits(unit, model));
  else body.replaceChildren();
  body.dataset.unit = `${unit.layer} ${unit.at}`;
}

/** Shows that there is no explanation, and why. */
export function showNoUnit(layer, at, why) {
  byId("unit-name").textContent = `${layer}, ${placeOf(at)}`;
  byId("unit-does").textContent = why;
  byId("unit-ledger").replaceChildren();
  byId("unit-body").replaceChildren();
}

/** Returns the input map that was chosen for this unit before, as it is drawn again while one draws. */
const chosenMap = (unit, body) =>
  body.dataset.unit === `${unit.layer} ${unit.at}` ? Number(body.dataset.map ?? -1) : -1;

/** Returns the rows of the calculation: parts, their sum, the activation, and the model's own number. */
function ledger(unit) {
  const row = (name, value, kind = "") =>
    make("div", { class: `row ${kind}` }, make("dt", {}, name), make("dd", {}, exact(value)));
  const rows = inputs(unit).map(([name, value]) => row(name, value, "given"));
  rows.push(...(unit.parts ?? []).map(({ name, value }) => row(name, value, "part")));
  if (unit.sum !== undefined && unit.sum !== null) rows.push(row("sum", unit.sum, "sum"));
  if (unit.activation && unit.activation !== "linear") rows.push(row(`${unit.activation}(sum)`, unit.value, "value"));
  else if (unit.sum === undefined || unit.sum === null || unit.sum !== unit.value) rows.push(row("value", unit.value, "value"));
  rows.push(row("the model’s output", unit.output, "output"));
  return rows;
}

/** Returns the numbers that a formula reads, with their names. */
function inputs(unit) {
  const names = ["input", "mean", "variance", "epsilon", "gamma", "beta", "scale", "offset"];
  return names.filter((name) => typeof unit[name] === "number").map((name) => [name, unit[name]]);
}

function windowOf(unit) {
  const [rows, columns] = unit.shape;
  const cell = Math.max(4, Math.min(44, Math.floor(300 / Math.max(rows, columns))));
  const { outside, winner } = unit;
  return figure(
    winner === null || winner === undefined ? "the window" : "the window, and its largest value",
    matrix(unit.values, rows, columns, { max: mostOf(unit.values), cell, label: "the window", outside, winner }),
  );
}

function logits(unit, model) {
  const order = unit.values.map((value, i) => [value, i]).toSorted(([a], [b]) => b - a);
  const items = order.slice(0, 12).map(([value, i]) => {
    const name = model.classes[i]?.name ?? String(i);
    return make("li", { class: i === unit.at[0] ? "chosen" : "" }, `${name}: ${short(value)}`);
  });
  return figure("the logits, largest first", make("ol", { class: "numbers" }, ...items));
}

const figure = (caption, ...children) =>
  make("figure", {}, make("figcaption", {}, caption), ...children);
