/** Numbers as colours on a canvas; a colour is one number, 0xAABBGGRR, as ImageData holds it. */

import { bytesOf } from "./png.js";

const LONGEST = 1280;
/** Nothing is painted there. */
export const CLEAR = 0;

export function opaque(red, green, blue) {
  return ((255 << 24) | (blue << 16) | (green << 8) | red) >>> 0;
}

/** The colours of a map, low to high, from base64 of its red, green and blue bytes. */
export function levelsOf(base64) {
  const bytes = bytesOf(base64);
  const levels = [];
  for (let at = 0; at < bytes.length; at += 3) levels.push(opaque(...bytes.subarray(at, at + 3)));
  return levels;
}

/** The colour of a number between `low` and `high`, as `pictures/colormap.py` gives it. */
export function colourOf(value, low, high, levels) {
  const share = low < high ? (value - low) / (high - low) : 0.5;
  return levels[Math.max(Math.min(Math.floor(share * levels.length), levels.length - 1), 0)];
}

/** Covers the picture, reduced where it is large; `rule(y, x)`: the colour at whole pixels of it. */
export function paint(canvas, [height, width], rule) {
  const scale = Math.min(1, LONGEST / Math.max(height, width));
  canvas.height = Math.max(1, Math.round(height * scale));
  canvas.width = Math.max(1, Math.round(width * scale));
  const image = new ImageData(canvas.width, canvas.height);
  const pixels = new Uint32Array(image.data.buffer);
  const columns = middles(canvas.width, width);
  middles(canvas.height, height).forEach((y, row) => {
    columns.forEach((x, column) => {
      pixels[row * canvas.width + column] = rule(y, x);
    });
  });
  canvas.getContext("2d").putImageData(image, 0, 0);
}

/** A strip of all colours. */
export function paintScale(canvas, levels) {
  paint(canvas, [1, levels.length], (_, x) => levels[x]);
}

/** Two percentiles of whole numbers up to 65535, interpolated as numpy does; zeros do not count. */
export function percentiles(values, shares) {
  const counts = new Uint32Array(65536);
  for (const value of values) counts[value]++;
  const total = values.length - counts[0];
  return shares.map((share) => (total ? percentile(counts, (share / 100) * (total - 1)) : 0));
}

function percentile(counts, position) {
  const below = nth(counts, Math.floor(position));
  return below + (nth(counts, Math.ceil(position)) - below) * (position % 1);
}

function nth(counts, index) {
  let value = 1;
  for (let before = counts[1]; before <= index; before += counts[value]) value++;
  return value;
}

/** The pixel, of `length`, that lies under the centre of each of `count`. */
function middles(count, length) {
  return Array.from({ length: count }, (_, index) => Math.floor(((index + 0.5) * length) / count));
}
