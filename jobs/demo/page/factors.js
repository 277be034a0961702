// Inputs, weights and their products: of a convolution map by map, of a dense layer arranged as the maps it reads.

import { byId, make } from "./dom.js";
import { shadeOf } from "./focus.js";
import { matrix, mostOf } from "./matrix.js";
import { Grid } from "./sheet.js";
import { exact, short } from "./words.js";
import { channelSum } from "./wires.js";

const MOST_MAPS = 48; // input maps to list, the strongest ones
const MOST_ROWS = 10; // of a dense layer's table

/** Returns the elements that explain a weighted sum. `chosen`: the input map to show large, −1 for the strongest. */
export function factors(unit, model, chosen) {
  return unit.shape.length === 3 ? convolution(unit, chosen) : dense(unit, model);
}

function convolution(unit, chosen) {
  const [rows, columns, maps] = unit.shape;
  const sums = Array.from({ length: maps }, (_, map) => [map, channelSum(unit, map)]);
  sums.sort(([, a], [, b]) => Math.abs(b) - Math.abs(a));
  const map = chosen >= 0 && chosen < maps ? chosen : sums[0][0];
  const products = unit.values.map((value, i) => value * unit.weights[i]);
  const most = { values: mostOf(unit.values), weights: mostOf(unit.weights), products: mostOf(products) };
  const large = make("div", { class: "product" });
  const list = make("div", { class: "maps", role: "group", "aria-label": "input maps, strongest first" });
  const show = (one) => {
    byId("unit-body").dataset.map = String(one);
    const part = (values) => values.filter((_, i) => i % maps === one);
    const room = (byId("unit").clientWidth - 130) / 3; // three matrices beside each other
    const cell = Math.max(10, Math.min(44, Math.floor(room / columns)));
    const outside = (unit.outside ?? []).filter((i) => i % maps === one).map((i) => (i - one) / maps);
    const one3 = (name, values, max) =>
      make("figure", {}, matrix(part(values), rows, columns, { max, cell, label: name, outside }), make("figcaption", {}, name));
    large.replaceChildren(
      one3("input", unit.values, most.values),
      make("span", { class: "sign" }, "×"),
      one3("kernel", unit.weights, most.weights),
      make("span", { class: "sign" }, "="),
      one3("products", products, most.products),
    );
    for (const button of list.children) button.setAttribute("aria-pressed", String(button.dataset.map === String(one)));
    caption.textContent = `input map ${one}: its products add up to ${exact(channelSum(unit, one))}`;
  };
  const caption = make("p", { class: "caption" });
  if (maps > 1) list.append(...sums.slice(0, MOST_MAPS).map(([each, sum]) => mapButton(unit, each, sum, sums[0][1], show)));
  show(map);
  return [caption, large, list];
}

function mapButton(unit, map, sum, strongest, show) {
  const [rows, columns, maps] = unit.shape;
  const canvas = make("canvas", { width: columns, height: rows, "aria-hidden": "true" });
  const products = unit.values.map((value, i) => value * unit.weights[i]);
  paint(canvas, products.filter((_, i) => i % maps === map), mostOf(products));
  const button = make(
    "button",
    { type: "button", "data-map": map, "aria-label": `input map ${map}: ${exact(sum)}` },
    canvas,
    make("span", { class: "bar" }),
    make("span", {}, `${map}`),
  );
  const share = Math.abs(sum) / Math.max(1e-9, Math.abs(strongest));
  button.children[1].style.transform = `scaleX(${share})`;
  button.children[1].classList.add(sum < 0 ? "negative" : "positive");
  button.addEventListener("click", () => show(map));
  return button;
}

function dense(unit, model) {
  const products = unit.values.map((value, i) => value * unit.weights[i]);
  const order = products.map((product, i) => [product, i]).sort(([a], [b]) => Math.abs(b) - Math.abs(a));
  const shape = arrangement(unit, model);
  const rows = order.slice(0, MOST_ROWS).map(([product, i]) =>
    make("tr", {}, ...[String(i), short(unit.values[i]), short(unit.weights[i]), short(product)].map((text) => make("td", {}, text))),
  );
  const rest = order.slice(MOST_ROWS).reduce((sum, [product]) => sum + product, 0);
  const others = order.length - rows.length;
  if (others > 0) {
    rows.push(make("tr", {}, make("td", { colspan: 3 }, `the other ${others}`), make("td", {}, short(rest))));
  }
  const head = make("tr", {}, ...["input", "value", "weight", "product"].map((text) => make("th", { scope: "col" }, text)));
  return [
    make(
      "div",
      { class: "sheets" },
      sheet("inputs", unit.values, shape),
      sheet("weights", unit.weights, shape),
      sheet("products", products, shape),
    ),
    make("table", { class: "numbers" }, make("caption", {}, "largest products"), make("thead", {}, head), make("tbody", {}, ...rows)),
  ];
}

/** Returns the shape of the maps that a dense layer reads through a Flatten layer, or that of its flat input. */
function arrangement(unit, model) {
  const byName = new Map(model.layers.map((layer) => [layer.name, layer]));
  let source = byName.get(unit.reads[0]?.layer);
  while (source && ["Dropout", "Flatten"].includes(source.kind) && source.shape.length === 1) {
    const before = byName.get(source.inputs[0]);
    if (!before || source.kind === "Dropout" || before.shape.length === 3) source = before;
    if (source?.shape.length === 3) return source.shape;
    if (source?.kind !== "Dropout" && source?.kind !== "Flatten") break;
  }
  return [unit.values.length];
}

function sheet(name, values, shape) {
  const [height, width, maps] = shape.length === 3 ? shape : [1, 1, shape[0]];
  const canvas = make("canvas", { role: "img", "aria-label": name });
  const columns = Math.ceil(Math.sqrt((maps * height) / width));
  const zoom = Math.max(1, Math.min(12, Math.floor(118 / (columns * (width + (shape.length === 3))))));
  const grid = new Grid(shape, columns, zoom);
  canvas.width = grid.pixelsAcross;
  canvas.height = grid.pixelsDown;
  canvas.style.width = `${grid.cssWidth}px`;
  const max = mostOf(values);
  const context = canvas.getContext("2d");
  const image = context.createImageData(canvas.width, canvas.height);
  const pixels = new Uint32Array(image.data.buffer);
  values.forEach((value, i) => {
    const [x, y] = grid.corner(i % maps);
    const [row, column] = [Math.floor(i / maps / width), Math.floor(i / maps) % width];
    pixels[(y + row) * canvas.width + x + column] = shadeOf(value, max);
  });
  context.putImageData(image, 0, 0);
  return make("figure", {}, canvas, make("figcaption", {}, `${name}, ± ${short(max)}`));
}

function paint(canvas, values, max) {
  const context = canvas.getContext("2d");
  const image = context.createImageData(canvas.width, canvas.height);
  new Uint32Array(image.data.buffer).set(values.map((value) => shadeOf(value, max)));
  context.putImageData(image, 0, 0);
}
