// The binary frame of /api/look: length of the header, header (JSON), padding to 8 bytes, then one block of float32.

/** Returns {probabilities, layers}: `layers` maps a name to {shape, min, max, values}, views into the frame. */
export function decoded(buffer) {
  const length = new DataView(buffer).getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  const start = Math.ceil((4 + length) / 8) * 8;
  const layers = new Map();
  for (const { name, shape, offset, min, max } of header.layers) {
    const count = shape.reduce((product, size) => product * size, 1);
    layers.set(name, { shape, min, max, values: new Float32Array(buffer, start + offset, count) });
  }
  return { probabilities: header.probabilities, layers };
}
