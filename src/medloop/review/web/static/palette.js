// Colours of Okabe and Ito, which colour-blind people can tell apart on dark grey, and a shape each.

const COLOURS = ["#56b4e9", "#e69f00", "#00b386", "#f0e442", "#cc79a7", "#ff7f2a", "#ffffff", "#9aa7ff"];
const SHAPES = [
  "M8 2a6 6 0 1 0 .01 0z", "M3 3h10v10H3z", "M8 2l6.5 11.5h-13z", "M8 1.5L14.5 8 8 14.5 1.5 8z", "M6 2h4v4h4v4h-4v4H6v-4H2V6h4z",
];
const DASHES = ["", "9 4", "3 3", "12 3 3 3"];
const SVG = "http://www.w3.org/2000/svg";

export const colourOf = (k) => COLOURS[k % COLOURS.length];
export const dashOf = (k) => DASHES[Math.floor(k / COLOURS.length) % DASHES.length];

export function svg(name, attributes = {}) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}

/** A small sign of a class, for lists. */
export function chip(k) {
  const sign = svg("svg", { viewBox: "0 0 16 16", class: "chip", "aria-hidden": "true" });
  sign.append(svg("path", {
    d: SHAPES[k % SHAPES.length], fill: colourOf(k), stroke: "#1f2937", "stroke-width": 1.2,
  }));
  return sign;
}
