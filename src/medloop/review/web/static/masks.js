// COCO run-length masks: columns first, runs of background and foreground in turn.

/** Turn {size, counts} into bytes (height x width, row by row) of 0 and 1. */
export function decode({ size: [height, width], counts }) {
  const runs = typeof counts === "string" ? unpack(counts) : counts;
  const mask = new Uint8Array(height * width);
  let at = 0;
  runs.forEach((run, i) => {
    if (i % 2) {
      for (let j = at; j < at + run; j += 1) mask[(j % height) * width + Math.floor(j / height)] = 1;
    }
    at += run;
  });
  return mask;
}

export function encode(mask, height, width) {
  const counts = [];
  let value = 0;
  let run = 0;
  for (let x = 0; x < width; x += 1) {
    for (let y = 0; y < height; y += 1) {
      const here = mask[y * width + x];
      if (here !== value) {
        counts.push(run);
        run = 0;
        value = here;
      }
      run += 1;
    }
  }
  counts.push(run);
  return { size: [height, width], counts: pack(counts) };
}

// COCO writes each run as the difference to the one two before, in six-bit letters from "0" on.
function pack(counts) {
  let text = "";
  counts.forEach((count, i) => {
    let value = i > 2 ? count - counts[i - 2] : count;
    let more = true;
    while (more) {
      let letter = value & 0x1f;
      value >>= 5;
      more = letter & 0x10 ? value !== -1 : value !== 0;
      if (more) letter |= 0x20;
      text += String.fromCharCode(letter + 48);
    }
  });
  return text;
}

function unpack(text) {
  const counts = [];
  let at = 0;
  while (at < text.length) {
    let value = 0;
    let place = 0;
    let letter;
    do {
      letter = text.charCodeAt(at) - 48;
      value |= (letter & 0x1f) << (5 * place);
      at += 1;
      place += 1;
    } while (letter & 0x20);
    if (letter & 0x10) value |= -1 << (5 * place);
    if (counts.length > 2) value += counts[counts.length - 2];
    counts.push(value);
  }
  return counts;
}

export function emptyMask(height, width) {
  return new Uint8Array(height * width);
}

/** Set or clear everything within a radius of the line between two points. */
export function stroke(mask, height, width, [x0, y0], [x1, y1], radius, value) {
  const r2 = radius * radius;
  const dx = x1 - x0;
  const dy = y1 - y0;
  const length2 = dx * dx + dy * dy;
  const left = Math.max(0, Math.floor(Math.min(x0, x1) - radius));
  const right = Math.min(width - 1, Math.ceil(Math.max(x0, x1) + radius));
  const top = Math.max(0, Math.floor(Math.min(y0, y1) - radius));
  const bottom = Math.min(height - 1, Math.ceil(Math.max(y0, y1) + radius));
  for (let y = top; y <= bottom; y += 1) {
    for (let x = left; x <= right; x += 1) {
      const px = x + 0.5 - x0;
      const py = y + 0.5 - y0;
      const t = length2 ? Math.min(1, Math.max(0, (px * dx + py * dy) / length2)) : 0;
      const ex = px - t * dx;
      const ey = py - t * dy;
      if (ex * ex + ey * ey <= r2) mask[y * width + x] = value;
    }
  }
}

/** Set or clear the pixels whose centres lie inside a polygon (even-odd). */
export function fill(mask, height, width, points, value) {
  const ys = points.map((point) => point[1]);
  const first = Math.max(0, Math.floor(Math.min(...ys)));
  const last = Math.min(height - 1, Math.ceil(Math.max(...ys)));
  for (let y = first; y <= last; y += 1) {
    const centre = y + 0.5;
    const cuts = [];
    points.forEach(([x0, y0], i) => {
      const [x1, y1] = points[(i + 1) % points.length];
      if ((y0 <= centre) !== (y1 <= centre)) cuts.push(x0 + ((centre - y0) / (y1 - y0)) * (x1 - x0));
    });
    cuts.sort((a, b) => a - b);
    for (let i = 0; i + 1 < cuts.length; i += 2) {
      const from = Math.max(0, Math.ceil(cuts[i] - 0.5));
      const to = Math.min(width - 1, Math.ceil(cuts[i + 1] - 0.5) - 1);
      for (let x = from; x <= to; x += 1) mask[y * width + x] = value;
    }
  }
}

/** The tightest box around a mask as x0, y0, x1, y1; null where it is empty. */
export function boxOf(mask, height, width) {
  let x0 = width, y0 = height, x1 = -1, y1 = -1;
  for (let y = 0; y < height; y += 1) {
    for (let x = 0; x < width; x += 1) {
      if (mask[y * width + x]) {
        x0 = Math.min(x0, x);
        x1 = Math.max(x1, x);
        y0 = Math.min(y0, y);
        y1 = Math.max(y1, y);
      }
    }
  }
  return x1 < 0 ? null : [x0, y0, x1 + 1, y1 + 1];
}
