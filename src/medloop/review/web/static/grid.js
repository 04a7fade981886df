// Dozens at a time: look over a page of small pictures, correct what is wrong, confirm the rest.

import { get, newName, Refused, send } from "./api.js";
import { addKeys, kbd, keyName } from "./keys.js";
import { chip } from "./palette.js";
import { found, lost, toast } from "./toast.js";

const page = document.querySelector(".grid-page");
const part = (name) => page.querySelector(`[data-at="${name}"]`);
const start = JSON.parse(page.dataset.start);
const { classes } = start;
const PAGE = start.page;

let tiles = [];
let at = 0;
let busy = false;
const left = new Set();
let ahead = null;

function tileOf(row) {
  return { row, class: row.class, element: null, out: false, clashed: false };
}

function show(rows) {
  tiles = rows.map(tileOf);
  at = 0;
  part("tiles").replaceChildren(...tiles.map((tile, i) => {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "tile";
    const image = document.createElement("img");
    image.src = `/picture/${tile.row.id}/small`;
    image.alt = "";
    image.decoding = "async";
    const said = document.createElement("div");
    said.className = "said";
    button.append(image, said);
    button.addEventListener("click", () => {
      if (at === i && !busy) leave();
      focus(i);
      button.blur();
    });
    button.addEventListener("dblclick", () => location.assign(`/image/${tile.row.id}`));
    tile.element = button;
    paint(tile);
    return button;
  }));
  part("none").hidden = tiles.length > 0;
  part("confirm").disabled = !tiles.length;
  focus(0, false);
  count();
  fetchAhead();
}

function paint(tile) {
  const said = tile.element.querySelector(".said");
  const name = document.createElement("b");
  name.textContent = tile.class ?? "nothing found";
  const score = document.createElement("span");
  const unchanged = tile.class === tile.row.class;
  score.textContent = unchanged && !start.several && tile.row.score != null ? tile.row.score.toFixed(2) : "";
  said.replaceChildren(...(tile.class === null || start.several ? [] : [chip(Math.max(0, classes.indexOf(tile.class)))]), name, score);
  tile.element.classList.toggle("changed", !unchanged);
  tile.element.classList.toggle("left", tile.out);
  tile.element.classList.toggle("clashed", tile.clashed);
  const state = tile.clashed ? ", changed by another" : tile.out ? ", left out" : unchanged ? "" : ", changed";
  tile.element.setAttribute("aria-label", `${name.textContent}${state}`);
}

function focus(i, scroll = true) {
  if (!tiles.length) return;
  tiles[at]?.element.removeAttribute("aria-current");
  at = Math.min(Math.max(i, 0), tiles.length - 1);
  tiles[at].element.setAttribute("aria-current", "true");
  if (scroll) tiles[at].element.scrollIntoView({ block: "nearest" });
}

function columns() {
  if (tiles.length < 2) return 1;
  const top = tiles[0].element.offsetTop;
  const second = tiles.findIndex((tile) => tile.element.offsetTop > top);
  return second < 0 ? tiles.length : second;
}

const sure = (tile) => !tile.out && !tile.clashed && tile.class !== null;

function count() {
  const kept = tiles.filter(sure);
  const changed = kept.filter((tile) => tile.class !== tile.row.class).length;
  const out = tiles.length - kept.length;
  const said = [`${kept.length} of ${tiles.length} will be confirmed`];
  if (changed) said.push(`${changed} changed`);
  if (out) said.push(`${out} left out`);
  part("count").textContent = tiles.length ? said.join(" · ") : "";
}

function put(name) {
  const tile = tiles[at];
  if (!tile || busy) return;
  tile.class = start.several ? toggled(tile.class, name) : name;
  tile.out = tile.clashed = false;
  paint(tile);
  count();
  if (!start.several) focus(at + 1);
}

/** An image may hold several findings: joined by semicolons, or "none". */
function toggled(held, name) {
  const names = new Set(held && held !== "none" ? held.split(";") : []);
  if (!names.delete(name)) names.add(name);
  return classes.filter((one) => names.has(one)).join(";") || "none";
}

function leave() {
  const tile = tiles[at];
  if (!tile || busy) return;
  tile.out = !tile.out;
  paint(tile);
  count();
}

async function rows() {
  const found = await get(`/api/queue?limit=${PAGE + left.size}`);
  return found.rows.filter((row) => !left.has(row.id)).slice(0, PAGE);
}

/** Have the small pictures of the next page at hand. */
function fetchAhead() {
  const here = new Set(tiles.map((tile) => tile.row.id));
  ahead = get(`/api/queue?limit=${PAGE}&offset=${PAGE + left.size}`).then((found) => {
    for (const row of found.rows.filter((one) => !here.has(one.id))) new Image().src = `/picture/${row.id}/small`;
  }).catch(() => {});
}

async function confirm() {
  if (busy || !tiles.length) return;
  const kept = tiles.filter(sure);
  busy = true;
  try {
    if (kept.length) {
      const body = { op: newName(), rows: kept.map((tile) => [tile.row.id, tile.row.version, tile.class]) };
      const { images } = await send("/api/confirm", body, lost);
      found();
      toast(`${images} images decided.`);
    }
    for (const tile of tiles) if (!sure(tile)) left.add(tile.row.id);
    show(await rows());
  } catch (error) {
    if (error instanceof Refused && error.status === 412) {
      for (const stale of error.body.stale || []) {
        const tile = tiles.find((one) => one.row.id === stale.id);
        if (!tile) continue;
        tile.clashed = true;
        paint(tile);
        tile.element.querySelector("b").textContent = `${stale.who || "another"}: ${stale.said}`;
      }
      count();
      toast(`${error.message} Confirm again to decide the others.`, { bad: true });
    } else {
      toast(error.message, { bad: true });
    }
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
  { keys: ["Enter"], says: "confirm all that are shown, next page", run: confirm },
  { keys: [" ", "n"], says: "leave this one out", run: () => { leave(); } },
  { keys: ["ArrowLeft"], says: "go from picture to picture", run: () => focus(at - 1), repeats: true },
  { keys: ["ArrowRight"], run: () => focus(at + 1), repeats: true },
  { keys: ["ArrowUp"], run: () => focus(at - columns()), repeats: true },
  { keys: ["ArrowDown"], run: () => focus(at + columns()), repeats: true },
  { keys: ["i"], says: "the image's own page", run: () => tiles[at] && location.assign(`/image/${tiles[at].row.id}`) },
  { keys: ["z", "Ctrl+z"], says: "undo the last page", run: () => back("undo") },
  { keys: ["y", "Ctrl+y", "Ctrl+Shift+z"], says: "redo", run: () => back("redo") },
]);

part("classes").append(...classes.map((name, k) => {
  const button = document.createElement("button");
  button.type = "button";
  const label = document.createElement("bdi");
  label.textContent = name;
  button.append(chip(k), label);
  if (k < 10) button.append(kbd(String((k + 1) % 10)));
  button.addEventListener("click", () => {
    put(name);
    button.blur();
  });
  const row = document.createElement("li");
  row.append(button);
  return row;
}));
for (const button of page.querySelectorAll("[data-key]")) {
  const key = document.createElement("kbd");
  key.textContent = keyName(button.dataset.key);
  button.append(key);
}
const runs = { confirm, undo: () => back("undo") };
for (const button of page.querySelectorAll("[data-run]")) {
  button.addEventListener("click", () => {
    runs[button.dataset.run]();
    button.blur();
  });
}
show(start.rows);
