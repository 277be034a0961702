// The server's answers. Every address is relative: no request leaves the origin.

import { decoded } from "./frame.js";

async function answer(path, body, type) {
  const options = body === undefined ? {} : { method: "POST", body, headers: { "Content-Type": type } };
  if (type === INK) options.headers["X-Size"] = String(Math.sqrt(body.length));
  const response = await fetch(path, options);
  if (!response.ok) throw new Error(await problem(response));
  return response;
}

async function problem(response) {
  const text = await response.text();
  try {
    return String(JSON.parse(text).detail ?? text);
  } catch {
    return text || `the server answered ${response.status}`;
  }
}

const INK = "application/octet-stream"; // uint8 [size, size], 255 is ink
const FLOATS = "application/octet-stream"; // float32 [height, width, channels], little-endian
const query = (values) => new URLSearchParams(values).toString();
const floats = async (response) => new Float32Array(await response.arrayBuffer());
const sent = (path, image) => answer(path, image, FLOATS + ";v=f32");

/** Returns the models in the order of the command line. */
export const models = async () => (await (await answer("api/models")).json()).models;

const frame = async (response) => decoded(await response.arrayBuffer());

/** Returns every layer's output, see `decoded`, for a drawing, which is brought into the form of the model's data. */
export const draw = async (model, steps, body) =>
  frame(await answer(`api/draw?${query({ model, ...steps })}`, body, body instanceof Blob ? body.type : INK));

/** Returns every layer's output, see `decoded`, for an image in that form. */
export const look = async (model, image) => frame(await sent(`api/look?${query({ model })}`, image));

/** Returns how one unit comes to its value. `at`: [row, column, channel], or [index]. */
export const unit = async (model, layer, at, image) =>
  (await sent(`api/unit?${query({ model, layer, at: at.join(",") })}`, image)).json();

/** Returns float32 [height, width] in [-1, 1]: what speaks for a class (positive), and against it. */
export const attention = async (model, of, image) =>
  floats(await sent(`api/attention?${query({ model, class: of })}`, image));

/** Returns descriptions of test images. `of`: a class, or "" for all. */
export async function images(model, which, of, from, count) {
  const wanted = { model, which, from, count };
  if (of !== "") wanted.class = of;
  return (await answer(`api/images?${query(wanted)}`)).json();
}

/** Returns a test image, float32 [height, width, channels] in [0, 1]. */
export const image = async (model, index) => floats(await answer(`api/image?${query({ model, index })}`));
