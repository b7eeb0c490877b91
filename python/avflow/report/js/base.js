// Elements, scales, number forms, and the box that follows the pointer.
const NS = "http://www.w3.org/2000/svg";
const root = document.documentElement;
const hue = (name) => `var(--${name})`;

function make(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) if (value !== null && value !== false) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

function draw(name, attributes = {}, ...children) {
  const node = document.createElementNS(NS, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

function pText(p) {
  return p === null || p === undefined ? "–" : p < 0.001 ? "< 0.001" : p.toFixed(3);
}

// The same number of digits as the tables: two after the point, more for what would read as zero.
function numberText(value, sign = true) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  const text = size >= 0.01 || size === 0 ? size.toFixed(2) : size.toPrecision(2);
  return (value < 0 ? "−" : sign && value > 0 ? "+" : "") + text;
}

// Round values from low to high, about `count` of them.
function ticks(low, high, count = 5) {
  const rough = (high - low) / count || 1;
  const unit = 10 ** Math.floor(Math.log10(rough));
  const step = unit * [1, 2, 5, 10].find((m) => m * unit >= rough * 0.999);
  const out = [];
  for (let i = Math.ceil(low / step - 1e-9); i <= high / step + 1e-9; i++) out.push(Number((i * step).toPrecision(12)));
  return out;
}

const tickText = (value) => String(value).replace("-", "−");

function scale(low, high, from, to) {
  const f = (value) => from + ((value - low) / (high - low || 1)) * (to - from);
  f.back = (pixel) => low + ((pixel - from) / (to - from)) * (high - low);
  return f;
}

// Every so many layers get a number, so that numbers stand 26 pixels apart or more.
function everyLayer(layers, width) {
  return Math.max(1, Math.ceil((26 * layers.length) / width));
}

// A box beside the pointer; x and y are pixels of the chart in `holder`, `width` its width. It may reach over its neighbours,
// but not over the window's edge.
function tipOf(holder) {
  const box = make("div", { class: "tip", role: "status", hidden: "" });
  holder.append(box);
  return {
    show(x, y, width, ...content) {
      const factor = holder.clientWidth / width, from = holder.getBoundingClientRect().left;
      box.replaceChildren(...content);
      box.hidden = false;
      box.style.left = "0px";
      const size = box.offsetWidth, right = x * factor + 14;
      const left = from + right + size <= root.clientWidth - 4 ? right : x * factor - size - 14;
      box.style.left = `${Math.max(4 - from, left)}px`;
      box.style.top = `${y * factor}px`;
    },
    hide() { box.hidden = true; },
  };
}

// Rows [colour name, swatch or null, label, value, more] as a small table under a heading.
function tipTable(title, rows) {
  const body = rows.map(([color, label, value, more]) => make("tr", {},
    make("td", {}, color instanceof Node ? color : color ? make("i", { style: `background:${hue(color)}` }) : "", " ", label),
    make("td", { class: "number" }, value), make("td", { class: "soft number" }, more ? ` ${more}` : "")));
  return [make("b", {}, title), make("table", {}, ...body)];
}

// Pointer and arrow keys choose a place; `at` takes [x, y] pixels of the chart, `step` [columns, rows] of an arrow key.
function pointed(svg, width, at, step, hide) {
  svg.setAttribute("tabindex", "0");
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const factor = width / box.width;
    at((event.clientX - box.left) * factor, (event.clientY - box.top) * factor);
  });
  svg.addEventListener("pointerleave", hide);
  svg.addEventListener("blur", hide);
  const arrows = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  svg.addEventListener("keydown", (event) => {
    if (event.key === "Escape") hide();
    if (!arrows[event.key]) return;
    event.preventDefault();
    step(...arrows[event.key]);
  });
}
