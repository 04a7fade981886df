// One table of what each key does: it runs them, and shows them.

const NAMES = {
  ArrowLeft: "←", ArrowRight: "→", ArrowUp: "↑", ArrowDown: "↓", " ": "Space", Escape: "Esc", Delete: "Del",
  Backspace: "⌫", Enter: "Enter",
};
const actions = [];

export function keyName(key) {
  if (key.startsWith("Ctrl+")) return `Ctrl ${keyName(key.slice(5))}`;
  if (key.startsWith("Shift+")) return `⇧ ${keyName(key.slice(6))}`;
  return NAMES[key] || (key.length === 1 ? key.toUpperCase() : key);
}

/** Add actions: {keys: [...], says, run, repeats, when}; a key that another has is taken over. */
export function addKeys(list) {
  actions.unshift(...list);
}

function nameOf(event) {
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if (event.ctrlKey || event.metaKey) return `Ctrl+${event.shiftKey ? "Shift+" : ""}${key}`;
  // what needs a shift to be typed at all, such as ? or +, is its own name
  const typed = event.key.length === 1 && event.key.toLowerCase() === event.key.toUpperCase();
  return event.shiftKey && !typed ? `Shift+${key}` : key;
}

function typing(target) {
  return target.closest("input:not([type=checkbox]), textarea, select") !== null;
}

document.addEventListener("keydown", (event) => {
  if (event.altKey || event.isComposing) return;
  const name = nameOf(event);
  if (document.querySelector("dialog[open]")) return;
  if (typing(event.target)) {
    if (name === "Escape" || name === "Ctrl+Enter") event.target.blur();
    if (name !== "Ctrl+Enter") return;
  }
  // a focused button is pressed by Enter and Space, as everywhere
  if ((name === "Enter" || name === " ") && event.target.matches("a, button:not(.tile), summary")) return;
  const found = actions.find((one) => one.keys.includes(name) && (!one.when || one.when()));
  if (!found) return;
  event.preventDefault();
  if (!event.repeat || found.repeats) found.run(event);
});

export function kbd(key) {
  const element = document.createElement("kbd");
  element.textContent = keyName(key);
  return element;
}

const dialog = document.getElementById("keys");

export function showKeys() {
  const list = dialog.querySelector("dl");
  list.replaceChildren();
  const taken = new Set();
  for (const { keys: all, says } of actions) {
    const keys = all.filter((key) => !taken.has(key));
    for (const key of keys) taken.add(key);
    if (!says || !keys.length) continue;
    const row = document.createElement("div");
    const left = document.createElement("dt");
    left.append(...keys.map(kbd));
    const right = document.createElement("dd");
    right.textContent = says;
    row.append(left, right);
    list.append(row);
  }
  dialog.showModal();
}

if (dialog) {
  document.getElementById("show-keys").addEventListener("click", showKeys);
  dialog.querySelector("button").addEventListener("click", () => dialog.close());
  addKeys([
    { keys: ["?"], says: "these keys", run: showKeys },
    { keys: ["Escape"], says: "home", run: () => location.assign("/") },
  ]);
}
