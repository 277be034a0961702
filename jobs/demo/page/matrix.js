// A small matrix of numbers as colored cells, with the numbers in them.

import { css, textOn } from "./colors.js";
import { draw } from "./dom.js";
import { shadeOf } from "./focus.js";
import { short } from "./words.js";

/**
 * Returns an SVG. `values`: row by row. `max`: the end of the color scale. `cell`: CSS pixels; the numbers are left out
 * of small cells. `outside`: positions that are padding. `winner`: a position to frame.
 */
export function matrix(values, rows, columns, { max, cell, label, outside = [], winner = null }) {
  const size = { width: columns * cell, height: rows * cell };
  const svg = draw("svg", { class: "matrix", ...size, role: "img", "aria-label": label });
  values.forEach((value, i) => {
    const [x, y] = [(i % columns) * cell, Math.floor(i / columns) * cell];
    const shade = shadeOf(value, max);
    const isOutside = outside.includes(i);
    const rect = draw("rect", { x, y, width: cell, height: cell, class: isOutside ? "outside" : "cell" });
    if (!isOutside) rect.style.fill = css(shade);
    svg.append(rect);
    if (cell >= 30 && !isOutside) {
      const text = draw("text", { x: x + cell / 2, y: y + cell / 2 }, cellText(value));
      text.style.fill = textOn(shade);
      svg.append(text);
    }
  });
  if (winner !== null) {
    const [x, y] = [(winner % columns) * cell, Math.floor(winner / columns) * cell];
    svg.append(draw("rect", { class: "winner", x: x + 1, y: y + 1, width: cell - 2, height: cell - 2 }));
  }
  return svg;
}

/** Returns a number that fits into a cell. */
function cellText(value) {
  const size = Math.abs(value);
  if (value === 0) return "0";
  if (size >= 1000) return short(value);
  if (size < 0.005) return "≈0";
  const text = value.toFixed(size >= 100 ? 0 : size >= 10 ? 1 : 2);
  return text.replace("-", "−").replace(/^(−?)0\./, "$1.");
}

/** Returns the largest size of any of these numbers, at least a tiny one. */
export const mostOf = (values) => values.reduce((most, value) => Math.max(most, Math.abs(value)), 1e-9);
