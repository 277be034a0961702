// Numbers and names as the page writes them.

/** Returns a number with seven significant digits, as many as a float32 holds. */
export const exact = (value) => minus(Number(value).toPrecision(7));

/** Returns a number with three significant digits. */
export const short = (value) => {
  if (value === 0) return "0";
  const size = Math.abs(value);
  return minus(size >= 1e4 || size < 1e-3 ? value.toExponential(1) : String(Number(value.toPrecision(3))));
};

/** Returns a probability in percent; it is rounded to 100 or 0 only if it is that. */
export function percent(probability) {
  if (probability > 0.9999 && probability < 1) return "> 99.99 %";
  if (probability < 0.0001 && probability > 0) return "< 0.01 %";
  return `${(100 * probability).toFixed(probability > 0.0995 ? 1 : 2)} %`;
}

const minus = (text) => text.replaceAll("-", "−");

const KINDS = {
  InputLayer: "image",
  Conv2D: "conv",
  DepthwiseConv2D: "depth",
  SeparableConv2D: "separable",
  MaxPooling2D: "pool",
  AveragePooling2D: "mean",
  GlobalMaxPooling2D: "max",
  GlobalAveragePooling2D: "mean",
  BatchNormalization: "norm",
  Rescaling: "scale",
  Concatenate: "join",
  Dropout: "drop",
  Flatten: "flat",
  Activation: "act",
};

/** Returns a layer's kind in one short word. */
export const kindOf = (layer) => KINDS[layer.kind] ?? layer.kind.toLowerCase();

/** Returns a shape as people write it. */
export const sizeOf = (shape) => shape.join(" × ");

/** Returns an integer with separators. */
export const count = (number) => number.toLocaleString("en");

/** Returns where a unit is, in words. */
export const placeOf = (at) =>
  at.length === 1 ? `unit ${at[0]}` : `map ${at[2]}, row ${at[0]}, column ${at[1]}`;
