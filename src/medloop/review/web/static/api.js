// Talk to the server. Every write has a name of its own, so that sending it again changes nothing.

const meta = document.querySelector('meta[name="write-token"]');
let token = meta ? meta.content : "";

export class Refused extends Error {
  constructor(status, body) {
    super(body.error || `The server answered ${status}.`);
    this.status = status;
    this.body = body;
  }
}

export function newName() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

async function answerOf(response) {
  const text = await response.text();
  let body;
  try {
    body = JSON.parse(text);
  } catch {
    body = {};
  }
  if (!response.ok) throw new Refused(response.status, body);
  return body;
}

export async function get(path) {
  return answerOf(await fetch(path, { headers: { Accept: "application/json" }, cache: "no-store" }));
}

function wait(milliseconds) {
  return new Promise((done) => setTimeout(done, milliseconds));
}

const post = (path, text, keepalive = false) => fetch(path, {
  method: "POST",
  keepalive,
  headers: { "Content-Type": "application/json", "X-Medloop-Token": token },
  body: text,
});

/** Send a write until it is answered; `lost` is told when the server cannot be reached. */
export async function send(path, body, lost = null) {
  const text = JSON.stringify({ op: newName(), ...body });
  let renewed = false;
  for (let tries = 0; ; tries += 1) {
    let response;
    try {
      response = await post(path, text);
    } catch {
      lost?.(tries);
      await wait(Math.min(4000, 250 * 2 ** tries));
      continue;
    }
    if (response.status === 401 && lost) {
      // a server that was started again has a new token: its new address brings it to this browser
      lost(tries, "The server was started again: open the address that it printed in another tab. Your work is kept here and sent then.");
      await wait(1000);
      continue;
    }
    if (response.status === 503) {
      lost?.(tries);
      await wait(Math.min(4000, 250 * 2 ** tries));
      continue;
    }
    if (response.status === 403 && !renewed) {
      // a server that was started again has a new write token
      renewed = true;
      token = (await get("/api/session")).write_token;
      continue;
    }
    return answerOf(response);
  }
}

/** Give images back while the page is going away. */
export function letGo(ids) {
  post("/api/release", JSON.stringify({ op: newName(), ids }), true).catch(() => {});
}
