// Send images, show what is said of each, and hand out the table. Nothing is kept but in this page.

import { toast } from "./toast.js";

const page = document.querySelector("main.serve");
const start = JSON.parse(page.dataset.start);
const at = (id) => document.getElementById(id);
const CANNOT = "cannot tell";
// few at a time, so that answers appear while the rest is sent
const AT_ONCE = Math.min(8, start.files);
const rows = [];
let waiting = [];
let sent = 0;
let asked = 0;
let working = false;

function make(name, words = "", kind = "") {
  const made = document.createElement(name);
  if (words) made.textContent = words;
  if (kind) made.className = kind;
  return made;
}

const percent = (p) => (p > 0.9995 ? ">99.9%" : `${(100 * p).toFixed(1)}%`);

function blobOf(base64, kind) {
  const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
  return URL.createObjectURL(new Blob([bytes], { type: kind }));
}

// -- sending ----------------------------------------------------------------------------------

function parts() {
  // a video goes alone; images a few at a time, and never more than a request may hold
  const part = [waiting.shift()];
  let size = part[0].size;
  const alone = (file) => file.type.startsWith("video/");
  while (!alone(part[0]) && waiting.length && part.length < AT_ONCE) {
    if (alone(waiting[0]) || size + waiting[0].size > start.bytes * 0.9) break;
    size += waiting[0].size;
    part.push(waiting.shift());
  }
  return part;
}

async function ask(files) {
  const form = new FormData();
  for (const file of files) form.append("files", file, file.name);
  const refuse = (why) => files.map((file) => ({ file: file.name, error: why }));
  if (files.some((file) => file.size > start.bytes)) {
    return refuse(`${files[0].name} has more than the ${start.bytes.toLocaleString("en")} bytes that may be sent.`);
  }
  try {
    const response = await fetch("/v1/predict?preview=true", { method: "POST", body: form });
    const body = await response.json();
    if (response.status === 401) location.assign("/login");
    return Array.isArray(body) ? body : refuse(body.error || `The server answered ${response.status}.`);
  } catch {
    return refuse("The server does not answer.");
  }
}

/** Which file a row is about: rows come in the order of the files, a video has several. */
function matched(files, answers) {
  let place = 0;
  return answers.map((row, i) => {
    const before = answers[i - 1];
    const same = before && before.file === row.file && (("frame" in before && "frame" in row) || "note" in row);
    if (before && !same) place += 1;
    return { ...row, from: files[Math.min(place, files.length - 1)] };
  });
}

async function work() {
  if (working) return;
  working = true;
  at("busy").hidden = false;
  while (waiting.length) {
    tell();
    const files = parts();
    for (const row of matched(files, await ask(files))) add(row);
    sent += files.length;
  }
  working = false;
  at("busy").hidden = true;
  sent = asked = 0;
}

function tell() {
  at("progress").max = asked;
  at("progress").value = sent;
  at("busy-words").textContent = `${sent} of ${asked}`;
}

function take(files) {
  if (!files.length) return;
  asked += files.length;
  waiting = waiting.concat([...files]);
  work();
}

// -- showing ----------------------------------------------------------------------------------

function says(verdict, kind, what) {
  const line = make("div", "", `says ${verdict.label === CANNOT ? "unsure" : kind}`);
  line.append(make("b", verdict.label), make("span", percent(verdict.probability)));
  const level = make("progress", "", "level");
  level.max = 1;
  level.value = verdict.probability;
  level.setAttribute("aria-label", `${what}: ${verdict.likeliest} ${percent(verdict.probability)}`);
  line.append(level);
  if (verdict.label === CANNOT) line.append(make("small", `likeliest: ${verdict.likeliest}`));
  return line;
}

function add(row) {
  rows.push(row);
  const card = make("li");
  const when = "time" in row ? `, ${row.time.toFixed(1)} s` : "";
  const name = make("p", row.file + when, "file");
  name.title = row.file + when;
  const why = row.error || row.note;
  if (why) {
    card.className = "refused";
    card.append(name, make("p", why, "why"));
  } else {
    const shot = make("img", "", "shot");
    shot.alt = "";
    shot.src = blobOf(row.preview, "image/jpeg");
    delete row.preview;
    card.append(shot, name);
    if (row.quality) card.append(says(row.quality, row.quality.label === "good" ? "good-one" : "bad-one", "quality"));
    if (row.prediction) {
      card.append(says(row.prediction, "", "class"));
      if (start.maps) {
        const look = make("button", "Where it looked", "look");
        look.type = "button";
        look.addEventListener("click", () => map(row));
        card.append(look);
      }
    }
  }
  at("rows").append(card);
  at("found").hidden = false;
  count();
}

function count() {
  const told = new Map([["images", 0]]);
  const more = (name) => told.set(name, (told.get(name) || 0) + 1);
  for (const row of rows) {
    if (row.note) continue;
    if (row.error) { more("refused"); continue; }
    more("images");
    const unsure = row.quality?.label === CANNOT || row.prediction?.label === CANNOT;
    if (unsure) more(CANNOT);
    else if (!row.prediction) more(row.quality.label);
    else more(row.prediction.label);
  }
  const last = ["bad", CANNOT, "refused"];
  const order = ([name]) => (name === "images" ? -1 : last.indexOf(name) + 1);
  at("tally").replaceChildren(...[...told].sort((a, b) => order(a) - order(b)).map(([name, n]) => {
    const one = make("div");
    one.append(make("dt", name), make("dd", String(n)));
    return one;
  }));
}

async function map(row) {
  const form = new FormData();
  form.append("files", row.from, row.from.name);
  const query = "frame" in row ? `?frame=${row.frame}` : "";
  toast("Looking…", { stays: true });
  try {
    const response = await fetch(`/v1/activation${query}`, { method: "POST", body: form });
    if (!response.ok) throw new Error((await response.json()).error);
    at("map-picture").src = URL.createObjectURL(await response.blob());
    at("map-name").textContent = `${row.file}: ${row.prediction.likeliest}, ${percent(row.prediction.probability)}`;
    at("map").showModal();
    toast("");
  } catch (error) {
    toast(error.message || "The server does not answer.", { bad: true });
  }
}

// -- the table --------------------------------------------------------------------------------

/** As medloop writes tables: what a spreadsheet would run gets an apostrophe. */
function cell(value) {
  let text = value === undefined || value === null ? "" : String(value);
  if (typeof value === "string" && /^['=+\-@\t\r]/.test(text)) text = `'${text}`;
  return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

function table() {
  const qualities = start.quality ? ["quality", "p_quality"] : [];
  const head = ["file", "frame", "time", ...qualities, "label", "score", ...start.classes.map((name) => `p_${name}`), "error"];
  const lines = rows.map((row) => [
    row.file, row.frame, row.time,
    ...(start.quality ? [row.quality?.label, row.quality?.probability] : []),
    row.prediction?.label, row.prediction?.probability,
    ...start.classes.map((name) => row.prediction?.probs[name]),
    row.error || row.note,
  ]);
  return [head, ...lines].map((line) => line.map(cell).join(",")).join("\n") + "\n";
}

at("table").addEventListener("click", () => {
  const link = make("a");
  link.href = URL.createObjectURL(new Blob([table()], { type: "text/csv" }));
  link.download = "labels.csv";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
});

at("clear").addEventListener("click", () => {
  for (const shot of document.querySelectorAll(".shot")) URL.revokeObjectURL(shot.src);
  rows.length = 0;
  at("rows").replaceChildren();
  at("found").hidden = true;
});

at("map-close").addEventListener("click", () => at("map").close());

// -- what people do ---------------------------------------------------------------------------

for (const id of ["choose", "camera", "film"]) {
  at(id).addEventListener("change", (event) => {
    take(event.target.files);
    event.target.value = "";
  });
}
const drop = at("drop");
drop.addEventListener("submit", (event) => event.preventDefault());
for (const name of ["dragenter", "dragover"]) {
  document.addEventListener(name, (event) => {
    event.preventDefault();
    drop.classList.add("over-it");
  });
}
document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) drop.classList.remove("over-it"); });
document.addEventListener("drop", (event) => {
  event.preventDefault();
  drop.classList.remove("over-it");
  take(event.dataTransfer.files);
});
document.addEventListener("paste", (event) => take(event.clipboardData.files));
