// What all charts have in common: Observable Plot with the page's sizes, colours and layer numbers.
const layersOf = (lines) => [...new Set(lines.flatMap((line) => line.points.map((p) => p[0])))].sort((a, b) => a - b);

// The layers that get a number, 26 pixels apart or more: round ones as the page counts, and the first (1, 3, 5 or 1, 5, 10).
function numbered(layers, base, width) {
  const room = (26 * layers.length) / Math.max(1, width);
  const every = [1, 2, 4, 5, 10, 20, 50, 100].find((step) => step >= room) ?? 200;
  return layers.filter((layer) => (every === 2 ? layer : layer + base) % every === 0 || layer === 0);
}

// Lowest and highest value of the lines and their bands, with a little air, and 0 where asked for. `least`: what the
// axis spans at least, so that noise looks like noise.
function spread(lines, zero, factor = 1, least = 0) {
  const values = lines.flatMap((line) => line.points.flatMap((p) => [p[1], p[2], p[3]])).filter((v) => v !== null && v !== undefined);
  const all = (zero ? [0, ...values] : values).map((v) => factor * v);
  let [low, high] = [Math.min(...all), Math.max(...all)];
  if (high - low < least) { const short = (least - (high - low)) / 2; low -= short; high += short; }
  const air = 0.05 * (high - low || Math.abs(high) || 1);
  return [low < 0 || !zero ? low - air : low, high + air];
}

// Plot's SVG in `holder`, which it fills. label: read out. options: as Plot.plot takes them.
function chart(holder, label, options) {
  const svg = Plot.plot({ className: "plot", style: { fontSize: "12px", overflow: "visible", background: "none" }, ...options });
  // A picture is read out by its one label; the parts keep their names for the style.
  for (const part of svg.querySelectorAll("[aria-label]")) { part.dataset.part = part.getAttribute("aria-label"); part.removeAttribute("aria-label"); }
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", label);
  holder.replaceChildren(svg);
  return svg;
}

const widthOf = (holder, least, otherwise) => Math.max(least, holder.clientWidth || otherwise);

// A layer axis: numbers below, one word under them. Plot counts layers from 0, the page as it is asked to.
function layerTicks(layers, base, width) {
  return { ticks: numbered(layers, base, width), tickFormat: (layer) => String(layer + base), tickSize: 0, tickPadding: 8 };
}

function hatches() {
  return draw("defs", {}, draw("pattern", { id: "hatch", width: 6, height: 6, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" },
    draw("line", { x1: 0, y1: 0, x2: 0, y2: 6, style: "stroke:var(--paper);stroke-width:1.6;opacity:.6" })));
}

// A short piece of a line as the legend shows it.
function swatch(line) {
  return draw("svg", { width: 30, height: 10, "aria-hidden": "true" }, draw("line", { x1: 1, x2: 29, y1: 5, y2: 5,
    style: `stroke:${hue(line.color)};stroke-width:2.4`, "stroke-dasharray": line.dashes.join(" ") }));
}

// A square of a group's colour with its name, for legends.
function groupItem(group, more = "") {
  const square = draw("svg", { width: 14, height: 14, "aria-hidden": "true" }, draw("rect", { width: 14, height: 14, rx: 2, style: `fill:${hue(group.color)}` }));
  if (group.hatched) square.append(draw("rect", { width: 14, height: 14, fill: "url(#hatch)" }));
  return make("li", {}, make("span", { class: "item" }, square, group.label, make("span", { class: "soft" }, more)));
}

const lineItem = (line) => make("li", {}, make("span", { class: "item" }, swatch(line), line.label));
