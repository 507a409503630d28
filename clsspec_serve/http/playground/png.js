/** Arrays as the server's JSON holds them: base64 of raw numbers, and PNGs with all their bits. */

const NUMBERS = { float32: Float32Array, uint8: Uint8Array, uint16: Uint16Array };

export function bytesOf(base64) {
  return Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
}

/** {values, shape} of {base64, dtype, shape}; little-endian, as is every machine with a browser. */
export function arrayOf({ base64, dtype, shape }) {
  return { values: new NUMBERS[dtype](bytesOf(base64).buffer), shape };
}

/** {values, shape} of a map that came as a PNG or raw. */
export async function decode(map) {
  return map.png ? decodePng(bytesOf(map.png)) : arrayOf(map);
}

/**
 * {values, shape: [height, width]} of a PNG: the indices of an 8-bit one with a palette, or 8 or 16
 * bits of grey. A canvas would give colours, and eight bits of sixteen.
 */
export async function decodePng(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const parts = [];
  let header;
  for (let at = 8; at < bytes.length; ) {
    const length = view.getUint32(at);
    const kind = String.fromCharCode(...bytes.subarray(at + 4, at + 8));
    if (kind === "IHDR") header = at + 8;
    if (kind === "IDAT") parts.push(bytes.subarray(at + 8, at + 8 + length));
    at += 12 + length;
  }
  const width = view.getUint32(header);
  const height = view.getUint32(header + 4);
  const [depth, colour, , , interlaced] = bytes.subarray(header + 8, header + 13);
  if (![8, 16].includes(depth) || ![0, 3].includes(colour) || interlaced) {
    throw new Error(`a PNG of ${depth} bits, colour type ${colour}`);
  }
  const inflated = new Blob(parts).stream().pipeThrough(new DecompressionStream("deflate"));
  const rows = new Uint8Array(await new Response(inflated).arrayBuffer());
  const step = depth / 8;
  const pixels = unfiltered(rows, height, width * step, step);
  return { values: depth === 8 ? pixels : bigEndian(pixels), shape: [height, width] };
}

/** PNG specification, 9.2: each row begins with the way in which it was foretold. */
function unfiltered(rows, height, stride, step) {
  const out = new Uint8Array(height * stride);
  for (let row = 0; row < height; row++) {
    const from = row * (stride + 1) + 1;
    const filter = rows[from - 1];
    const to = row * stride;
    for (let index = 0; index < stride; index++) {
      const left = index >= step ? out[to + index - step] : 0;
      const above = row ? out[to + index - stride] : 0;
      const corner = row && index >= step ? out[to + index - stride - step] : 0;
      out[to + index] = rows[from + index] + foretold(filter, left, above, corner);
    }
  }
  return out;
}

function foretold(filter, left, above, corner) {
  if (filter === 1) return left;
  if (filter === 2) return above;
  if (filter === 3) return (left + above) >> 1;
  if (filter === 4) return paeth(left, above, corner);
  return 0;
}

function paeth(left, above, corner) {
  const fromLeft = Math.abs(above - corner);
  const fromAbove = Math.abs(left - corner);
  const fromCorner = Math.abs(left + above - 2 * corner);
  if (fromLeft <= fromAbove && fromLeft <= fromCorner) return left;
  return fromAbove <= fromCorner ? above : corner;
}

function bigEndian(bytes) {
  const values = new Uint16Array(bytes.length / 2);
  for (let index = 0; index < values.length; index++) {
    values[index] = (bytes[2 * index] << 8) | bytes[2 * index + 1];
  }
  return values;
}
