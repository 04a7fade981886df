// Boxes, points and masks on the picture: drawn, and changed by pointer or key.

import { colourOf, dashOf, svg } from "./palette.js";
import * as masks from "./masks.js";

const HANDLES = [[0, 0], [0.5, 0], [1, 0], [1, 0.5], [1, 1], [0.5, 1], [0, 1], [0, 0.5]];
const CURSORS = ["nwse", "ns", "nesw", "ew", "nwse", "ns", "nesw", "ew"];
/** Sides shorter than this many pixels of the screen are a slip of the hand. */
const SLIP = 4;
/** Masks of larger images are shown nowhere else either: they would not fit a tablet's memory. */
const MOST = 16e6;

const pen = document.createElement("canvas").getContext("2d");
pen.font = '600 13px system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, "Liberation Sans", sans-serif';
const widths = new Map();

const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
const rounded = (values) => values.map((value) => Math.round(value * 100) / 100);

export class Editor {
  constructor(stage, viewer, { classes, places, changed }) {
    this.places = places;
    this.stage = stage;
    this.viewer = viewer;
    this.classes = classes;
    this.changed = changed;
    this.layer = stage.querySelector("svg.marks");
    this.paint = stage.querySelector("canvas.masks");
    this.tool = "select";
    this.brush = 12;
    this.shown = { marks: true, others: false, proposed: true };
    this.others = [];
    this.proposed = [];
    this.skeleton = null;
    this.class = classes[0];
    this.point = 0;
    this.draft = null;
    this.decoded = new WeakMap();
    this.pointers = new Map();
    this.sheet = null;
    viewer.watch(() => this.draw());
    stage.addEventListener("pointerdown", (event) => this.#down(event));
    stage.addEventListener("pointermove", (event) => this.#move(event));
    for (const end of ["pointerup", "pointercancel"]) stage.addEventListener(end, (event) => this.#up(event));
    stage.addEventListener("pointerleave", () => { this.ring = null; this.draw(); });
    stage.addEventListener("dblclick", () => this.finishPolygon());
    stage.addEventListener("contextmenu", (event) => event.preventDefault());
    stage.addEventListener("wheel", (event) => {
      event.preventDefault();
      viewer.zoom(Math.exp(-clamp(event.deltaY, -60, 60) / 220), viewer.at(event).stage);
    }, { passive: false });
  }

  /** Take up another image. */
  open(sheet, { others, proposed = [], skeleton }) {
    this.sheet = sheet;
    this.others = others;
    this.proposed = proposed;
    this.skeleton = skeleton;
    sheet.points = skeleton?.points || [];
    this.draft = this.gesture = null;
    this.point = 0;
    this.redraw();
  }

  setTool(tool) {
    this.finishPolygon(false);
    this.tool = tool;
    this.stage.dataset.tool = tool;
    this.draw();
  }

  get tooLarge() {
    return this.viewer.width * this.viewer.height > MOST;
  }

  number(name) {
    return Math.max(0, this.classes.indexOf(name));
  }

  // -- drawing ---------------------------------------------------------------------------------

  /** Draw everything anew, masks too. */
  redraw() {
    this.#paintMasks();
    this.draw();
  }

  draw() {
    const { layer, viewer, sheet } = this;
    layer.replaceChildren();
    this.paint.style.transform = `translate(${viewer.x}px, ${viewer.y}px) scale(${viewer.scale})`;
    this.paint.hidden = !this.shown.marks;
    if (!sheet) return;
    if (this.shown.others) {
      this.others.forEach((one) => one.findings.forEach((finding) => this.#drawOther(finding, one.who)));
    }
    if (this.shown.proposed) this.proposed.forEach((finding) => this.#drawOther(finding, "the machine would place"));
    if (this.shown.marks) {
      const area = ({ box }) => (box ? (box[2] - box[0]) * (box[3] - box[1]) : 0);
      const order = sheet.findings.map((_, i) => i).filter((i) => i !== sheet.chosen)
        .sort((a, b) => area(sheet.findings[b]) - area(sheet.findings[a]));
      if (sheet.one) order.push(sheet.chosen);
      for (const i of order) this.#drawOne(sheet.findings[i], i);
    }
    this.#drawDraft();
  }

  #drawOne(finding, i) {
    const k = this.number(finding.class);
    const chosen = i === this.sheet.chosen;
    const group = svg("g", { "data-row": i, class: chosen ? "chosen" : "" });
    const colour = colourOf(k);
    let corner = null;
    if (finding.box) {
      const [x0, y0] = this.viewer.toStage(finding.box.slice(0, 2));
      const [x1, y1] = this.viewer.toStage(finding.box.slice(2));
      const size = { x: x0, y: y0, width: Math.max(0, x1 - x0), height: Math.max(0, y1 - y0) };
      group.append(
        svg("rect", { ...size, class: "halo" }),
        svg("rect", { ...size, class: "shape", stroke: colour, "stroke-dasharray": dashOf(k) }),
        svg("rect", { ...size, class: "hit", "data-part": "body", "pointer-events": this.#large(size) && !chosen ? "stroke" : "all" }),
      );
      corner = [x0, y0];
      // the box of a mask follows its brush
      if (chosen && !finding.mask) {
        HANDLES.forEach(([u, v], h) => {
          const x = x0 + u * (x1 - x0);
          const y = y0 + v * (y1 - y0);
          const grip = svg("rect", { x: x - 13, y: y - 13, width: 26, height: 26, class: "grip", "data-part": `handle-${h}` });
          grip.style.cursor = `${CURSORS[h]}-resize`;
          group.append(svg("rect", { x: x - 4, y: y - 4, width: 8, height: 8, class: "handle" }), grip);
        });
      }
    }
    if (finding.keypoints) {
      const top = this.#drawPoints(group, finding.keypoints, colour, chosen);
      corner ||= top;
    }
    if (!corner && finding.mask) {
      const edge = this.#edgeOf(finding);
      corner = edge && this.viewer.toStage(edge);
    }
    if (corner) group.append(...this.#plate(this.#words(finding), corner, colour));
    this.layer.append(group);
  }

  /** Boxes that fill the stage are taken by their edge, so that the picture can still be moved. */
  #large({ width, height }) {
    return width * height > 0.3 * this.stage.clientWidth * this.stage.clientHeight;
  }

  #words(finding) {
    const score = finding.source === "model" && finding.score != null ? ` ${finding.score.toFixed(2)}` : "";
    return `${this.number(finding.class) + 1} ${finding.class}${score}`;
  }

  /** Words on a dark plate above a corner, or within the stage where there is no room above. */
  #plate(words, [x, y], colour) {
    if (!widths.has(words)) widths.set(words, pen.measureText(words).width);
    const left = Math.max(2, x - 1);
    const top = Math.max(2, y - 21);
    return [
      svg("rect", { x: left, y: top, width: widths.get(words) + 10, height: 19, rx: 3, class: "plate" }),
      this.#text(words, left + 5, top + 14, colour),
    ];
  }

  #text(words, x, y, colour) {
    const text = svg("text", { x: Math.max(4, x), y: Math.max(15, y), fill: colour });
    text.textContent = words;
    return text;
  }

  #drawPoints(group, points, colour, chosen) {
    const at = points.map((point) => this.viewer.toStage(point));
    for (const [a, b] of this.skeleton?.edges || []) {
      if (points[a]?.[2] && points[b]?.[2]) {
        group.append(svg("line", { x1: at[a][0], y1: at[a][1], x2: at[b][0], y2: at[b][1], class: "bone", stroke: colour }));
      }
    }
    const radius = points.length > 20 ? 4 : 6;
    let top = null;
    points.forEach(([, , seen], p) => {
      if (!seen) return;
      const [x, y] = at[p];
      if (!top || y < top[1]) top = [x, y - radius];
      const joint = svg("circle", {
        cx: x, cy: y, r: chosen && p === this.point ? radius + 2 : radius,
        class: `joint ${seen === 1 ? "covered" : ""}`, fill: colour, "data-part": `point-${p}`,
      });
      if (seen === 1) joint.style.stroke = colour;
      const title = svg("title");
      title.textContent = `${p + 1} ${this.skeleton?.points?.[p] || ""}${seen === 1 ? " (hidden)" : ""}`;
      joint.append(title);
      group.append(joint);
      const grip = svg("circle", { cx: x, cy: y, r: 15, class: "grip", "data-part": `point-${p}` });
      if (points.length <= 20) group.append(grip);
      if (chosen && (points.length <= 20 || p === this.point)) {
        const number = this.#text(String(p + 1), x + radius + 3, y - radius, "#ffffff");
        number.classList.add("index");
        group.append(number);
      }
    });
    return top;
  }

  #drawOther(finding, who) {
    const group = svg("g", { class: "other" });
    if (finding.box) {
      const [x0, y0] = this.viewer.toStage(finding.box.slice(0, 2));
      const [x1, y1] = this.viewer.toStage(finding.box.slice(2));
      group.append(svg("rect", { x: x0, y: y0, width: x1 - x0, height: y1 - y0, class: "shape other", stroke: "#ffffff" }));
      group.append(...this.#plate(`${who}: ${finding.class}`, [x0, y1 + 22], "#ffffff"));
    }
    for (const [x, y, seen] of finding.keypoints || []) {
      if (!seen) continue;
      const [cx, cy] = this.viewer.toStage([x, y]);
      group.append(svg("circle", { cx, cy, r: 5, class: "shape other", stroke: "#ffffff" }));
    }
    this.layer.append(group);
  }

  #drawDraft() {
    if (this.draft?.box) {
      const [x0, y0, x1, y1] = this.draft.box;
      const [a, b] = this.viewer.toStage([Math.min(x0, x1), Math.min(y0, y1)]);
      const [c, d] = this.viewer.toStage([Math.max(x0, x1), Math.max(y0, y1)]);
      this.layer.append(svg("rect", { x: a, y: b, width: c - a, height: d - b, class: "draft" }));
    }
    if (this.draft?.polygon) {
      const path = this.draft.polygon.map((point) => this.viewer.toStage(point).join(",")).join(" ");
      this.layer.append(svg("polygon", { points: path, class: "draft" }));
      for (const point of this.draft.polygon) {
        const [cx, cy] = this.viewer.toStage(point);
        this.layer.append(svg("circle", { cx, cy, r: 4, class: "handle" }));
      }
    }
    if (this.ring && (this.tool === "brush" || this.tool === "erase")) {
      const [cx, cy] = this.ring;
      this.layer.append(svg("circle", { cx, cy, r: this.brush, class: "ring" }));
      this.layer.append(svg("circle", { cx, cy, r: 1.5, fill: "#fff" }));
    }
  }

  // -- masks -----------------------------------------------------------------------------------

  #mask(finding) {
    if (!finding.mask) return null;
    if (!this.decoded.has(finding.mask)) {
      const { size: [height, width] } = finding.mask;
      const fits = height === this.viewer.height && width === this.viewer.width;
      this.decoded.set(finding.mask, fits ? masks.decode(finding.mask) : null);
    }
    return this.decoded.get(finding.mask);
  }

  #edgeOf(finding) {
    const mask = this.#mask(finding);
    const box = mask && masks.boxOf(mask, this.viewer.height, this.viewer.width);
    return box && box.slice(0, 2);
  }

  #paintMasks(part = null) {
    const { width, height } = this.viewer;
    const layers = (this.sheet?.findings || []).filter((one) => one.mask);
    if (this.tooLarge || (!layers.length && !part)) {
      this.paint.width = this.paint.height = 1;
      return;
    }
    if (this.paint.width !== width || this.paint.height !== height) {
      this.paint.width = width;
      this.paint.height = height;
      part = null;
    }
    const [x0, y0, x1, y1] = part || [0, 0, width, height];
    if (x1 <= x0 || y1 <= y0) return;
    const pixels = new ImageData(x1 - x0, y1 - y0);
    const data = new Uint32Array(pixels.data.buffer);
    for (const finding of layers) {
      const mask = this.#mask(finding);
      if (!mask) continue;
      const [r, g, b] = colourOf(this.number(finding.class)).match(/\w\w/g).map((hex) => parseInt(hex, 16));
      const body = (b << 16) | (g << 8) | r | (0x66 << 24);
      const edge = (b << 16) | (g << 8) | r | (0xff << 24);
      for (let y = y0; y < y1; y += 1) {
        for (let x = x0; x < x1; x += 1) {
          const i = y * width + x;
          if (!mask[i]) continue;
          const inside = x > 0 && mask[i - 1] && x < width - 1 && mask[i + 1] && y > 0 && mask[i - width] && y < height - 1 && mask[i + width];
          data[(y - y0) * (x1 - x0) + x - x0] = inside ? body : edge;
        }
      }
    }
    this.paint.getContext("2d").putImageData(pixels, x0, y0);
  }

  /** Let `work` change the pixels of the chosen mask, made where there is none; then store it. */
  #changeMask(work) {
    const { width, height } = this.viewer;
    let finding = this.sheet.one;
    if (!finding || finding.keypoints || (finding.box && !finding.mask && !this.places.includes("mask"))) {
      this.sheet.add({ class: this.class });
      finding = this.sheet.one;
    }
    const before = this.#mask(finding);
    const mask = before ? before.slice() : masks.emptyMask(height, width);
    work(mask);
    this.#store(finding, mask);
  }

  #store(finding, mask) {
    const { width, height } = this.viewer;
    const box = masks.boxOf(mask, height, width);
    if (!box) {
      this.sheet.findings.splice(this.sheet.findings.indexOf(finding), 1);
      this.sheet.chosen = -1;
    } else {
      finding.mask = masks.encode(mask, height, width);
      this.decoded.set(finding.mask, mask);
      if (finding.box) finding.box = box;
      this.#byHand(finding);
    }
    this.#done();
  }

  finishPolygon(keep = true) {
    const points = this.draft?.polygon;
    if (!points) return;
    this.draft = null;
    if (keep && points.length > 2) {
      this.sheet.keep();
      this.#changeMask((mask) => masks.fill(mask, this.viewer.height, this.viewer.width, points, 1));
    } else {
      this.draw();
    }
  }

  // -- by pointer ------------------------------------------------------------------------------

  #down(event) {
    if (!this.sheet) return;
    this.stage.setPointerCapture(event.pointerId);
    this.pointers.set(event.pointerId, this.viewer.at(event).stage);
    if (this.pointers.size === 2) {
      this.#giveUp();
      this.gesture = { kind: "pinch" };
      return;
    }
    const { stage, image } = this.viewer.at(event);
    if (event.button === 1 || event.button === 2 || event.shiftKey) {
      this.gesture = { kind: "pan", last: stage };
      this.stage.classList.add("panning");
      return;
    }
    this.gesture = this.#begin(event, stage, image);
    this.draw();
  }

  #begin(event, stage, image) {
    const { sheet, tool } = this;
    const part = event.target.dataset?.part;
    const row = event.target.closest?.("[data-row]")?.dataset.row;
    const own = part && Number(row) === sheet.chosen && part !== "body";
    if (tool === "window") return { kind: "window", last: stage };
    if (tool === "polygon") {
      const first = this.draft?.polygon?.[0];
      if (first && this.#near(first, stage)) {
        this.finishPolygon();
      } else {
        this.draft ||= { polygon: [] };
        this.draft.polygon.push(this.#inside(image));
      }
      return null;
    }
    if (tool === "brush" || tool === "erase") return this.#beginStroke(image);
    if (tool === "points" && !own) return this.#place(image);
    if (tool === "box" && !own) {
      this.draft = { box: [...this.#inside(image), ...this.#inside(image)] };
      return { kind: "draw", start: stage };
    }
    if (part) {
      sheet.chosen = Number(row);
      this.class = sheet.one.class;
      if (sheet.one.mask && part === "body") {
        this.changed("chosen");
        return { kind: "pan", last: stage };
      }
      const before = JSON.parse(JSON.stringify(sheet.one));
      if (part.startsWith("point-")) this.point = Number(part.slice(6));
      this.changed("chosen");
      return { kind: "change", part, start: image, before, kept: false };
    }
    const hit = sheet.findings.findIndex((one) => {
      const mask = this.#mask(one);
      const [x, y] = image.map(Math.floor);
      return mask && x >= 0 && y >= 0 && x < this.viewer.width && mask[y * this.viewer.width + x];
    });
    if (hit >= 0 || sheet.chosen >= 0) {
      sheet.chosen = hit;
      this.changed("chosen");
    }
    this.stage.classList.add("panning");
    return { kind: "pan", last: stage };
  }

  #near(point, stage) {
    const [x, y] = this.viewer.toStage(point);
    return Math.hypot(x - stage[0], y - stage[1]) < 12;
  }

  #inside([x, y]) {
    return [clamp(x, 0, this.viewer.width), clamp(y, 0, this.viewer.height)];
  }

  #beginStroke(image) {
    if (this.tooLarge) return null;
    const { width, height } = this.viewer;
    this.sheet.keep();
    let finding = this.sheet.one;
    const erase = this.tool === "erase";
    if (!finding?.mask) {
      if (erase) {
        this.sheet.drop();
        return null;
      }
      const own = finding && !finding.keypoints && (!finding.box || this.places.includes("mask"));
      if (!own) this.sheet.add({ class: this.class });
      finding = this.sheet.one;
      finding.mask = { size: [height, width], counts: [height * width] };
    } else {
      finding.mask = { ...finding.mask };
    }
    const before = this.#mask({ mask: this.sheet.behind.at(-1)[0][this.sheet.chosen]?.mask });
    const mask = before ? before.slice() : masks.emptyMask(height, width);
    this.decoded.set(finding.mask, mask);
    const gesture = { kind: "stroke", finding, mask, value: erase ? 0 : 1, last: image };
    this.#stroke(gesture, image);
    return gesture;
  }

  #stroke(gesture, image) {
    const { width, height } = this.viewer;
    const radius = Math.max(0.5, this.brush / this.viewer.scale);
    masks.stroke(gesture.mask, height, width, gesture.last, image, radius, gesture.value);
    const xs = [gesture.last[0], image[0]];
    const ys = [gesture.last[1], image[1]];
    this.#paintMasks([
      Math.max(0, Math.floor(Math.min(...xs) - radius - 2)), Math.max(0, Math.floor(Math.min(...ys) - radius - 2)),
      Math.min(width, Math.ceil(Math.max(...xs) + radius + 2)), Math.min(height, Math.ceil(Math.max(...ys) + radius + 2)),
    ]);
    gesture.last = image;
  }

  #place(image) {
    const { sheet } = this;
    const count = this.skeleton?.points?.length || 0;
    if (!count) return null;
    sheet.keep();
    const free = (one) => one?.keypoints?.findIndex((point) => point[2] === 0) ?? -1;
    if (!sheet.one || (sheet.one.keypoints && free(sheet.one) < 0)) sheet.add({ class: this.class });
    sheet.one.keypoints ||= Array.from({ length: count }, () => [0, 0, 0]);
    this.point = free(sheet.one);
    sheet.one.keypoints[this.point] = [...rounded(this.#inside(image)), 2];
    this.#byHand(sheet.one);
    this.#done();
    const before = JSON.parse(JSON.stringify(sheet.one));
    return { kind: "change", part: `point-${this.point}`, start: image, before, kept: true };
  }

  #move(event) {
    const { stage, image } = this.viewer.at(event);
    if (this.tool === "brush" || this.tool === "erase") {
      this.ring = stage;
      if (!this.gesture) this.draw();
    }
    const before = this.pointers.get(event.pointerId);
    if (!before || !this.gesture) return;
    const { gesture } = this;
    if (gesture.kind === "pinch") {
      this.#pinch(event.pointerId, stage);
      return;
    }
    this.pointers.set(event.pointerId, stage);
    const moved = [stage[0] - before[0], stage[1] - before[1]];
    if (gesture.kind === "pan") this.viewer.pan(...moved);
    if (gesture.kind === "window") {
      this.viewer.changeWindow(-moved[1] / 300, moved[0] / 200).catch((error) => this.changed("said", error.message));
    }
    if (gesture.kind === "draw") this.draft.box.splice(2, 2, ...this.#inside(image));
    if (gesture.kind === "stroke") this.#stroke(gesture, image);
    if (gesture.kind === "change") this.#change(gesture, image);
    this.draw();
  }

  #pinch(id, stage) {
    const spread = () => {
      const [a, b] = [...this.pointers.values()];
      return { middle: [(a[0] + b[0]) / 2, (a[1] + b[1]) / 2], length: Math.hypot(a[0] - b[0], a[1] - b[1]) || 1 };
    };
    const was = spread();
    this.pointers.set(id, stage);
    if (this.pointers.size < 2) return;
    const now = spread();
    this.viewer.pan(now.middle[0] - was.middle[0], now.middle[1] - was.middle[1]);
    this.viewer.zoom(now.length / was.length, now.middle);
  }

  #change(gesture, image) {
    if (!gesture.kept) {
      this.sheet.keep();
      gesture.kept = true;
    }
    const dx = image[0] - gesture.start[0];
    const dy = image[1] - gesture.start[1];
    const { sheet } = this;
    if (gesture.part === "body") shift(sheet.one, gesture.before, dx, dy, this.viewer);
    if (gesture.part.startsWith("handle-")) {
      const [u, v] = HANDLES[Number(gesture.part.slice(7))];
      sheet.one.box = this.#pulled(gesture.before.box, u, v, dx, dy);
    }
    if (gesture.part.startsWith("point-")) {
      const [x, y, seen] = gesture.before.keypoints[this.point];
      sheet.one.keypoints[this.point] = [...rounded(this.#inside([x + dx, y + dy])), seen];
    }
    this.#byHand(sheet.one);
  }

  #pulled([x0, y0, x1, y1], u, v, dx, dy) {
    const [right, bottom] = [this.viewer.width, this.viewer.height];
    const xs = [u === 0 ? clamp(x0 + dx, 0, right) : x0, u === 1 ? clamp(x1 + dx, 0, right) : x1].sort((a, b) => a - b);
    const ys = [v === 0 ? clamp(y0 + dy, 0, bottom) : y0, v === 1 ? clamp(y1 + dy, 0, bottom) : y1].sort((a, b) => a - b);
    return rounded([xs[0], ys[0], Math.max(xs[1], xs[0] + 0.5), Math.max(ys[1], ys[0] + 0.5)]);
  }

  #up(event) {
    this.pointers.delete(event.pointerId);
    this.stage.classList.remove("panning");
    const { gesture } = this;
    if (!gesture) return;
    if (gesture.kind === "pinch") {
      if (!this.pointers.size) this.gesture = null;
      return;
    }
    this.gesture = null;
    if (gesture.kind === "draw") this.#drawn();
    else if (gesture.kind === "stroke") this.#store(gesture.finding, gesture.mask);
    else if (gesture.kind === "change" && gesture.kept) this.#done();
  }

  #drawn() {
    const [x0, y0, x1, y1] = this.draft.box;
    this.draft = null;
    const box = rounded([Math.min(x0, x1), Math.min(y0, y1), Math.max(x0, x1), Math.max(y0, y1)]);
    const least = SLIP / this.viewer.scale;
    if (box[2] - box[0] < least || box[3] - box[1] < least) {
      this.draw();
      return;
    }
    this.addBox(box);
  }

  /** A second finger means that the first one was not drawing. */
  #giveUp() {
    const { gesture } = this;
    this.draft = this.draft?.polygon ? this.draft : null;
    if (gesture?.kind === "stroke" || (gesture?.kind === "change" && gesture.kept)) {
      this.sheet.undo();
      this.sheet.ahead = [];
      this.redraw();
    }
    this.gesture = null;
  }

  // -- by key ----------------------------------------------------------------------------------

  addBox(box) {
    const { width, height } = this.viewer;
    // what is drawn as a box is a box: a mask comes from the brush or the polygon
    const middle = [width * 0.35, height * 0.35, width * 0.65, height * 0.65];
    this.sheet.keep();
    const { one } = this.sheet;
    // a skeleton or a mask that has no box yet gets this one
    if (one && !one.box && (one.keypoints || one.mask)) one.box = box || rounded(middle);
    else this.sheet.add({ class: this.class, box: box || rounded(middle) });
    this.#byHand(this.sheet.one);
    this.#done();
  }

  nudge(dx, dy, grow) {
    const { one } = this.sheet;
    if (!one) return false;
    const points = this.tool === "points" && one.keypoints;
    if (!points && (one.mask || (!one.box && !one.keypoints))) return false;
    this.sheet.keep();
    const before = JSON.parse(JSON.stringify(one));
    if (points) {
      const [x, y, seen] = before.keypoints[this.point];
      one.keypoints[this.point] = [...rounded(this.#inside([x + dx, y + dy])), seen];
    } else if (grow && one.box) {
      one.box = this.#pulled(before.box, 1, 1, dx, dy);
    } else {
      shift(one, before, dx, dy, this.viewer);
    }
    this.#byHand(one);
    this.#done();
    return true;
  }

  choosePoint(step) {
    const count = this.sheet.one?.keypoints?.length;
    if (!count) return;
    this.point = (this.point + step + count) % count;
    this.draw();
    const name = this.skeleton?.points?.[this.point] || "";
    this.changed("said", `Point ${this.point + 1} ${name}`);
  }

  /** Seen, covered, not there: in turn. */
  hidePoint() {
    const { one } = this.sheet;
    if (!one?.keypoints) return;
    this.sheet.keep();
    const point = one.keypoints[this.point];
    point[2] = (point[2] + 2) % 3;
    this.#byHand(one);
    this.#done();
    this.changed("said", `Point ${this.point + 1}: ${["not there", "hidden", "seen"][point[2]]}`);
  }

  setClass(name) {
    this.class = name;
    const { one } = this.sheet;
    if (!one || one.class === name) return;
    this.sheet.keep();
    one.class = name;
    this.#byHand(one);
    this.#done();
  }

  choose(i) {
    this.sheet.chosen = i;
    if (this.sheet.one) this.class = this.sheet.one.class;
    this.draw();
    this.changed("chosen");
  }

  #byHand(finding) {
    delete finding.score;
    delete finding.source;
  }

  #done() {
    this.redraw();
    this.changed("edited");
  }
}

/** Move a finding as a whole, as far as the image goes. */
function shift(finding, before, dx, dy, { width, height }) {
  if (before.mask) return;
  const xs = [];
  const ys = [];
  if (before.box) {
    xs.push(before.box[0], before.box[2]);
    ys.push(before.box[1], before.box[3]);
  }
  for (const [x, y, seen] of before.keypoints || []) {
    if (seen) {
      xs.push(x);
      ys.push(y);
    }
  }
  if (!xs.length) return;
  const mx = clamp(dx, -Math.min(...xs), width - Math.max(...xs));
  const my = clamp(dy, -Math.min(...ys), height - Math.max(...ys));
  if (before.box) {
    const [x0, y0, x1, y1] = before.box;
    finding.box = rounded([x0 + mx, y0 + my, x1 + mx, y1 + my]);
  }
  if (before.keypoints) {
    finding.keypoints = before.keypoints.map(([x, y, seen]) => (seen ? [...rounded([x + mx, y + my]), seen] : [x, y, seen]));
  }
}
