// The picture: loading and fetching ahead, zoom and pan, and the window of grey values.

const KEPT = 8;
const pictures = new Map();

/** Load a picture, or return the one that was fetched ahead. */
export function picture(id) {
  if (!pictures.has(id)) {
    const image = new Image();
    image.src = `/picture/${id}/full`;
    const loaded = image.decode().then(() => image);
    loaded.catch(() => pictures.delete(id));
    pictures.set(id, loaded);
    while (pictures.size > KEPT) pictures.delete(pictures.keys().next().value);
  }
  return pictures.get(id);
}

async function reason(id) {
  try {
    const response = await fetch(`/picture/${id}/full`);
    return (await response.json()).error;
  } catch {
    return "The image cannot be shown.";
  }
}

export class Viewer {
  constructor(stage) {
    this.stage = stage;
    this.canvas = stage.querySelector("canvas.picture");
    this.message = stage.querySelector(".stage-message");
    this.width = this.height = 1;
    this.scale = 1;
    this.x = this.y = 0;
    this.watchers = [];
    this.deep = null;
    this.level = null;
    this.fitted = true;
    new ResizeObserver(() => (this.fitted ? this.fit() : this.tell())).observe(stage);
  }

  /** Call `watcher` whenever the view moves. */
  watch(watcher) {
    this.watchers.push(watcher);
  }

  tell() {
    const { canvas, scale } = this;
    const factor = (scale * this.width) / canvas.width;
    canvas.style.transform = `translate(${this.x}px, ${this.y}px) scale(${factor})`;
    canvas.classList.toggle("sharp", factor > 2.5);
    for (const watcher of this.watchers) watcher();
  }

  async show(id, height, width) {
    this.id = id;
    this.deep = this.level = null;
    this.message.hidden = true;
    let image;
    try {
      image = await picture(id);
    } catch {
      const said = await reason(id);
      if (this.id !== id) return false;
      this.image = null;
      this.canvas.width = this.canvas.height = 1;
      this.message.textContent = said;
      this.message.hidden = false;
      this.width = width || 1;
      this.height = height || 1;
      this.fit();
      return false;
    }
    if (this.id !== id) return false;
    this.image = image;
    this.canvas.width = image.naturalWidth;
    this.canvas.height = image.naturalHeight;
    this.width = width || image.naturalWidth;
    this.height = height || image.naturalHeight;
    this.canvas.getContext("2d").drawImage(image, 0, 0);
    this.fit();
    return true;
  }

  fit() {
    const { clientWidth, clientHeight } = this.stage;
    const margin = Math.min(28, clientWidth / 16);
    this.scale = Math.max(1e-3, Math.min(
      (clientWidth - 2 * margin) / this.width, (clientHeight - 2 * margin) / this.height));
    this.x = (clientWidth - this.scale * this.width) / 2;
    this.y = (clientHeight - this.scale * this.height) / 2;
    this.fitted = true;
    this.tell();
  }

  zoom(factor, at) {
    const { clientWidth, clientHeight } = this.stage;
    const [px, py] = at || [clientWidth / 2, clientHeight / 2];
    const whole = Math.min(clientWidth / this.width, clientHeight / this.height);
    const scale = Math.min(Math.max(this.scale * factor, whole / 8), Math.max(40, whole * 8));
    const change = scale / this.scale;
    this.x = px - (px - this.x) * change;
    this.y = py - (py - this.y) * change;
    this.scale = scale;
    this.fitted = false;
    this.tell();
  }

  pan(dx, dy) {
    this.x += dx;
    this.y += dy;
    this.fitted = false;
    this.tell();
  }

  /** Point on the stage of a pointer event, and the same in pixels of the image. */
  at(event) {
    const box = this.stage.getBoundingClientRect();
    const point = [event.clientX - box.left, event.clientY - box.top];
    return { stage: point, image: this.toImage(point) };
  }

  toImage([x, y]) {
    return [(x - this.x) / this.scale, (y - this.y) / this.scale];
  }

  toStage([x, y]) {
    return [x * this.scale + this.x, y * this.scale + this.y];
  }

  // -- the window of grey values ---------------------------------------------------------------

  async #values() {
    if (this.deep) return this.deep;
    const id = this.id;
    const response = await fetch(`/picture/${id}/deep`);
    if (!response.ok) throw new Error((await response.json()).error);
    const said = (name) => Number(response.headers.get(name));
    const values = new Uint16Array(await response.arrayBuffer());
    if (this.id !== id) throw new Error("");
    this.deep = {
      values, width: said("X-Width"), height: said("X-Height"), low: said("X-Low"), high: said("X-High"),
      from: said("X-From"), to: said("X-To"),
    };
    this.level = { from: this.deep.from, to: this.deep.to };
    return this.deep;
  }

  /** Move the window by shares of its width: `shift` its centre, `widen` its width. */
  async changeWindow(shift, widen) {
    const deep = await this.#values();
    const { from, to } = this.level;
    const smallest = (deep.high - deep.low) / 2000;
    const width = Math.max(smallest, (to - from) * (1 + widen));
    const centre = (from + to) / 2 + shift * (to - from);
    this.#draw({ from: centre - width / 2, to: centre + width / 2 });
  }

  async resetWindow() {
    if (!this.deep) return;
    this.level = null;
    const { width, height } = this.image ? { width: this.image.naturalWidth, height: this.image.naturalHeight } : {};
    this.canvas.width = width;
    this.canvas.height = height;
    this.canvas.getContext("2d").drawImage(this.image, 0, 0);
    this.level = { from: this.deep.from, to: this.deep.to };
    this.tell();
  }

  #draw(level) {
    this.level = level;
    if (this.drawing) return;
    this.drawing = true;
    requestAnimationFrame(() => {
      this.drawing = false;
      const { values, width, height, low, high } = this.deep;
      const table = new Uint8ClampedArray(65536);
      const step = (high - low) / 65535;
      const gain = 255 / (this.level.to - this.level.from);
      for (let v = 0; v < 65536; v += 1) table[v] = (low + v * step - this.level.from) * gain;
      const pixels = new ImageData(width, height);
      const data = new Uint32Array(pixels.data.buffer);
      for (let i = 0; i < values.length; i += 1) data[i] = table[values[i]] * 0x010101 | 0xff000000;
      this.canvas.width = width;
      this.canvas.height = height;
      this.canvas.getContext("2d").putImageData(pixels, 0, 0);
      this.tell();
    });
  }
}
