// A line chart: a line and a band per series over the layers; pointer or arrow keys read the values at a layer.
// options: lines [{label, color, dashes, points: [[layer, mean, low, high, samples?, p?]]}], base, y [low, high], ylabel, label,
// percent (factor 100), zero (draw the line y = 0), flat {value, label} (a level), marks [[layer, value, color]], height, form.
function lineChart(holder, options) {
  const { lines, base, ylabel, label, marks = [], factor = 1, height = 260, form = numberText } = options;
  const width = Math.max(260, holder.clientWidth || 340);
  const [low, high] = options.y, marked = ticks(low, high);
  // The widest number beside the axis decides how much room it has.
  const left = (ylabel ? 30 : 14) + 7.2 * Math.max(...marked.map((value) => tickText(value).length));
  const [right, top, bottom] = [10, 12, 38];
  const layers = [...new Set(lines.flatMap((line) => line.points.map((p) => p[0])))].sort((a, b) => a - b);
  const x = scale(layers[0] ?? 0, layers.at(-1) ?? 1, left + 6, width - right - 6);
  const y = scale(low, high, height - bottom, top);
  const svg = draw("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label });
  for (const value of marked) {
    svg.append(draw("line", { class: value === 0 && options.zero ? "axis" : "grid", x1: left, x2: width - right, y1: y(value), y2: y(value) }),
      draw("text", { x: left - 7, y: y(value) + 4, "text-anchor": "end" }, tickText(value)));
  }
  const every = everyLayer(layers, width - left - right);
  layers.forEach((layer, i) => {
    if (i % every === 0) svg.append(draw("text", { x: x(layer), y: height - bottom + 17, "text-anchor": "middle" }, layer + base));
  });
  svg.append(draw("text", { x: (left + width - right) / 2, y: height - 4, "text-anchor": "middle" }, options.xlabel ?? "layer"));
  svg.append(draw("text", { transform: `translate(12 ${(top + height - bottom) / 2}) rotate(-90)`, "text-anchor": "middle" }, ylabel));
  if (options.flat !== undefined) {
    const at = y(factor * options.flat);
    svg.append(draw("line", { class: "axis", x1: left, x2: width - right, y1: at, y2: at }));
  }
  const place = (points, column) => points.map((p) => `${x(p[0]).toFixed(1)},${y(factor * p[column]).toFixed(1)}`);
  for (const line of lines) {
    const banded = line.points.filter((p) => p[2] !== null && p[2] !== undefined);
    if (banded.length > 1)
      svg.append(draw("polygon", { class: "band", style: `fill:${hue(line.color)}`, points: [...place(banded, 3), ...place(banded, 2).reverse()].join(" ") }));
  }
  for (const line of lines) {
    const dashed = line.dashes.length > 0;
    svg.append(draw("polyline", { class: dashed ? "line dashed" : "line", "data-path": line.path ?? line.label,
      style: `stroke:${hue(line.color)}`, "stroke-dasharray": line.dashes.join(" "), points: place(line.points, 1).join(" ") }));
    if (line.points.length === 1) marks.push([line.points[0][0], line.points[0][1], line.color]);
  }
  for (const [layer, value, color] of marks)
    svg.append(draw("circle", { class: "dot", cx: x(layer), cy: y(factor * value), r: 5, style: `fill:${hue(color)}` }));
  const cross = draw("line", { class: "cross", y1: top, y2: height - bottom, visibility: "hidden" });
  svg.append(cross);
  holder.replaceChildren(svg);
  const tip = tipOf(holder);
  let current = -1;
  function show(index, pixel = top) {
    current = Math.min(Math.max(index, 0), layers.length - 1);
    const layer = layers[current];
    cross.setAttribute("x1", x(layer)); cross.setAttribute("x2", x(layer)); cross.setAttribute("visibility", "visible");
    const rows = lines.map((line) => [line, line.points.find((p) => p[0] === layer)]).filter(([, p]) => p)
      .sort((a, b) => b[1][1] - a[1][1])
      .map(([line, p]) => [swatch(line), line.label, form(factor * p[1]),
        p[2] === null || p[2] === undefined ? "" : `${form(factor * p[2])} … ${form(factor * p[3])}`]);
    const samples = lines.map((line) => line.points.find((p) => p[0] === layer)).find((p) => p && p.length > 4);
    const count = samples ? `, ${samples[4]} sample${samples[4] === 1 ? "" : "s"}` : "";
    tip.show(x(layer), pixel, width, ...tipTable(`Layer ${layer + base}${count}`, rows));
  }
  const hide = () => { cross.setAttribute("visibility", "hidden"); tip.hide(); };
  const nearest = (px) => layers.reduce((best, layer, i) => Math.abs(x(layer) - px) < Math.abs(x(layers[best]) - px) ? i : best, 0);
  pointed(svg, width, (px, py) => show(nearest(px), py), (dx) => dx && show(current < 0 ? 0 : current + dx), hide);
}

// Lowest and highest value of the lines and their bands, with a little air, and 0 where asked for.
function spread(lines, zero, factor = 1) {
  const values = lines.flatMap((line) => line.points.flatMap((p) => [p[1], p[2], p[3]])).filter((v) => v !== null && v !== undefined);
  const all = (zero ? [0, ...values] : values).map((v) => factor * v);
  const [low, high] = [Math.min(...all), Math.max(...all)];
  const air = 0.05 * (high - low || Math.abs(high) || 1);
  return [low < 0 || !zero ? low - air : low, high + air];
}

// A short piece of a line as the legend shows it.
function swatch(line) {
  return draw("svg", { width: 30, height: 10, "aria-hidden": "true" }, draw("line", { x1: 1, x2: 29, y1: 5, y2: 5,
    style: `stroke:${hue(line.color)};stroke-width:2.4`, "stroke-dasharray": line.dashes.join(" ") }));
}
