// Elements, number forms, and the box that shows values.
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

const minus = (text) => String(text).replace(/^-/, "−");

function pText(p) {
  return p === null || p === undefined ? "–" : p < 0.001 ? "< 0.001" : p >= 0.9995 ? "1" : p.toFixed(3);
}

// Three significant digits at most, two of them after the point, with a sign where it is a change; what would read as
// -0.00 is 0.00. Files hold all digits.
function numberText(value, sign = true, digits = 2) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value), after = Math.min(digits, size < 9.995 ? 2 : size < 99.95 ? 1 : 0);
  const text = size < 999.5 ? size.toFixed(after) : Number(size.toPrecision(3)).toLocaleString("en-US"), zero = Number(text) === 0;
  return (zero ? "" : value < 0 ? "−" : sign ? "+" : "") + text;
}

// For reading along: one digit after the point at most.
const roundText = (value) => numberText(value, true, 1);

// A probability: small ones keep two digits.
function shareText(value) {
  if (value === null || value === undefined) return "–";
  return value >= 0.01 || value === 0 ? value.toFixed(2) : value < 1e-4 ? "< 0.0001" : value.toPrecision(2);
}

// A box beside the pointer; x and y are pixels of the chart in `holder`. It may reach over its neighbours, but not over
// the window's edge.
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
      box.style.left = `${Math.min(Math.max(4 - from, left), root.clientWidth - from - size - 4)}px`;
      box.style.top = `${y * factor}px`;
    },
    hide() { box.hidden = true; },
  };
}

// Rows [colour name or node, label, value, more] as a small table under a heading.
function tipTable(title, rows, foot = "") {
  const body = rows.map(([color, label, value, more]) => make("tr", {},
    make("td", {}, color instanceof Node ? color : color ? make("i", { style: `background:${hue(color)}` }) : "", " ", label),
    make("td", { class: "number" }, value), make("td", { class: "soft number" }, more ? ` ${more}` : "")));
  return [make("b", {}, title), make("table", {}, ...body), ...(foot ? [make("div", { class: "soft" }, foot)] : [])];
}

// Pointer, finger and arrow keys choose a place; `at` takes [x, y] pixels of the chart, `step` [columns, rows] of an
// arrow key. What a finger chose stays until another place is tapped.
function pointed(svg, width, at, step, hide) {
  svg.setAttribute("tabindex", "0");
  const choose = (event) => {
    const box = svg.getBoundingClientRect();
    at(((event.clientX - box.left) * width) / box.width, ((event.clientY - box.top) * width) / box.width);
  };
  svg.addEventListener("pointermove", choose);
  svg.addEventListener("pointerdown", choose);
  svg.addEventListener("pointerleave", (event) => { if (event.pointerType === "mouse") hide(); });
  svg.addEventListener("blur", hide);
  const away = (event) => {
    if (!svg.isConnected) return document.removeEventListener("pointerdown", away);
    if (!svg.contains(event.target)) hide();
  };
  document.addEventListener("pointerdown", away);
  const arrows = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  svg.addEventListener("keydown", (event) => {
    if (event.key === "Escape") hide();
    if (!arrows[event.key]) return;
    event.preventDefault();
    step(...arrows[event.key]);
  });
}
