// Small SVG charts. Every text goes in as text, every element is made, none is parsed.

const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 420, HEIGHT = 150, LEFT = 46, BOTTOM = 18, TOP = 8, RIGHT = 6;

function make(name, attributes, text) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, String(value));
  if (text !== undefined) element.textContent = text;
  return element;
}

/** The least "round" number that is at least `value`: 1, 2 or 5 times a power of ten. */
export function roundUp(value) {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  const step = [1, 2, 5, 10].find((each) => each * power >= value * 0.999999);
  return step * power;
}

function frame(svg, top, format) {
  svg.replaceChildren();
  svg.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
  for (const share of [0, 0.5, 1]) {
    const y = HEIGHT - BOTTOM - share * (HEIGHT - BOTTOM - TOP);
    svg.append(make("line", { class: "grid", x1: LEFT, x2: WIDTH - RIGHT, y1: y, y2: y }));
    svg.append(make("text", { class: "axis", x: LEFT - 4, y: y + 3, "text-anchor": "end" }, format(share * top)));
  }
}

const across = (index, count) => LEFT + (index / Math.max(1, count - 1)) * (WIDTH - LEFT - RIGHT);
const up = (value, top) => HEIGHT - BOTTOM - (Math.min(value, top) / top) * (HEIGHT - BOTTOM - TOP);

function seconds(svg, span) {
  svg.append(make("text", { class: "axis", x: LEFT, y: HEIGHT - 4 }, `−${span} s`));
  svg.append(make("text", { class: "axis", x: WIDTH - RIGHT, y: HEIGHT - 4, "text-anchor": "end" }, "now"));
}

/** Lines over time: `series` is [{ values, kind }], all of one length. */
export function lines(svg, series, { format, span }) {
  const top = roundUp(Math.max(1, ...series.flatMap((each) => each.values)));
  frame(svg, top, format);
  for (const { values, kind } of series) {
    const points = values.map((value, index) => `${across(index, values.length)},${up(value, top)}`);
    if (kind === "line") {
      const floor = HEIGHT - BOTTOM;
      const corners = [`${LEFT},${floor}`, ...points, `${WIDTH - RIGHT},${floor}`];
      svg.append(make("polygon", { class: "fill", points: corners.join(" ") }));
    }
    svg.append(make("polyline", { class: kind, points: points.join(" ") }));
  }
  seconds(svg, span);
}

/** Columns over time, each a stack: `stacks[i]` is [{ kind, value }]. */
export function stacks(svg, columns, { format, span }) {
  const total = (stack) => stack.reduce((sum, each) => sum + each.value, 0);
  const top = roundUp(Math.max(...columns.map(total), 1));
  frame(svg, top, format);
  const width = Math.max(1, (WIDTH - LEFT - RIGHT) / columns.length - 0.5);
  columns.forEach((stack, index) => {
    let below = 0;
    for (const { kind, value } of stack) {
      if (value <= 0) continue;
      const y = up(below + value, top);
      const x = LEFT + (index / columns.length) * (WIDTH - LEFT - RIGHT);
      svg.append(make("rect", { class: kind, x, y, width, height: Math.max(0.5, up(below, top) - y) }));
      below += value;
    }
  });
  seconds(svg, span);
}

/** Bars by label: `rows` is [[label, value]]. */
export function bars(svg, rows, { format }) {
  const top = roundUp(Math.max(1, ...rows.map(([, value]) => value)));
  frame(svg, top, format);
  const room = (WIDTH - LEFT - RIGHT) / Math.max(1, rows.length);
  const width = Math.min(40, room * 0.8);
  const every = Math.ceil(rows.length / 16);
  rows.forEach(([label, value], index) => {
    const middle = LEFT + room * (index + 0.5);
    const y = up(value, top);
    svg.append(make("rect", { class: "bar", x: middle - width / 2, y, width, height: HEIGHT - BOTTOM - y }));
    if (index % every === 0)
      svg.append(make("text", { class: "axis", x: middle, y: HEIGHT - 4, "text-anchor": "middle" }, String(label)));
  });
}
