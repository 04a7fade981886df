// One image at a time: the audit, the queue, and an image's own page.

import { get, letGo, newName, Refused, send } from "./api.js";
import { Editor } from "./editor.js";
import { addKeys, kbd, keyName } from "./keys.js";
import { chip } from "./palette.js";
import { Sheet } from "./sheet.js";
import { found, lost, toast } from "./toast.js";
import { picture, Viewer } from "./viewer.js";

/** Images that are held ready. */
const AHEAD = 4;

const page = document.querySelector(".bench");
const part = (name) => page.querySelector(`[data-at="${name}"]`);
const { kind } = page.dataset;
const start = JSON.parse(page.dataset.start);
const classes = start.classes;
const { places, several } = start;
const objectWork = places.length > 0;

const stage = page.querySelector(".stage");
const viewer = new Viewer(stage);
const editor = new Editor(stage, viewer, { classes, places, changed });

let now = null;
let held = start.item ? [entry(start.item)] : [];
let finished = false;
let fetching = null;
const waiting = new Set();
let chain = Promise.resolve();

/** Ask one thing after the other: what is held and what is answered must not cross on the way. */
function inOrder(work) {
  const done = chain.then(work);
  chain = done.catch(() => {});
  return done;
}

function entry(item) {
  return { item, sheet: new Sheet(item.findings, [item.height, item.width]), began: 0, clash: null };
}

const objects = () => Boolean(now) && (objectWork || now.sheet.hasObjects || now.item.skeleton !== null);

// -- fetching ahead ------------------------------------------------------------------------------

function fill() {
  if (kind === "image" || finished || fetching || held.length >= AHEAD) return fetching;
  fetching = (async () => {
    try {
      while (held.length < AHEAD && !finished) {
        const { item } = await inOrder(next);
        found();
        if (!item) finished = true;
        else held.push(entry(item));
        if (item) picture(item.id).catch(() => {});
      }
    } catch (error) {
      finished = true;
      toast(error.message, { bad: true });
    } finally {
      fetching = null;
    }
  })();
  return fetching;
}

function next() {
  const holding = [now, ...held, ...waiting].filter(Boolean).map((one) => one.item.id);
  return send("/api/next", { kind, holding }, lost);
}

async function onward() {
  now = held.shift() || null;
  if (!now) {
    if (!finished) await fill();
    if (waiting.size && !held.length) {
      await chain;
      finished = false;
      await fill();
    }
    now = held.shift() || null;
  }
  await show();
  fill();
}

// -- showing -------------------------------------------------------------------------------------

async function show() {
  page.classList.toggle("nothing", !now);
  part("done").hidden = Boolean(now);
  for (const name of ["about", "foot"]) part(name).hidden = !now;
  showObjects();
  showClash();
  if (!now) {
    editor.sheet = null;
    viewer.id = null;
    viewer.canvas.width = viewer.canvas.height = 1;
    editor.redraw();
    stage.dataset.item = "";
    return;
  }
  const { item, sheet } = now;
  part("title").textContent = item.file;
  part("under").textContent = about(item);
  part("comment").value = sheet.comment;
  editor.class = (item.suggestion?.[0] || item.findings[0])?.class || classes[0];
  showClasses();
  showHistory();
  showOverlays();
  await viewer.show(item.id, item.height, item.width);
  if (now?.item !== item) return;
  editor.open(sheet, { others: item.others, proposed: item.proposed, skeleton: item.skeleton });
  now.began = performance.now();
  stage.dataset.item = item.id;
}

function about(item) {
  const said = [];
  if (item.height) said.push(`${item.width} × ${item.height} pixels`);
  if (item.blind) said.push("the machine's answer is hidden");
  else if (item.probability_wrong != null) said.push(`wrong with probability ${percent(item.probability_wrong)}, says the machine`);
  if (item.decided) said.push("decided by a person");
  if (item.proposed.length) said.push("the machine would place a person's points elsewhere");
  return said.join(" · ");
}

const percent = (value) => `${(100 * value).toFixed(value < 0.1 ? 1 : 0)}%`;

function showClasses() {
  const probs = several
    ? Object.fromEntries((now?.item.suggestion || []).map((one) => [one.class, one.score]))
    : now?.item.suggestion?.[0]?.probs || {};
  const there = new Set(several ? now?.sheet.findings.map((one) => one.class) : []);
  const chosen = objects() ? (now.sheet.one?.class ?? editor.class) : now?.sheet.findings[0]?.class;
  const wanted = part("filter").value.trim().toLowerCase();
  part("classes").replaceChildren(...classes.flatMap((name, k) => {
    if (wanted && !name.toLowerCase().includes(wanted)) return [];
    const button = document.createElement("button");
    button.type = "button";
    button.setAttribute("aria-pressed", String(several ? there.has(name) : name === chosen));
    const label = document.createElement("bdi");
    label.className = "name";
    label.textContent = name;
    button.append(chip(k), label);
    if (!objects() && probs[name] != null) {
      const score = document.createElement("span");
      score.className = "score";
      score.textContent = percent(probs[name]);
      button.append(score);
    }
    if (k < 10) button.append(kbd(String((k + 1) % 10)));
    button.addEventListener("click", () => classKey(name));
    const row = document.createElement("li");
    row.append(button);
    return [row];
  }));
  part("class-title").textContent = objects() ? (now.sheet.one ? "Class of the chosen object" : "Class of the next object") : several ? "Findings" : "Class";
}

function showObjects() {
  const on = objects();
  part("objects-box").hidden = !on;
  for (const button of page.querySelectorAll("[data-objects]")) button.hidden = !on && !button.dataset.always;
  part("confirm-words").textContent = confirmWords();
  if (!on) return;
  const { sheet } = now;
  part("objects").replaceChildren(...sheet.findings.map((one, i) => {
    const button = document.createElement("button");
    button.type = "button";
    button.setAttribute("aria-pressed", String(i === sheet.chosen));
    const name = document.createElement("bdi");
    name.className = "name";
    name.textContent = one.class;
    const score = document.createElement("span");
    score.className = "score";
    const what = ["box", "keypoints", "mask"].filter((each) => one[each]).join(", ").replace("keypoints", "points");
    score.textContent = `${what || "no place"}${one.source === "model" && one.score != null ? ` · ${one.score.toFixed(2)}` : ""}`;
    button.append(chip(editor.number(one.class)), name, score);
    button.addEventListener("click", () => editor.choose(i));
    const row = document.createElement("li");
    row.append(button);
    return row;
  }));
  part("count").textContent = sheet.findings.length ? String(sheet.findings.length) : "none";
}

function confirmWords() {
  if (!now) return "Confirm";
  if (now.clash) return "Keep mine";
  const { sheet } = now;
  const onward = kind === "image" ? "" : ", next";
  if (objects()) return sheet.findings.length ? `${sheet.changed ? "Save" : "Confirm"}${onward}` : `Nothing here${onward}`;
  if (several) {
    const count = sheet.findings.length;
    return `${sheet.changed ? "Save" : "Confirm"} ${count ? `${count} finding${count > 1 ? "s" : ""}` : "none"}${onward}`;
  }
  return sheet.findings.length ? `${sheet.changed ? "Save" : "Confirm"} ${short(sheet.findings[0].class)}${onward}` : "Choose a class";
}

const short = (text) => (text.length > 22 ? `${text.slice(0, 21)}…` : text);

function showHistory() {
  const { history } = now.item;
  part("history-box").hidden = !history.length;
  part("history").replaceChildren(...history.slice().reverse().map((event) => {
    const row = document.createElement("li");
    const person = !event.findings.length || event.findings[0].source !== "model";
    row.className = person ? "human" : "model";
    const what = document.createElement("b");
    what.textContent = event.withdrawn ? "taken back" : described(event.findings);
    const who = document.createElement("span");
    who.className = "quiet";
    const did = { round: "", answers: "answer", given: "given at the start", undo: event.withdrawn ? "" : "undo" }[event.what] ?? event.what;
    const parts = [event.who, did, person ? "" : `round ${event.round}`, when(event.when)];
    who.textContent = parts.filter(Boolean).join(" · ");
    row.append(what, who);
    if (event.comment) {
      const said = document.createElement("q");
      said.textContent = event.comment;
      row.append(said);
    }
    return row;
  }));
}

function described(findings) {
  if (!findings.length) return "nothing here";
  const counts = new Map();
  for (const one of findings) counts.set(one.class, (counts.get(one.class) || 0) + 1);
  const said = [...counts].map(([name, count]) => (count > 1 ? `${count} × ${name}` : name)).join(", ");
  const sure = findings.length === 1 && findings[0].source === "model" ? ` ${findings[0].score.toFixed(2)}` : "";
  return said + sure;
}

const when = (text) => {
  const time = new Date(text);
  return Number.isNaN(time.getTime()) ? "" : time.toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
};

function showOverlays() {
  const { item } = now;
  const box = part("overlays");
  const others = item.others.length > 0;
  box.querySelector("[data-layer=others]").parentElement.hidden = !others;
  const names = item.others.map((one) => `${one.who}: ${described(one.findings)}`).join("; ");
  box.querySelector("[data-at=other-names]").textContent = names;
  const activation = box.querySelector("[data-layer=activation]");
  activation.parentElement.hidden = !start.activation || item.blind;
  editor.shown.others = others && box.querySelector("[data-layer=others]").checked;
  const proposed = item.proposed.length > 0;
  box.querySelector("[data-layer=proposed]").parentElement.hidden = !proposed;
  editor.shown.proposed = proposed && box.querySelector("[data-layer=proposed]").checked;
  showActivation();
}

function showActivation() {
  const image = stage.querySelector(".activation");
  const on = part("overlays").querySelector("[data-layer=activation]").checked && start.activation && now && !now.item.blind;
  image.hidden = !on;
  if (on) image.src = `/picture/${now.item.id}/activation`;
}

viewer.watch(() => {
  const image = stage.querySelector(".activation");
  image.style.transform = `translate(${viewer.x}px, ${viewer.y}px)`;
  image.style.width = `${viewer.width * viewer.scale}px`;
  image.style.height = `${viewer.height * viewer.scale}px`;
  const said = [`${Math.round(viewer.scale * 100)}%`];
  if (viewer.deep && viewer.level) {
    const { from, to } = viewer.level;
    const digits = viewer.deep.high - viewer.deep.low > 20 ? 0 : 3;
    said.push(`level ${((from + to) / 2).toFixed(digits)}, window ${(to - from).toFixed(digits)}`);
  }
  const note = part("view");
  note.replaceChildren(...said.map((words) => {
    const span = document.createElement("span");
    span.textContent = words;
    return span;
  }));
});

function changed(what, words) {
  if (what === "said") {
    if (words) toast(words);
    return;
  }
  showObjects();
  showClasses();
}

// -- answering -----------------------------------------------------------------------------------

function classKey(name) {
  if (!now || stage.dataset.item !== now.item.id) return;
  if (objects()) {
    editor.setClass(name);
    showClasses();
    return;
  }
  now.sheet.keep();
  if (several) {
    const at = now.sheet.findings.findIndex((one) => one.class === name);
    if (at < 0) now.sheet.findings.push({ class: name });
    else now.sheet.findings.splice(at, 1);
    changed("edited");
    return;
  }
  now.sheet.findings = [{ class: name }];
  if (now.clash) now.clash = null;
  answer();
}

function answer() {
  if (!now) return;
  const { item, sheet } = now;
  // nobody answers for what was not on the screen
  if (stage.dataset.item !== item.id || waiting.has(now)) return;
  if (!objects() && !several && !sheet.findings.length) {
    toast("Choose a class: press its key.");
    return;
  }
  editor.finishPolygon();
  const own = now;
  own.clash = null;
  const body = {
    op: newName(),
    id: item.id,
    findings: sheet.plain(places),
    base: item.version,
    kind: kind !== "image" ? kind : item.kind === "audit" ? "audit" : "edit",
    comment: part("comment").value,
    seconds: Math.min(86400, (performance.now() - own.began) / 1000),
  };
  waiting.add(own);
  tellWaiting();
  inOrder(() => deliver(own, body));
  if (kind !== "image") onward();
}

async function deliver(own, body) {
  try {
    const said = await send("/api/answer", body, lost);
    found();
    waiting.delete(own);
    stage.dataset.seq = said.seq;
    showClaim(said.certificate);
    if (kind === "image") {
      toast("Saved.");
      await reopen(own.item.id);
    }
  } catch (error) {
    waiting.delete(own);
    await refused(own, error);
  } finally {
    tellWaiting();
  }
}

async function refused(own, error) {
  if (error instanceof Refused && error.status === 412 && error.body.item) {
    own.clash = error.body;
    own.item = { ...own.item, version: error.body.item.version, others: error.body.item.others, history: error.body.item.history };
  }
  toast(error.message, { bad: true });
  if (now !== own) {
    if (now) {
      now.sheet.comment = part("comment").value;
      held.unshift(now);
    }
    now = own;
    await show();
  } else {
    showClash();
    showOverlays();
    showHistory();
  }
}

function showClash() {
  const box = part("clash");
  box.hidden = !now?.clash;
  part("confirm-words").textContent = confirmWords();
  if (!now?.clash) return;
  const { item, who } = now.clash;
  part("clash-words").textContent =
    `${who || "Somebody else"} answered this image while you looked at it: ${described(item.findings)}. Yours was ${described(now.sheet.findings)}.`;
  if (item.findings.some((one) => one.box || one.keypoints)) {
    now.item.others = [{ who: who || "other", findings: item.findings }];
    part("overlays").querySelector("[data-layer=others]").checked = true;
    editor.others = now.item.others;
    editor.shown.others = true;
    editor.draw();
  }
}

async function takeTheirs() {
  if (!now?.clash) return;
  const { item } = now.clash;
  now.clash = null;
  if (kind === "image") {
    await reopen(item.id);
    return;
  }
  await onward();
}

async function reopen(id) {
  const { item } = await get(`/api/item/${id}`);
  now = entry(item);
  await show();
}

function tellWaiting() {
  part("waiting").textContent = waiting.size ? `${waiting.size} being saved` : "";
  page.dataset.waiting = waiting.size;
}

// -- undo ----------------------------------------------------------------------------------------

async function back(way) {
  if (now && (way === "undo" ? now.sheet.undo() : now.sheet.redo())) {
    editor.redraw();
    changed("edited");
    return;
  }
  try {
    // nothing is fetched ahead in between: it would take the place that was just opened again
    const { ids, certificate, place } = await inOrder(async () => {
      const said = await send(`/api/${way}`, {}, lost);
      return { ...said, place: way === "undo" && kind === "audit" ? (await next()).item : null };
    });
    found();
    toast(way === "undo" ? "Taken back." : "Given again.");
    showClaim(certificate);
    if (way === "redo" && kind !== "image") {
      // it was on the screen again, or waits in the row: it is answered now
      await fetching;
      const same = (one) => one && (kind === "audit" ? one.again : ids.includes(one.item.id));
      held = held.filter((one) => !same(one));
      if (same(now)) await onward();
      return;
    }
    const id = ids.at(-1);
    const item = kind === "audit" ? place : id ? (await get(`/api/item/${id}`)).item : null;
    if (!item) return;
    const again = held.findIndex((one) => one.item.id === item.id);
    if (again >= 0) held.splice(again, 1);
    if (kind === "image" && now?.item.id !== item.id) return;
    if (now && kind !== "image" && now.item.id !== item.id) held.unshift(now);
    now = entry(item);
    now.again = true;
    finished = false;
    await show();
  } catch (error) {
    toast(error.message, { bad: true });
  }
}

async function leaveOut() {
  if (!now || kind !== "fix") return;
  const { id } = now.item;
  inOrder(() => send("/api/release", { ids: [id] }, lost)).then(found, (error) => toast(error.message, { bad: true }));
  await onward();
}

addEventListener("pagehide", () => {
  // in the audit they go back; in the queue that would mean "not for me", so their lease runs out
  const ids = [now, ...held].filter(Boolean).map((one) => one.item.id);
  if (ids.length && kind === "audit") letGo(ids);
});
addEventListener("beforeunload", (event) => {
  if (waiting.size) event.preventDefault();
});

// -- the certificate -----------------------------------------------------------------------------

function showClaim(audit) {
  const box = part("claim");
  if (!box || !audit) return;
  box.classList.toggle("good", audit.may_stop);
  part("claim-title").textContent = audit.may_stop ? "You may stop" : "Not yet certified";
  part("claim-words").textContent = audit.sentence;
  const left = audit.may_stop ? 0 : audit.more_checks;
  const share = audit.may_stop ? 1 : left == null ? 0 : audit.counted / Math.max(1, audit.counted + left);
  part("track").style.width = `${100 * share}%`;
  const said = [`${audit.answered} answered`];
  if (!audit.may_stop && left != null) said.push(`about ${left} more`);
  part("claim-count").textContent = said.join(" · ");
  part("finish").hidden = !audit.may_stop;
}

async function finishAudit() {
  if (kind !== "audit" || part("finish").hidden) return;
  try {
    await inOrder(() => send("/api/audit/finish", {}, lost));
    location.assign("/");
  } catch (error) {
    toast(error.message, { bad: true });
  }
}

// -- keys ----------------------------------------------------------------------------------------

const tools = [
  ["v", "select", "choose and move"], ["b", "box", "draw a box"], ["k", "points", "set points"],
  ["p", "polygon", "mask by polygon"], ["r", "brush", "mask by brush"], ["e", "erase", "rub out a mask"], ["w", "window", "drag: window and level"],
];

function setTool(tool) {
  editor.setTool(tool);
  for (const button of page.querySelectorAll("[data-tool-button]")) {
    button.setAttribute("aria-pressed", String(button.dataset.toolButton === tool));
  }
  if (["polygon", "brush", "erase"].includes(tool) && editor.tooLarge) toast("This image is too large for masks.");
  if (tool === "points" && !now?.item.skeleton) toast("This workspace has no points.");
}

function layer(name) {
  const box = part("overlays").querySelector(`[data-layer=${name}]`);
  if (box.parentElement.hidden) return;
  box.checked = !box.checked;
  box.dispatchEvent(new Event("change"));
}

const STEPS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const ARROWS = Object.keys(STEPS);

function move({ key }, grow) {
  if (!now) return;
  const [dx, dy] = STEPS[key];
  if (!editor.nudge(dx, dy, grow)) viewer.pan(-dx * 40, -dy * 40);
}

function step(by) {
  const { sheet } = now || {};
  if (!sheet?.findings.length) return;
  editor.choose((sheet.chosen + by + sheet.findings.length) % sheet.findings.length);
}

const addWindow = (shift, widen) => viewer.changeWindow(shift, widen).catch((error) => error.message && toast(error.message));
const on = () => objects();
// elsewhere Tab goes from button to button, as everywhere
const free = () => objects() && document.activeElement === document.body;

addKeys([
  ...classes.slice(0, 10).map((name, k) => ({
    keys: [String((k + 1) % 10)], says: objectWork ? `class ${name}` : several ? `${name}: there or not` : `${name}${kind === "image" ? "" : ", next"}`, run: () => classKey(name),
  })),
  { keys: ["/"], says: "find a class", run: () => part("filter").focus(), when: () => !part("filter").hidden },
  { keys: ["Enter", "s"], says: kind === "image" ? "save" : "confirm, next", run: answer },
  ...(kind === "fix" ? [{ keys: ["n"], says: "leave out, next", run: leaveOut }] : []),
  ...(kind === "audit" ? [{ keys: ["Shift+Enter"], says: "finish the audit", run: finishAudit }] : []),
  { keys: ["z", "Ctrl+z"], says: "undo, also the last answer", run: () => back("undo") },
  { keys: ["y", "Ctrl+y", "Ctrl+Shift+z"], says: "redo", run: () => back("redo") },
  { keys: ["c"], says: "comment (Esc ends it)", run: () => part("comment").focus() },
  ...tools.map(([key, tool, says]) => ({ keys: [key], says, run: () => setTool(tool) })),
  { keys: ["Shift+b"], says: "a box in the middle", run: () => now && editor.addBox(null) },
  { keys: ["Tab"], says: "next object", run: () => step(1), when: free },
  { keys: ["Shift+Tab"], says: "object before", run: () => step(-1), when: free },
  { keys: ["x", "Delete", "Backspace"], says: "remove the object", run: remove, when: on },
  { keys: ["q"], says: "nothing here: remove all", run: removeAll, when: () => several || objects() },
  { keys: ARROWS, says: "move it, or the picture", run: (event) => move(event, false), repeats: true },
  { keys: ARROWS.map((key) => `Shift+${key}`), says: "change the size of the box", run: (event) => move(event, true), repeats: true },
  { keys: [","], says: "point before", run: () => editor.choosePoint(-1), when: on },
  { keys: ["."], says: "next point", run: () => editor.choosePoint(1), when: on },
  { keys: ["h"], says: "hide the point, show it", run: () => editor.hidePoint(), when: on },
  { keys: ["["], says: "smaller brush", run: () => brush(0.8), repeats: true },
  { keys: ["]"], says: "larger brush", run: () => brush(1.25), repeats: true },
  { keys: ["+", "="], says: "zoom in", run: () => viewer.zoom(1.25), repeats: true },
  { keys: ["-"], says: "zoom out", run: () => viewer.zoom(0.8), repeats: true },
  { keys: ["f"], says: "fit the picture", run: () => viewer.fit() },
  { keys: ["l"], says: "lighter", run: () => addWindow(-0.08, 0), repeats: true },
  { keys: ["d"], says: "darker", run: () => addWindow(0.08, 0), repeats: true },
  { keys: ["j"], says: "more contrast", run: () => addWindow(0, -0.12), repeats: true },
  { keys: ["u"], says: "less contrast", run: () => addWindow(0, 0.14), repeats: true },
  { keys: ["Shift+w"], says: "window as it was", run: () => viewer.resetWindow() },
  { keys: ["m"], says: "show and hide the marks", run: () => layer("marks") },
  { keys: ["o"], says: "show what others said", run: () => layer("others") },
  ...(kind !== "audit" ? [{ keys: ["g"], says: "show where the machine would place it", run: () => layer("proposed") }] : []),
  ...(start.activation ? [{ keys: ["a"], says: "show the activation map", run: () => layer("activation") }] : []),
  ...(kind === "fix" ? [{ keys: ["i"], says: "the image's own page", run: () => now && location.assign(`/image/${now.item.id}`) }] : []),
  { keys: ["t"], says: "another answered meanwhile: take theirs", run: takeTheirs, when: () => Boolean(now?.clash) },
  { keys: ["Escape"], says: "end a polygon, choose nothing; home", run: escape },
]);

function escape() {
  if (editor.draft) {
    editor.draft = null;
    editor.draw();
  } else if (now?.sheet.chosen >= 0 && objects()) {
    editor.choose(-1);
  } else {
    location.assign("/");
  }
}

function remove() {
  if (now?.sheet.remove()) {
    editor.redraw();
    changed("edited");
  }
}

function removeAll() {
  if (!now?.sheet.findings.length) return;
  now.sheet.keep();
  now.sheet.findings = [];
  now.sheet.chosen = -1;
  editor.redraw();
  changed("edited");
}

function brush(factor) {
  editor.brush = Math.min(150, Math.max(1.5, editor.brush * factor));
  editor.draw();
}

// -- buttons -------------------------------------------------------------------------------------

const runs = {
  confirm: answer, undo: () => back("undo"), redo: () => back("redo"), leave: leaveOut, finish: finishAudit, theirs: takeTheirs,
  mine: answer, remove, nothing: removeAll, "new-box": () => now && editor.addBox(null), fit: () => viewer.fit(),
  "zoom-in": () => viewer.zoom(1.25), "zoom-out": () => viewer.zoom(0.8), "hide-point": () => editor.hidePoint(),
  "reset-window": () => viewer.resetWindow(),
};
for (const button of page.querySelectorAll("[data-run]")) {
  button.addEventListener("click", () => {
    runs[button.dataset.run]();
    button.blur();
  });
}
for (const button of page.querySelectorAll("[data-tool-button]")) {
  button.addEventListener("click", () => {
    setTool(button.dataset.toolButton);
    button.blur();
  });
}
for (const button of page.querySelectorAll("[data-key]")) {
  const key = document.createElement("kbd");
  key.textContent = keyName(button.dataset.key);
  button.append(key);
}
for (const box of part("overlays").querySelectorAll("[data-layer]")) {
  box.addEventListener("change", () => {
    if (box.dataset.layer === "activation") {
      showActivation();
    } else {
      editor.shown[box.dataset.layer] = box.checked;
      editor.redraw();
    }
  });
}
part("comment").addEventListener("input", () => { if (now) now.sheet.comment = part("comment").value; });
part("filter").hidden = classes.length <= 10;
part("filter").addEventListener("input", showClasses);
part("filter").addEventListener("keydown", (event) => {
  if (event.key !== "Enter") return;
  event.preventDefault();
  const first = part("classes").querySelector("button");
  part("filter").value = "";
  part("filter").blur();
  if (first) first.click();
});

setTool("select");
showClaim(start.audit);
onward();
