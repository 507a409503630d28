/** The answer, beside the photograph. */

import { CONTRAST, DEPTH, PAINT, SIMILARITY } from "./colours.js";
import { find, findAll, make } from "./elements.js";
import { CLEAR, colourOf, levelsOf, opaque, paint, paintScale, percentiles } from "./paint.js";
import { patchAlong, rangeOf } from "./patches.js";
import { arrayOf, decode } from "./png.js";

const DEPTH_LEVELS = levelsOf(DEPTH);
const SIMILARITY_LEVELS = levelsOf(SIMILARITY);

/**
 * What is on the page: `result`, the server's JSON; `patches`, `ids` and `depth`, {values, shape};
 * `point`, {y, x, patch} in the picture's pixels; `cosines` of all patches with that one.
 */
export const shown = {};

/** Sets up what stays for all pictures. */
export function prepare() {
  find("#segment input").value = 100 * PAINT;
  for (const slider of findAll("figure input")) {
    const map = slider.closest("figure").querySelector(".map");
    slider.oninput = () => (map.style.opacity = slider.value / 100);
    slider.oninput();
  }
  paintScale(find("#depth .scale canvas"), DEPTH_LEVELS);
  paintScale(find("#similarity .scale canvas"), SIMILARITY_LEVELS);
}

/** Shows the server's JSON for a file, and its PNG of the patches, unless that is aborted. */
export async function show(file, result, pca, signal) {
  const { geometry, segment, depth, classify } = result;
  const [ids, metres] = await Promise.all([segment, depth].map((map) => map && decode(map)));
  signal.throwIfAborted();
  Object.assign(shown, { result, patches: arrayOf(result.patches), ids, depth: metres });
  showPhotograph(file, geometry);
  replaceUrl(find("#pca .map"), pca);
  if (segment) showMask(segment);
  if (depth) showDepth(depth);
  if (classify) showClasses(classify);
  for (const task of ["segment", "depth", "classify"]) find(`#${task}`).hidden = !result[task];
  find("#results").hidden = false;
}

function showPhotograph(file, { image: [height, width] }) {
  find("#results").style.setProperty("--ratio", width / height);
  find("#size").textContent = `${width} × ${height}`;
  const [first, ...others] = findAll(".photo");
  // Browsers read no TIFF, and what they do not turn upright would lie wrongly.
  const judge = () => {
    const fits = first.naturalHeight === height && first.naturalWidth === width;
    find("#results").classList.toggle("blind", !fits);
  };
  first.onload = first.onerror = judge;
  first.alt = `The photograph ${file.name}`;
  replaceUrl(first, file);
  for (const photo of others) photo.src = first.src;
}

function replaceUrl(image, blob) {
  URL.revokeObjectURL(image.src);
  image.src = URL.createObjectURL(blob);
}

function showMask({ classes }) {
  const legend = classes.map(({ id, name, colour, share }) => {
    const swatch = make("i", {});
    if (colour) swatch.style.backgroundColor = `rgb(${colour})`;
    const button = make("button", { ariaPressed: "false" }, swatch, name, percent(share));
    button.onclick = () => single(button, id);
    return make("li", {}, button);
  });
  find("#segment ul").replaceChildren(...legend);
  const most = classes.slice(0, 5).map(({ name, share }) => `${name} ${percent(share).textContent}`);
  find("#segment canvas").ariaLabel = `Mask: ${most.join(", ")}`;
  paintMask(null);
}

/** Shows one class alone, or all again. */
function single(button, id) {
  const alone = button.ariaPressed === "false";
  for (const each of findAll("#segment button")) each.ariaPressed = alone && each === button;
  paintMask(alone ? id : null);
}

/** The colours of one class or of all; void has none and is not painted. */
function paintMask(alone) {
  const { ids, result } = shown;
  const painted = result.segment.classes.filter(
    ({ id, colour }) => colour && (alone === null || alone === id),
  );
  const colours = new Map(painted.map(({ id, colour }) => [id, opaque(...colour)]));
  paint(find("#segment canvas"), ids.shape, (y, x) => {
    return colours.get(ids.values[y * ids.shape[1] + x]) ?? CLEAR;
  });
}

function showDepth({ scale, nearest, farthest }) {
  const { values, shape } = shown.depth;
  const [low, high] = percentiles(values, CONTRAST);
  paint(find("#depth .map"), shape, (y, x) => {
    const value = values[y * shape[1] + x];
    return value ? colourOf(value, low, high, DEPTH_LEVELS) : CLEAR;
  });
  showEnds("#depth", [low, high], (value) => `${(value / scale).toFixed(2)} m`);
  const range = `${nearest?.toFixed(2)} to ${farthest?.toFixed(2)} m`;
  find("#depth .note").textContent = `${range} in all; near is bright`;
  find("#depth .map").ariaLabel = `Depth: ${range}`;
}

function showClasses(classes) {
  const entries = classes.slice(0, 5).map(({ name, probability }) => {
    const meter = make("meter", { value: probability, ariaLabel: name });
    return make("li", {}, name, percent(probability), meter);
  });
  find("#classify ol").replaceChildren(...entries);
}

/** The cosines with the point's patch, over those that show some of the picture. */
export function showSimilarity(title) {
  const { cosines, result } = shown;
  const { geometry } = result;
  const map = find("#similarity .map");
  map.ariaLabel = find("#similarity .note").textContent = title;
  const [low, high] = rangeOf(cosines, geometry);
  const [rows, columns] = geometry.image.map((length, axis) =>
    Array.from({ length }, (_, pixel) => patchAlong(geometry, axis, pixel + 0.5)),
  );
  paint(map, geometry.image, (y, x) => {
    if (rows[y] === null || columns[x] === null) return CLEAR;
    return colourOf(cosines[rows[y] * geometry.grid[1] + columns[x]], low, high, SIMILARITY_LEVELS);
  });
  showEnds("#similarity", [low, high], (value) => value.toFixed(2));
}

function showEnds(panel, values, text) {
  findAll(`${panel} output`).forEach((output, end) => (output.textContent = text(values[end])));
}

function percent(share) {
  return make("data", { value: share }, `${(100 * share).toFixed(1)} %`);
}
