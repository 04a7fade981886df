// What is said about one image, and every step back and forth.

import { boxOf, decode } from "./masks.js";

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
   * What goes to the server: without what the machine said of itself. Nothing is made up: a
   * finding has the places that somebody gave it, but for the box that its mask or points fill.
   */
  plain(places) {
    const placed = this.findings.filter((one) => PLACES.some((name) => one[name]));
    return (placed.length ? placed : this.findings).map((one) => {
      const said = { class: one.class };
      for (const name of PLACES) if (one[name]) said[name] = one[name];
      if (!said.box && places.includes("box")) {
        const box = this.#filled(one);
        if (box) said.box = box;
      }
      return said;
    });
  }

  #filled(one) {
    const [height, width] = this.size;
    return one.mask ? boxOf(decode(one.mask), height, width) : one.keypoints ? around(one.keypoints) : null;
  }
}

const PLACES = ["box", "keypoints", "mask"];

function around(points) {
  const seen = points.filter((point) => point[2]);
  const xs = seen.map((point) => point[0]);
  const ys = seen.map((point) => point[1]);
  const box = [Math.min(...xs), Math.min(...ys), Math.max(...xs), Math.max(...ys)];
  return seen.length && box[0] < box[2] && box[1] < box[3] ? box : null;
}
