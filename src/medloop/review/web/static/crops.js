// Findings by the dozen: each image small with all its boxes, so that a miss shows, and each finding large.

import { get, newName, Refused, send } from "./api.js";
import { addKeys, kbd } from "./keys.js";
import { chip, colourOf, svg } from "./palette.js";
import { found, lost, toast } from "./toast.js";

const page = document.querySelector(".grid-page");
const part = (name) => page.querySelector(`[data-at="${name}"]`);
const start = JSON.parse(page.dataset.start);
const { classes, crop } = start;
const PAGE = start.page;
/** So many findings of an image have a picture; whoever has more opens the image. */
const MOST = 100;

let fields = [];
let crops = [];
let at = 0;
let busy = false;
const left = new Set();

/** Longest side of the small picture of a whole image. */
const OVERVIEW = 216;

const make = (name, className, text = "") => {
  const element = document.createElement(name);
  if (className) element.className = className;
  element.textContent = text;
  return element;
};

function overview(row) {
  const holder = make("a", "overview");
  holder.href = `/image/${row.id}`;
  holder.tabIndex = -1;
  const image = make("img");
  image.src = `/picture/${row.id}/small`;
  image.alt = "";
  const layer = svg("svg", { viewBox: `0 0 ${row.width || 1} ${row.height || 1}` });
  if (row.width && row.height) {
    const scale = OVERVIEW / Math.max(row.width, row.height);
    image.style.width = `${row.width * scale}px`;
    image.style.height = `${row.height * scale}px`;
    layer.style.width = image.style.width;
    layer.style.height = image.style.height;
  }
  holder.append(image, layer);
  return [holder, layer];
}

function fieldOf(row) {
  const element = make("article", "field");
  const [holder, layer] = overview(row);
  const side = make("div", "beside");
  const title = make("p", "field-name");
  title.append(make("bdi", "", row.file), make("span", "", ` ${row.reason}`));
  const own = make("div", "crops");
  side.append(title, own);
  element.append(holder, side);
  const many = row.findings.length > MOST;
  const field = { row, element, layer, out: many || !row.findings.length, clashed: false, many, title };
  field.crops = row.findings.slice(0, MOST).map((finding, k) => {
    const button = make("button", "tile crop");
    button.type = "button";
    const image = make("i");
    image.style.backgroundImage = `url("/picture/${row.id}/crops")`;
    image.style.backgroundPosition = `${-crop * k}px 0`;
    image.style.width = image.style.height = `${crop}px`;
    button.append(image, make("div", "said"));
    own.append(button);
    return { field, finding, class: finding.class, gone: false, element: button };
  });
  if (!field.crops.length) own.append(make("p", "field-name", "nothing was found here"));
  return field;
}

function show(rows) {
  fields = rows.map(fieldOf);
  crops = fields.flatMap((field) => (field.crops.length ? field.crops : [{ field, element: field.element, nothing: true }]));
  crops.forEach((one, i) => one.element.addEventListener("click", (event) => {
    if (event.target.closest("a")) return;
    if (at === i && !busy && !one.nothing) remove();
    focus(i);
    one.element.blur();
  }));
  part("tiles").replaceChildren(...fields.map((field) => field.element));
  fields.forEach(paint);
  part("none").hidden = fields.length > 0;
  part("confirm").disabled = !fields.length;
  at = 0;
  focus(0, false);
  count();
}

function paint(field) {
  field.element.classList.toggle("left", field.out);
  field.element.classList.toggle("clashed", field.clashed);
  field.layer.replaceChildren();
  for (const one of field.crops) {
    const k = Math.max(0, classes.indexOf(one.class));
    const name = make("b", "", one.gone ? "not there" : one.class);
    const unchanged = one.class === one.finding.class;
    const score = make("span", "", unchanged && !one.gone && one.finding.source === "model" ? one.finding.score.toFixed(2) : "");
    one.element.querySelector(".said").replaceChildren(...(one.gone ? [] : [chip(k)]), name, score);
    one.element.classList.toggle("changed", !unchanged && !one.gone);
    one.element.classList.toggle("gone", one.gone);
    one.element.setAttribute("aria-label", `${name.textContent}${field.out ? ", left out" : ""}`);
    if (one.gone || !one.finding.box) continue;
    const [x0, y0, x1, y1] = one.finding.box;
    field.layer.append(svg("rect", { x: x0, y: y0, width: x1 - x0, height: y1 - y0, stroke: colourOf(k), class: one === crops[at] ? "here" : "" }));
  }
}

function focus(i, scroll = true) {
  if (!crops.length) return;
  const before = crops[at];
  before?.element.removeAttribute("aria-current");
  at = Math.min(Math.max(i, 0), crops.length - 1);
  crops[at].element.setAttribute("aria-current", "true");
  if (before) paint(before.field);
  paint(crops[at].field);
  if (scroll) crops[at].element.scrollIntoView({ block: "nearest" });
}

/** The crop above or below: the nearest one of the next row of the screen. */
function vertical(way) {
  const here = crops[at].element.getBoundingClientRect();
  const others = crops.map((one, i) => ({ i, box: one.element.getBoundingClientRect() }))
    .filter(({ box }) => (way > 0 ? box.top >= here.bottom - 4 : box.bottom <= here.top + 4));
  if (!others.length) return;
  const far = ({ box }) => Math.abs(box.top - here.top) * 10 + Math.abs(box.left - here.left);
  focus(others.reduce((a, b) => (far(b) < far(a) ? b : a)).i);
}

const sure = (field) => !field.out && !field.clashed;

function count() {
  const kept = fields.filter(sure);
  const own = kept.flatMap((field) => field.crops);
  const said = [`${kept.length} of ${fields.length} images will be confirmed`];
  const [changed, gone] = [own.filter((one) => !one.gone && one.class !== one.finding.class), own.filter((one) => one.gone)];
  if (changed.length) said.push(`${changed.length} changed`);
  if (gone.length) said.push(`${gone.length} removed`);
  part("count").textContent = fields.length ? said.join(" · ") : "";
}

/** Change the crop that is chosen; its image counts again then, if it was left out. */
function change(work) {
  const one = crops[at];
  if (!one || busy || one.nothing) return;
  work(one);
  if (!one.field.many) one.field.out = one.field.clashed = false;
  paint(one.field);
  count();
}

const put = (name) => { change((one) => { one.class = name; one.gone = false; }); focus(at + 1); };
const remove = () => change((one) => { one.gone = !one.gone; });

function leave() {
  const { field } = crops[at] || {};
  if (!field || busy) return;
  if (field.many) toast("This image has too many findings for the grid: open it.");
  field.out = field.many || !field.out;
  if (!field.out) field.clashed = false;
  paint(field);
  count();
}

async function rows() {
  const { rows: all } = await get(`/api/queue?limit=${Math.min(500, PAGE + left.size)}`);
  return all.filter((row) => !left.has(row.id)).slice(0, PAGE);
}

async function confirm() {
  if (busy || !fields.length) return;
  const kept = fields.filter(sure);
  busy = true;
  try {
    if (kept.length) {
      const asked = kept.map(({ row, crops: own }) => [row.id, row.version, own.map((one) => (one.gone ? null : one.class))]);
      const { images } = await send("/api/confirm", { op: newName(), rows: asked }, lost);
      found();
      toast(`${images} images decided.`);
    }
    for (const field of fields) if (!sure(field)) left.add(field.row.id);
    show(await rows());
  } catch (error) {
    const stale = error instanceof Refused && error.status === 412 ? error.body.stale || [] : [];
    for (const { id, who, said } of stale) {
      const field = fields.find((one) => one.row.id === id);
      if (!field) continue;
      field.clashed = true;
      field.title.querySelector("span").textContent = ` ${who || "another"}: ${said}`;
      paint(field);
    }
    count();
    toast(stale.length ? `${error.message} Confirm again to decide the others.` : error.message, { bad: true });
  } finally {
    busy = false;
  }
}

async function back(way) {
  if (busy) return;
  busy = true;
  try {
    const { ids } = await send(`/api/${way}`, {}, lost);
    toast(`${way === "undo" ? "Taken back" : "Given again"}: ${ids.length} images.`);
    show(await rows());
  } catch (error) {
    toast(error.message, { bad: true });
  } finally {
    busy = false;
  }
}

addKeys([
  ...classes.slice(0, 10).map((name, k) => ({ keys: [String((k + 1) % 10)], says: name, run: () => put(name) })),
  { keys: ["Enter"], says: "confirm all images that are shown, next page", run: confirm },
  { keys: ["x", "Delete", "Backspace"], says: "this finding is not there", run: () => { remove(); focus(at + 1); } },
  { keys: [" ", "n"], says: "leave this image out", run: leave },
  { keys: ["ArrowLeft"], says: "go from finding to finding", run: () => focus(at - 1), repeats: true },
  { keys: ["ArrowRight"], run: () => focus(at + 1), repeats: true },
  { keys: ["ArrowUp"], run: () => vertical(-1), repeats: true },
  { keys: ["ArrowDown"], run: () => vertical(1), repeats: true },
  { keys: ["i"], says: "the image's own page", run: () => crops[at] && location.assign(`/image/${crops[at].field.row.id}`) },
  { keys: ["z", "Ctrl+z"], says: "undo the last page", run: () => back("undo") },
  { keys: ["y", "Ctrl+y", "Ctrl+Shift+z"], says: "redo", run: () => back("redo") },
]);

part("classes").append(...classes.map((name, k) => {
  const button = make("button");
  button.type = "button";
  button.append(chip(k), make("bdi", "", name));
  if (k < 10) button.append(kbd(String((k + 1) % 10)));
  button.addEventListener("click", () => {
    put(name);
    button.blur();
  });
  const row = make("li");
  row.append(button);
  return row;
}));
for (const button of page.querySelectorAll("[data-key]")) button.append(kbd(button.dataset.key));
const runs = { confirm, undo: () => back("undo") };
for (const button of page.querySelectorAll("[data-run]")) {
  button.addEventListener("click", () => {
    runs[button.dataset.run]();
    button.blur();
  });
}
show(start.rows);
