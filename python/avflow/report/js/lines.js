// A line chart: a line and a band per series over the layers; pointer, finger or arrow keys read the values at a layer.
// options: lines [{label, color, dashes, points: [[layer, mean, low, high, samples?, p?]]}], base, y [low, high], ylabel, label,
// factor (100 for per cent), zero (draw the line y = 0), flat (a level), marks [[layer, value, color]], height, form,
// quiet (lines that do nothing: one grey band, and one row where values are read), faint (lines drawn thin, without a band).
function lineChart(holder, options) {
  const { lines, quiet = [], faint = [], base, ylabel, label, marks = [], factor = 1, height = 260, form = numberText } = options;
  const all = [...lines, ...faint, ...quiet], layers = layersOf(all), width = widthOf(holder, 260, 340);
  const marginLeft = 46, marginRight = 12, marginTop = ylabel ? 30 : 14, marginBottom = 40;
  const rows = (line) => line.points.map((p) => ({ layer: p[0], mean: factor * p[1], low: p[2] == null ? null : factor * p[2], high: p[3] == null ? null : factor * p[3] }));
  const parts = [
    Plot.gridY({ stroke: "var(--grid)", strokeOpacity: 1, ticks: 5 }),
    Plot.axisY({ anchor: "left", ticks: 5, tickSize: 0, label: null, tickFormat: (v) => minus(Number(v.toPrecision(6))) }),
    Plot.axisX(layers, { anchor: "bottom", ...layerTicks(layers, base, width - marginLeft - marginRight), label: null }),
    Plot.text([options.xlabel ?? "layer"], { frameAnchor: "bottom", dy: 34, fill: "var(--soft)" }),
  ];
  if (ylabel) parts.push(Plot.text([ylabel], { frameAnchor: "top-left", dx: 2 - marginLeft, dy: -22, textAnchor: "start", fill: "var(--soft)" }));
  if (options.zero) parts.push(Plot.ruleY([0], { stroke: "var(--faint)" }));
  if (options.flat !== undefined) parts.push(Plot.ruleY([factor * options.flat], { stroke: "var(--faint)" }));
  if (quiet.length) parts.push(Plot.areaY(outline(quiet, layers, factor), { x: "layer", y1: "low", y2: "high", fill: "var(--faint)", fillOpacity: 0.35, className: "quiet-band",
    stroke: "var(--faint)", strokeOpacity: 0.5, strokeWidth: 2 }));
  for (const line of lines) if (line.points.filter((p) => p[2] != null).length > 1)
    parts.push(Plot.areaY(rows(line), { x: "layer", y1: "low", y2: "high", fill: hue(line.color), fillOpacity: 0.14 }));
  for (const line of faint) parts.push(Plot.lineY(rows(line), { x: "layer", y: "mean", stroke: "var(--faint)", strokeWidth: 1, strokeOpacity: 0.7, className: "faint" }));
  for (const line of lines) parts.push(Plot.lineY(rows(line), { x: "layer", y: "mean", stroke: hue(line.color), strokeWidth: 2,
    strokeDasharray: line.dashes.join(" ") || null, strokeLinecap: line.dashes.length ? "butt" : "round", className: "series" }));
  const dots = [...marks, ...lines.filter((line) => line.points.length === 1).map((line) => [line.points[0][0], line.points[0][1], line.color])];
  for (const [layer, value, color] of dots)
    parts.push(Plot.dot([{ layer, value: factor * value }], { x: "layer", y: "value", r: 5, fill: hue(color), stroke: "var(--paper)", strokeWidth: 1.5 }));
  const svg = chart(holder, label, { width, height, marginLeft, marginRight, marginTop, marginBottom, marks: parts,
    x: { type: "linear", domain: [layers[0] ?? 0, layers.length > 1 ? layers.at(-1) : (layers[0] ?? 0) + 1], inset: 8 }, y: { domain: options.y } });
  svg.querySelectorAll("g.series").forEach((group, i) => { group.dataset.path = lines[i].path ?? lines[i].label; });
  const x = svg.scale("x").apply, y = svg.scale("y").apply;
  const cross = draw("line", { class: "cross", y1: marginTop, y2: height - marginBottom, visibility: "hidden" });
  svg.append(cross);
  const tip = tipOf(holder);
  let current = -1;
  function show(i, pixel = marginTop) {
    current = Math.min(Math.max(i, 0), layers.length - 1);
    const layer = layers[current], at = (line) => line.points.find((p) => p[0] === layer);
    cross.setAttribute("x1", x(layer)); cross.setAttribute("x2", x(layer)); cross.setAttribute("visibility", "visible");
    const here = lines.filter(at).sort((a, b) => at(b)[1] - at(a)[1]);
    const band = (p) => (p[2] == null ? "" : `${form(factor * p[2])} … ${form(factor * p[3])}`);
    const count = here.length && at(here[0])[4] !== undefined ? `, ${at(here[0])[4]} samples` : "";
    const low = [...quiet, ...faint].map(at).filter(Boolean).map((p) => factor * p[1]);
    const rest = low.length ? `${low.length} ${low.length === 1 ? "other path" : "others"}: ${form(Math.min(...low))} to ${form(Math.max(...low))}` : "";
    const told = here.map((line) => [swatch(line), line.label, form(factor * at(line)[1]), band(at(line)) + (at(line)[5] === undefined ? "" : `  p ${pText(at(line)[5])}`)]);
    tip.show(x(layer), Math.min(pixel, height - 60), width, ...tipTable(`Layer ${layer + base}${count}`, told, rest));
  }
  const hide = () => { cross.setAttribute("visibility", "hidden"); tip.hide(); };
  const nearest = (px) => layers.reduce((best, layer, i) => (Math.abs(x(layer) - px) < Math.abs(x(layers[best]) - px) ? i : best), 0);
  if (layers.length) pointed(svg, width, (px, py) => show(nearest(px), py), (dx) => dx && show(current < 0 ? 0 : current + dx), hide);
  return y;
}

// From the lowest to the highest of lines, layer by layer.
function outline(lines, layers, factor) {
  return layers.map((layer) => {
    const values = lines.map((line) => line.points.find((p) => p[0] === layer)).filter(Boolean).map((p) => factor * p[1]);
    return { layer, low: Math.min(...values), high: Math.max(...values) };
  });
}
