// Lines of the overview: which layer feeds which, and what a chosen unit reads.

import { css, signedIndex } from "./colors.js";
import { draw } from "./dom.js";
import { signed as shades } from "./sheet.js";

const MOST_LINES = 64; // of one unit: the strongest ones

/** Returns the SVG elements that connect layers: a band to the next one, an arc to a later one. */
export function connections(places) {
  const index = new Map(places.map(({ layer }, i) => [layer.name, i]));
  const lines = [];
  places.forEach((to, i) => {
    for (const name of to.layer.inputs) {
      const from = places[index.get(name)];
      lines.push(index.get(name) === i - 1 ? band(from, to) : arc(from, to));
    }
  });
  return lines;
}

function band(from, to) {
  const [x0, x1] = [from.x + from.grid.cssWidth + 3, to.x - 3];
  const [a, b] = [from.y, from.y + from.grid.cssHeight];
  const [c, d] = [to.y, to.y + to.grid.cssHeight];
  const m = (x0 + x1) / 2;
  const path = `M${x0} ${a}C${m} ${a} ${m} ${c} ${x1} ${c}L${x1} ${d}C${m} ${d} ${m} ${b} ${x0} ${b}Z`;
  return draw("path", { class: "band", d: path });
}

function arc(from, to) {
  const [x0, x1] = [from.x + from.grid.cssWidth / 2, to.x + to.grid.cssWidth / 2];
  const [y0, y1] = [from.y - 3, to.y - 3];
  const top = Math.max(4, Math.min(y0, y1) - 14 - 0.02 * (x1 - x0));
  const bend = Math.min(24, (x1 - x0) / 3);
  const path = `M${x0} ${y0}C${x0} ${top} ${x0} ${top} ${x0 + bend} ${top}L${x1 - bend} ${top}C${x1} ${top} ${x1} ${top} ${x1} ${y1}`;
  return draw("path", { class: "arc", d: path });
}

/** Returns frames around what a unit reads, and a line from each to the unit. */
export function spokes(unit, places) {
  const to = places.get(unit.layer);
  const target = onPicture(to, boxOf(to, unit.at));
  const lines = strongest(unit.reads.flatMap((read) => sources(read, places, unit)));
  const most = Math.max(1e-9, ...lines.map(({ share }) => Math.abs(share ?? 0)));
  const drawn = lines.map(({ box, share }) => {
    const strength = share === null ? 0.5 : Math.abs(share) / most;
    const line = draw("path", { class: "spoke", d: curve(box, target) });
    line.style.stroke = share === null ? "" : css(shades()[signedIndex(share, most)]);
    line.style.strokeOpacity = String(0.25 + 0.75 * strength);
    line.style.strokeWidth = `${0.6 + 1.8 * strength}px`;
    return line;
  });
  return [...drawn, ...lines.map(({ box }) => frame(box, "patch")), frame(target, "unit")];
}

function sources(read, places, unit) {
  const from = places.get(read.layer);
  if (from === undefined) return [];
  const { grid } = from;
  const at = (map, ...box) => onPicture(from, grid.box(map, ...box));
  if (grid.isFlat) {
    const indices = read.index === null || read.index === undefined ? unit.values.map((_, i) => i) : [read.index];
    return indices.map((i) => ({ box: at(i), share: products(unit, i) }));
  }
  const box = [...read.from, ...read.size];
  if (from.layer.kind === "InputLayer") return [{ box: at(0, ...box), share: null }];
  const maps = read.channel === null ? Array.from({ length: grid.maps }, (_, map) => map) : [read.channel];
  return maps.map((map) => ({ box: at(map, ...box), share: read.channel === null ? channelSum(unit, map) : null }));
}

const products = (unit, i) => (unit.weights && unit.shape.length === 1 ? unit.values[i] * unit.weights[i] : null);

/** Returns the sum of the products of one input map, or null where nothing is multiplied. */
export function channelSum(unit, map) {
  if (!unit.weights || unit.shape.length !== 3) return null;
  const maps = unit.shape[2];
  let sum = 0;
  for (let i = map; i < unit.values.length; i += maps) sum += unit.values[i] * unit.weights[i];
  return sum;
}

const strongest = (lines) =>
  lines.length <= MOST_LINES
    ? lines
    : lines.toSorted((a, b) => Math.abs(b.share ?? 0) - Math.abs(a.share ?? 0)).slice(0, MOST_LINES);

const boxOf = (place, at) => (at.length === 1 ? place.grid.box(at[0]) : place.grid.box(at[2], at[0], at[1], 1, 1));
const onPicture = ({ x, y }, box) => ({ ...box, x: box.x + x, y: box.y + y });
const frame = ({ x, y, width, height }, name) =>
  draw("rect", { class: name, x: x - 1, y: y - 1, width: width + 2, height: height + 2, rx: 1 });

function curve(from, to) {
  const [x0, y0] = [from.x + from.width, from.y + from.height / 2];
  const [x1, y1] = [to.x, to.y + to.height / 2];
  const m = (x0 + x1) / 2;
  return `M${x0} ${y0}C${m} ${y0} ${m} ${y1} ${x1} ${y1}`;
}
