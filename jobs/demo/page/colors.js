// Colors of numbers. Zero is the color of an empty sheet, and lightness changes evenly with the size of a number,
// in OKLab (Björn Ottosson, 2020), on both sides of zero. Blue and orange are told apart by the color-blind.

const SCHEMES = {
  light: { negative: ["#8db8de", "#16427c"], zero: "#f6f4ee", positive: ["#eba25b", "#8a2d0b"] },
  dark: { negative: ["#2a68ad", "#c3e1ff"], zero: "#1a2029", positive: ["#b0611a", "#ffdfae"] },
};
const HALF = 255; // shades on each side of zero

const dark = matchMedia("(prefers-color-scheme: dark)");

/** Calls a function when the page changes between dark and light. */
export const onScheme = (action) => dark.addEventListener("change", action);

/** Returns the shades of numbers from −max to max, Uint32Array [511] of RGBA bytes; zero is in the middle. */
export function signedShades() {
  const { negative, zero, positive } = SCHEMES[dark.matches ? "dark" : "light"];
  const shades = new Uint32Array(2 * HALF + 1);
  for (let i = 0; i <= HALF; i++) {
    shades[HALF + i] = between([zero, ...positive], i / HALF);
    shades[HALF - i] = between([zero, ...negative], i / HALF);
  }
  return shades;
}

/** Returns the shades of pixels from 0, black, to 1, white: Uint32Array [256]. */
export const pixelShades = () => Uint32Array.from({ length: 256 }, (_, i) => rgba(i, i, i));

/** Returns the place of a number in `signedShades`. */
export const signedIndex = (value, max) => HALF + Math.round(Math.max(-1, Math.min(1, value / max)) * HALF);

/** Returns a shade as CSS writes it. */
export const css = (shade) => `rgb(${shade & 255} ${(shade >> 8) & 255} ${(shade >> 16) & 255})`;

/** Returns RGBA bytes as one number, as ImageData holds them on little-endian machines. */
export const rgba = (red, green, blue, alpha = 255) => ((alpha << 24) | (blue << 16) | (green << 8) | red) >>> 0;

/** Returns black or white, whichever is read more easily on a shade. */
export function textOn(shade) {
  const [red, green, blue] = [shade & 255, (shade >> 8) & 255, (shade >> 16) & 255].map(linear);
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.179 ? "#000" : "#fff"; // WCAG 2, relative luminance
}

function between(stops, at) {
  const step = Math.min(stops.length - 2, Math.floor(at * (stops.length - 1)));
  const share = at * (stops.length - 1) - step;
  const [from, to] = [lab(stops[step]), lab(stops[step + 1])];
  return fromLab(from.map((value, i) => value + (to[i] - value) * share));
}

const linear = (byte) => (byte <= 10 ? byte / 255 / 12.92 : ((byte / 255 + 0.055) / 1.055) ** 2.4);
const byte = (value) => {
  const clipped = Math.max(0, Math.min(1, value));
  return Math.round(255 * (clipped <= 0.0031308 ? 12.92 * clipped : 1.055 * clipped ** (1 / 2.4) - 0.055));
};

function lab(hex) {
  const [r, g, b] = [1, 3, 5].map((i) => linear(parseInt(hex.slice(i, i + 2), 16)));
  const l = Math.cbrt(0.4122214708 * r + 0.5363325363 * g + 0.0514459929 * b);
  const m = Math.cbrt(0.2119034982 * r + 0.6806995451 * g + 0.1073969566 * b);
  const s = Math.cbrt(0.0883024619 * r + 0.2817188376 * g + 0.6299787005 * b);
  return [
    0.2104542553 * l + 0.793617785 * m - 0.0040720468 * s,
    1.9779984951 * l - 2.428592205 * m + 0.4505937099 * s,
    0.0259040371 * l + 0.7827717662 * m - 0.808675766 * s,
  ];
}

function fromLab([lightness, a, b]) {
  const l = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3;
  const m = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3;
  const s = (lightness - 0.0894841775 * a - 1.291485548 * b) ** 3;
  return rgba(
    byte(4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s),
    byte(-1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s),
    byte(-0.0041960863 * l - 0.7034186147 * m + 1.707614701 * s),
  );
}
