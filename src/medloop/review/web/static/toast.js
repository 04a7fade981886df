// One line at the bottom that goes away by itself.

const place = document.getElementById("toast");
let timer = 0;

export function toast(text, { bad = false, stays = false } = {}) {
  place.textContent = text;
  place.classList.toggle("bad", bad);
  place.hidden = !text;
  clearTimeout(timer);
  if (text && !stays) timer = setTimeout(() => { place.hidden = true; }, bad ? 7000 : 2600);
}

const AWAY = "The server does not answer. Your work is kept here and sent again.";
export const lost = (tries, words = AWAY) => toast(words, { bad: true, stays: true });
export const found = () => { if (place.classList.contains("bad")) toast(""); };
