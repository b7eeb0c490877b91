// The map path x layer: blue where cutting lowers the answer's probability, red where it raises it.
function heatMap(holder, lines, base, label) {
  const layers = [...new Set(lines.flatMap((line) => line.points.map((p) => p[0])))].sort((a, b) => a - b);
  const width = Math.max(560, holder.clientWidth || 900);
  const [left, right, top, row] = [212, 96, 6, 24];
  const height = top + row * lines.length + 40;
  const cell = (width - left - right) / layers.length;
  const bound = Math.max(...lines.flatMap((line) => line.points.map((p) => Math.abs(p[1])))) || 1;
  const svg = draw("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label });
  lines.forEach((line, i) => {
    const y = top + row * i;
    svg.append(draw("text", { class: "strong", x: left - 9, y: y + row / 2 + 4, "text-anchor": "end" }, line.label));
    layers.forEach((layer, j) => {
      const point = line.points.find((p) => p[0] === layer);
      const box = { x: left + j * cell + 0.75, y: y + 0.75, width: cell - 1.5, height: row - 1.5, rx: 2 };
      const fill = !point ? "fill:var(--none)" : `fill:var(${point[1] < 0 ? "--negative" : "--positive"});fill-opacity:${(Math.abs(point[1]) / bound).toFixed(3)}`;
      svg.append(draw("rect", { ...box, style: "fill:var(--card)" }), draw("rect", { ...box, style: fill }));
    });
  });
  const every = everyLayer(layers, width - left - right), foot = top + row * lines.length;
  layers.forEach((layer, j) => {
    if (j % every === 0) svg.append(draw("text", { x: left + (j + 0.5) * cell, y: foot + 17, "text-anchor": "middle" }, layer + base));
  });
  svg.append(draw("text", { x: left + (width - left - right) / 2, y: foot + 34, "text-anchor": "middle" }, "layer (window centre)"));
  colorBar(svg, width - right + 22, top, Math.max(80, row * lines.length), bound);
  const frame = draw("rect", { class: "frame", visibility: "hidden", rx: 2 });
  svg.append(frame);
  holder.replaceChildren(svg);
  const tip = tipOf(holder);
  let [ci, cj] = [-1, 0];
  function show(i, j) {
    if (i < 0 || j < 0 || i >= lines.length || j >= layers.length) return;
    [ci, cj] = [i, j];
    const point = lines[i].points.find((p) => p[0] === layers[j]);
    const box = { x: left + j * cell, y: top + i * row, width: cell, height: row, visibility: "visible" };
    for (const [key, value] of Object.entries(box)) frame.setAttribute(key, value);
    const rows = point ? [[null, "mean change", `${numberText(point[1])} %`, ""],
      [null, "interval", point[2] === null ? "–" : `${numberText(point[2])} … ${numberText(point[3])} %`, ""], [null, "p, corrected", pText(point[5]), ""], [null, "samples", String(point[4]), ""]] : [[null, "no value", "", ""]];
    tip.show(box.x + cell / 2, box.y + row, width, ...tipTable(`${lines[i].label}, layer ${layers[j] + base}`, rows));
  }
  const hide = () => { frame.setAttribute("visibility", "hidden"); tip.hide(); };
  pointed(svg, width, (px, py) => show(Math.floor((py - top) / row), Math.floor((px - left) / cell)),
    (dx, dy) => (ci < 0 ? show(0, 0) : show(ci + dy, cj + dx)), hide);
}

function colorBar(svg, x, y, height, bound) {
  const steps = 24;
  for (let k = 0; k < steps; k++) {
    const value = 1 - (2 * (k + 0.5)) / steps;
    svg.append(draw("rect", { x, y: y + (k * height) / steps, width: 12, height: height / steps + 0.3,
      style: `fill:var(${value < 0 ? "--negative" : "--positive"});fill-opacity:${Math.abs(value).toFixed(3)}` }));
  }
  const form = (v) => (bound >= 10 ? v.toFixed(0) : Number(v.toPrecision(2)).toString()).replace("-", "−");
  for (const [value, at] of [[bound, 4], [0, height / 2], [-bound, height - 4]])
    svg.append(draw("text", { x: x + 18, y: y + at + 4 }, value === 0 ? "0" : `${value > 0 ? "+" : ""}${form(value)} %`));
}
