// Where each layer stands in the overview: as large as fits, and scrolled sideways if nothing sensible fits.

import { column, Grid } from "./sheet.js";

const GAP = 16; // CSS pixels between layers, for the connections
const LABEL = 2.9; // below a layer: its kind and size, in rem
const SLOT = 3.5; // narrower layers get this width, for their label, in rem
const TILES = [52, 44, 36, 30, 26, 22, 18]; // sizes of a feature map to try, in CSS pixels
const SCROLLED = 26; // the size of a map where the network is wider than the page
const FEW = 40; // flat layers of up to so many units are one column of larger cells

/** Returns CSS pixels. */
const rem = (count) => count * parseFloat(getComputedStyle(document.documentElement).fontSize);

/** Returns {places, width, height}; a place is {layer, grid, x, y, slot}: the corner of its canvas in CSS pixels. */
export function arrange(layers, width) {
  const room = innerWidth < 700 ? 220 : innerWidth < 1700 ? 300 : 400;
  const grids = (tile) => layers.map((layer) => gridOf(layer, tile, room));
  const fitting = TILES.map(grids).find((each) => across(each) <= width) ?? grids(SCROLLED);
  const tallest = Math.max(...fitting.map(({ cssHeight }) => cssHeight));
  const top = 10 + 14 * Math.min(4, mostArcs(layers));
  // What room is left over is given to the gaps.
  const gap = GAP + Math.min(40, Math.max(0, width - across(fitting)) / layers.length);
  let x = gap / 2;
  const places = layers.map((layer, i) => {
    const grid = fitting[i];
    const slot = Math.max(rem(SLOT), grid.cssWidth);
    const place = { layer, grid, slot, x: x + (slot - grid.cssWidth) / 2, y: top + (tallest - grid.cssHeight) / 2 };
    x += slot + gap;
    return place;
  });
  return { places, width: Math.max(width, x - gap / 2), height: top + tallest + rem(LABEL) };
}

const across = (grids) => grids.reduce((sum, grid) => sum + Math.max(rem(SLOT), grid.cssWidth) + GAP, 0);

function gridOf({ kind, shape }, tile, room) {
  if (kind === "InputLayer") return new Grid([shape[0], shape[1], 1], 1, zoomFor(shape[0], Math.min(3.2 * tile, room)));
  if (shape.length === 3) {
    const few = shape[2] <= 4 ? Math.min(2 * tile, room / shape[2] - 4) : tile;
    return column(shape, room, zoomFor(shape[0], few));
  }
  const units = shape[0];
  if (units <= FEW) return new Grid(shape, 1, Math.max(6, Math.min(20, Math.floor(room / units))));
  return column(shape, room, units > 4000 ? 2 : units > 500 ? 4 : 6);
}

/** Returns whole CSS pixels per value, or a half: then the browser averages neighbors. */
function zoomFor(size, wanted) {
  return size > 1.5 * wanted ? 0.5 : Math.max(1, Math.floor(wanted / size));
}

/** Returns how many connections pass above a layer at most: those that skip layers. */
function mostArcs(layers) {
  const place = new Map(layers.map(({ name }, i) => [name, i]));
  const above = layers.map(() => 0);
  layers.forEach(({ inputs }, to) => {
    for (const from of inputs.map((name) => place.get(name))) {
      for (let i = from + 1; i < to; i++) above[i]++;
    }
  });
  return Math.max(0, ...above);
}
