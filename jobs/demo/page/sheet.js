// A layer on one canvas: a tile for each feature map, or a cell for each unit of a flat layer. The canvas has a pixel
// for each value; the browser enlarges it, so drawing costs one pass over the numbers.

import { pixelShades, rgba, signedShades } from "./colors.js";

/** Returns a layer's [height, width, maps]: a flat layer of n units is n maps of one value. */
export const asMaps = (shape) => (shape.length === 3 ? shape : [1, 1, shape[0]]);

/** The place of each map on a sheet. `zoom`: CSS pixels per value. */
export class Grid {
  constructor(shape, columns, zoom) {
    [this.height, this.width, this.maps] = asMaps(shape);
    this.isFlat = shape.length === 1;
    this.gap = this.isFlat ? 0 : 1;
    this.zoom = zoom;
    this.columns = Math.min(this.maps, Math.max(1, columns));
    this.rows = Math.ceil(this.maps / this.columns);
    this.pixelsAcross = this.columns * (this.width + this.gap) - this.gap;
    this.pixelsDown = this.rows * (this.height + this.gap) - this.gap;
  }

  get cssWidth() {
    return this.pixelsAcross * this.zoom;
  }

  get cssHeight() {
    return this.pixelsDown * this.zoom;
  }

  /** Returns the x and y of a map's first value, in values. */
  corner(map) {
    return [
      (map % this.columns) * (this.width + this.gap),
      Math.floor(map / this.columns) * (this.height + this.gap),
    ];
  }

  /** Returns the box of part of a map in CSS pixels, cut off at the map's edges: {x, y, width, height}. */
  box(map, row = 0, column = 0, height = this.height, width = this.width) {
    const [left, top] = this.corner(map);
    const [x0, y0] = [Math.max(0, column), Math.max(0, row)];
    const [x1, y1] = [Math.min(this.width, column + width), Math.min(this.height, row + height)];
    const zoom = this.zoom;
    return { x: (left + x0) * zoom, y: (top + y0) * zoom, width: (x1 - x0) * zoom, height: (y1 - y0) * zoom };
  }

  /** Returns the [row, column, map] at a point in CSS pixels, or null between the maps. */
  unitAt(x, y) {
    const [across, down] = [Math.floor(x / this.zoom), Math.floor(y / this.zoom)];
    const [tileWidth, tileHeight] = [this.width + this.gap, this.height + this.gap];
    const [column, row] = [across % tileWidth, down % tileHeight];
    const [mapColumn, mapRow] = [Math.floor(across / tileWidth), Math.floor(down / tileHeight)];
    const map = mapRow * this.columns + mapColumn;
    const isOnMap = mapColumn < this.columns && column < this.width && row < this.height && map < this.maps;
    return isOnMap && across >= 0 && down >= 0 ? [row, column, map] : null;
  }
}

/** Returns the grid that shows all maps as large as possible in a box, in whole CSS pixels per value. */
export function largest(shape, width, height, mostZoom = 48) {
  const [mapHeight, mapWidth, maps] = asMaps(shape);
  const gap = shape.length === 1 ? 0 : 1;
  for (let zoom = mostZoom; zoom > 1; zoom--) {
    const columns = Math.floor((width / zoom + gap) / (mapWidth + gap));
    if (columns < 1) continue;
    const grid = new Grid(shape, columns, zoom);
    if (grid.cssHeight <= height && mapHeight > 0) return grid;
  }
  return new Grid(shape, Math.max(1, Math.floor((width + gap) / (mapWidth + gap))), 1);
}

/** Returns a grid that is at most `height` CSS pixels tall, for the overview. */
export function column(shape, height, zoom) {
  const [mapHeight, , maps] = asMaps(shape);
  const gap = shape.length === 1 ? 0 : 1;
  const rows = Math.max(1, Math.floor((height / zoom + gap) / (mapHeight + gap)));
  return new Grid(shape, Math.ceil(maps / rows), zoom);
}

/** A canvas with a layer's values. */
export class Sheet {
  #context;
  #image;
  #pixels;
  #corners;

  constructor(canvas, grid) {
    this.canvas = canvas;
    this.grid = grid;
    canvas.width = grid.pixelsAcross;
    canvas.height = grid.pixelsDown;
    canvas.style.width = `${grid.cssWidth}px`;
    canvas.style.height = `${grid.cssHeight}px`;
    canvas.classList.toggle("smooth", grid.zoom < 1);
    this.#context = canvas.getContext("2d");
    this.#image = this.#context.createImageData(canvas.width, canvas.height);
    this.#pixels = new Uint32Array(this.#image.data.buffer);
    this.#corners = Int32Array.from({ length: grid.maps }, (_, map) => {
      const [x, y] = grid.corner(map);
      return y * grid.pixelsAcross + x;
    });
  }

  /** Draws values, float32 [height, width, maps]. `colors`: see `colorsOf`. */
  paint(values, { shades, factor, middle }) {
    const { height, width, maps, pixelsAcross } = this.grid;
    const [pixels, corners, last] = [this.#pixels, this.#corners, shades.length - 1];
    let i = 0;
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < width; x++) {
        const place = y * pixelsAcross + x;
        for (let map = 0; map < maps; map++) {
          const shade = (values[i++] * factor + middle + 0.5) | 0;
          pixels[corners[map] + place] = shades[shade < 0 ? 0 : shade > last ? last : shade];
        }
      }
    }
    this.#context.putImageData(this.#image, 0, 0);
  }
}

/** Draws an image, float32 [height, width, 1 or 3] in [0, 1], as what it shows: gray or in color. */
export function paintPicture(canvas, values, [height, width, channels]) {
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  const pixels = new Uint32Array(image.data.buffer);
  const level = (i) => Math.max(0, Math.min(255, Math.round(255 * values[i])));
  const [green, blue] = channels >= 3 ? [1, 2] : [0, 0];
  for (let p = 0, i = 0; p < pixels.length; p++, i += channels) {
    pixels[p] = rgba(level(i), level(i + green), level(i + blue));
  }
  context.putImageData(image, 0, 0);
}

let shades = { signed: signedShades(), pixels: pixelShades() };

/** Reads the shades again, after the page turned dark or light. */
export const renewShades = () => {
  shades = { signed: signedShades(), pixels: pixelShades() };
};

/** Returns the largest size of a number of a layer's output, at least a tiny one: the ends of its color scale. */
export const scaleOf = ({ min, max }) => Math.max(Math.abs(min), Math.abs(max)) || 1e-9;

/** Returns the colors of a layer's output: pixels from black to white, all else on a scale with zero in the middle. */
export function colorsOf(layer, output) {
  if (layer.kind === "InputLayer") return { shades: shades.pixels, factor: 255, middle: 0 };
  const half = (shades.signed.length - 1) / 2;
  return { shades: shades.signed, factor: half / scaleOf(output), middle: half };
}

/** Returns the shades of signed numbers; zero is in the middle. */
export const signed = () => shades.signed;
