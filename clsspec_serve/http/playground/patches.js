/** Where patches lie in the picture, and how alike they are; axis 0 is y. */

/** The patch along an axis that shows a position in the picture's pixels; null for none. */
export function patchAlong(geometry, axis, position) {
  const { image, resized, crop, padding, patch } = geometry;
  if (!(position >= 0 && position < image[axis])) return null;
  const kept = (position * resized[axis]) / image[axis] - crop[axis];
  if (!(kept >= 0 && kept < crop[axis + 2])) return null;
  return Math.floor((kept + padding[axis]) / patch);
}

/** [row, column] of the patch that shows a point; null where the network did not see it. */
export function patchAt(geometry, y, x) {
  const row = patchAlong(geometry, 0, y);
  const column = patchAlong(geometry, 1, x);
  return row === null || column === null ? null : [row, column];
}

/** From which patch along an axis to before which the picture is seen, not padding alone. */
export function visible(geometry, axis) {
  const { resized, crop, padding, patch } = geometry;
  const before = padding[axis] - Math.min(crop[axis], 0);
  const after = padding[axis] + Math.min(crop[axis + 2], resized[axis] - crop[axis]);
  return [Math.floor(before / patch), Math.ceil(after / patch)];
}

/** The cosine of every patch with one of them; 0 where either has no length. */
export function similarity({ values, shape }, row, column) {
  const [height, width, size] = shape;
  const start = (row * width + column) * size;
  const point = values.subarray(start, start + size);
  const own = Math.sqrt(dot(point, point));
  const cosines = new Float32Array(height * width);
  for (let index = 0; index < cosines.length; index++) {
    const patch = values.subarray(index * size, (index + 1) * size);
    const lengths = Math.sqrt(dot(patch, patch)) * own;
    cosines[index] = lengths > 0 ? dot(patch, point) / lengths : 0;
  }
  return cosines;
}

/** [lowest, highest] of a map over the patches that show some of the picture. */
export function rangeOf(map, geometry) {
  const [top, bottom] = visible(geometry, 0);
  const [left, right] = visible(geometry, 1);
  let low = Infinity;
  let high = -Infinity;
  for (let row = top; row < bottom; row++) {
    for (let column = left; column < right; column++) {
      const value = map[row * geometry.grid[1] + column];
      low = Math.min(low, value);
      high = Math.max(high, value);
    }
  }
  return [low, high];
}

function dot(a, b) {
  let sum = 0;
  for (let index = 0; index < a.length; index++) sum += a[index] * b[index];
  return sum;
}
