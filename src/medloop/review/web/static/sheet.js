// What is said about one image, and every step back and forth.

import { boxOf, decode, emptyMask, encode, fill } from "./masks.js";

const copy = (value) => JSON.parse(JSON.stringify(value));

export class Sheet {
  constructor(findings, size) {
    this.findings = copy(findings);
    this.size = size;
    this.points = [];
    this.comment = "";
    this.chosen = this.findings.findIndex((one) => one.box || one.keypoints || one.mask);
    this.behind = [];
    this.ahead = [];
    this.first = JSON.stringify(this.findings);
  }

  get one() {
    return this.findings[this.chosen] || null;
  }

  get changed() {
    return JSON.stringify(this.findings) !== this.first;
  }

  get hasObjects() {
    return this.findings.some((one) => one.box || one.keypoints || one.mask);
  }

  /** Remember what is there before it is changed. */
  keep() {
    this.behind.push([copy(this.findings), this.chosen]);
    this.ahead = [];
  }

  /** Forget the last step: nothing came of it. */
  drop() {
    this.behind.pop();
  }

  undo() {
    return this.#step(this.behind, this.ahead);
  }

  redo() {
    return this.#step(this.ahead, this.behind);
  }

  #step(from, to) {
    if (!from.length) return false;
    to.push([copy(this.findings), this.chosen]);
    [this.findings, this.chosen] = from.pop();
    return true;
  }

  add(finding) {
    this.findings.push(finding);
    this.chosen = this.findings.length - 1;
  }

  remove() {
    if (!this.one) return false;
    this.keep();
    this.findings.splice(this.chosen, 1);
    this.chosen = Math.min(this.chosen, this.findings.length - 1);
    return true;
  }

  /**
   * What goes to the server: without what the machine said of itself, and placed in the same way
   * in every row, as the others of the workspace are.
   */
  plain(places) {
    const placed = this.findings.filter((one) => one.box || one.keypoints || one.mask);
    const held = PLACES.filter((name) => places.includes(name) || placed.some((one) => one[name]));
    return (placed.length ? placed : this.findings).map((one) => {
      const said = { class: one.class };
      if (placed.length) for (const name of held) said[name] = one[name] || this.#made(name, one, placed);
      return said;
    });
  }

  /** A place that a finding lacks, from those that it has. */
  #made(name, one, placed) {
    if (name === "keypoints") {
      const { length } = placed.find((other) => other.keypoints)?.keypoints || this.points;
      return Array.from({ length }, () => [0, 0, 0]);
    }
    const [height, width] = this.size;
    const box = one.box || (one.mask ? boxOf(decode(one.mask), height, width) : around(one.keypoints));
    return name === "box" ? box : rectangle(box, this.size);
  }
}

const PLACES = ["box", "keypoints", "mask"];

/** A mask that fills a box. */
export function rectangle([x0, y0, x1, y1], [height, width]) {
  const mask = emptyMask(height, width);
  fill(mask, height, width, [[x0, y0], [x1, y0], [x1, y1], [x0, y1]], 1);
  return encode(mask, height, width);
}

function around(points) {
  const seen = points.filter((point) => point[2]);
  const xs = seen.map((point) => point[0]);
  const ys = seen.map((point) => point[1]);
  const [x0, y0] = [Math.min(...xs), Math.min(...ys)];
  return [x0, y0, Math.max(...xs, x0 + 1), Math.max(...ys, y0 + 1)];
}
