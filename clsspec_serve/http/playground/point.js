/** The point that patches are compared with, and the pointer on all pictures. */

import { find, findAll, make } from "./elements.js";
import { showSimilarity, shown } from "./panels.js";
import { patchAt, similarity } from "./patches.js";

const STEPS = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };

/** Follows pointer and keys; `moved` is called when the point has changed. */
export function follow(moved) {
  const results = find("#results");
  const go = (pixel) => {
    move(pixel);
    moved();
  };
  results.onpointermove = (event) => hover(pixelUnder(event));
  results.onpointerleave = () => hover(null);
  results.onclick = (event) => {
    const pixel = pixelUnder(event);
    if (pixel) go(pixel);
  };
  find("#photograph .picture").onkeydown = (event) => {
    const pixel = pixelBeside(event);
    if (!pixel) return;
    event.preventDefault();
    go(pixel);
    find("#spoken").textContent = find("#readout").textContent;
  };
  for (const picture of findAll(".picture")) {
    picture.append(make("i", { className: "ring" }), make("i", { className: "dot" }));
  }
}

/** Compares the patch at a pixel, the middle one unless given, with all others. */
export function move(pixel) {
  const { patches, result } = shown;
  const [height, width] = result.geometry.image;
  const { y, x } = pixel ?? { y: Math.floor(height / 2), x: Math.floor(width / 2) };
  const patch = patchAt(result.geometry, y + 0.5, x + 0.5);
  if (!patch) return;
  shown.point = { y, x, patch };
  shown.cosines = similarity(patches, ...patch);
  mark("ring", shown.point);
  showSimilarity(`Cosine with the patch at ${place(shown.point)}`);
  hover(null);
}

/** The dot goes along on all pictures; without a pointer the words are those of the point. */
function hover(pixel) {
  mark("dot", pixel);
  const words = pixel ?? shown.point;
  find("#readout").textContent = [place(words), ...valuesAt(words)].join(" · ");
}

/** The pixel under the pointer, {y, x}; null beside all pictures. */
function pixelUnder(event) {
  const box = event.target.closest(".picture")?.getBoundingClientRect();
  return box
    ? within((event.clientY - box.top) / box.height, (event.clientX - box.left) / box.width)
    : null;
}

/** A patch further for an arrow key, with Shift a pixel. */
function pixelBeside({ key, shiftKey }) {
  const step = STEPS[key];
  if (!step) return null;
  const { image, grid } = shown.result.geometry;
  const shares = [shown.point.y, shown.point.x].map((pixel, axis) => {
    const share = 1 / (shiftKey ? image[axis] : grid[axis]);
    return (pixel + 0.5) / image[axis] + step[axis] * share;
  });
  return within(...shares);
}

/** The pixel at these shares of the picture's height and width, or the nearest one in it. */
function within(...shares) {
  const [y, x] = shown.result.geometry.image.map((length, axis) =>
    Math.min(Math.max(Math.floor(shares[axis] * length), 0), length - 1),
  );
  return { y, x };
}

function mark(name, pixel) {
  const [height, width] = shown.result.geometry.image;
  for (const each of findAll(`.${name}`)) {
    each.hidden = !pixel;
    if (!pixel) continue;
    each.style.left = `${(100 * (pixel.x + 0.5)) / width}%`;
    each.style.top = `${(100 * (pixel.y + 0.5)) / height}%`;
  }
}

const place = ({ y, x }) => `x ${x}, y ${y}`;

/** Class, depth and similarity at a pixel, where there are any. */
function valuesAt({ y, x }) {
  const { result, ids, depth, cosines } = shown;
  const { geometry } = result;
  const at = y * geometry.image[1] + x;
  const patch = patchAt(geometry, y + 0.5, x + 0.5);
  const texts = [];
  if (ids) texts.push(result.segment.classes.find(({ id }) => id === ids.values[at]).name);
  if (depth?.values[at]) {
    texts.push(`${(depth.values[at] / result.depth.scale).toFixed(3)} m`);
  }
  if (patch) texts.push(`cosine ${cosines[patch[0] * geometry.grid[1] + patch[1]].toFixed(3)}`);
  return texts;
}
