// The map path x layer: blue where cutting lowers the answer's probability, red where it raises it.
function heatMap(holder, lines, base, label) {
  const layers = layersOf(lines), width = widthOf(holder, 280, 900), narrow = width < 620;
  const named = Math.min(230, 14 + 6.6 * Math.max(...lines.map((line) => line.label.length)));
  const row = narrow ? 38 : 24, marginLeft = narrow ? 0 : named, marginRight = 2, marginTop = 4, height = marginTop + row * lines.length + 40;
  const bound = Math.max(5, ...lines.flatMap((line) => line.points.map((p) => Math.abs(p[1]))));
  const cells = lines.flatMap((line, i) => line.points.map((p) => ({ i, layer: p[0], value: p[1] })));
  const inset = { insetTop: narrow ? 17 : 0.75, insetBottom: 0.75, insetLeft: 0.75, insetRight: 0.75, rx: 2 };
  const names = { text: (d) => d, fill: "var(--ink)" };
  const svg = chart(holder, label, { width, height, marginLeft, marginRight, marginTop, marginBottom: 40,
    x: { type: "band", domain: layers, padding: 0, round: false }, y: { type: "band", domain: lines.map((_, i) => i), padding: 0, round: false, axis: null }, opacity: { domain: [0, 1] },
    marks: [
      Plot.cell(cells, { x: "layer", y: "i", fill: "var(--card)", ...inset }),
      Plot.cell(cells, { x: "layer", y: "i", fill: (d) => (d.value < 0 ? "var(--negative)" : "var(--positive)"), fillOpacity: (d) => Math.abs(d.value) / bound, ...inset }),
      narrow ? Plot.text(lines.map((l) => l.label), { y: (_, i) => i, ...names, frameAnchor: "left", dy: -10, textAnchor: "start" })
        : Plot.text(lines.map((l) => l.label), { y: (_, i) => i, ...names, frameAnchor: "left", dx: -9, textAnchor: "end" }),
      Plot.axisX({ ...layerTicks(layers, base, width - marginLeft), label: null }),
      Plot.text(["layer (window centre)"], { frameAnchor: "bottom", dy: 36, fill: "var(--soft)" }),
    ] });
  holder.append(colorBar(bound, marginLeft));
  const x = svg.scale("x"), cell = x.bandwidth;
  const frame = draw("rect", { class: "frame", visibility: "hidden", rx: 2 });
  svg.append(frame);
  const tip = tipOf(holder);
  let [ci, cj] = [-1, 0];
  function show(i, j) {
    if (i < 0 || j < 0 || i >= lines.length || j >= layers.length) return;
    [ci, cj] = [i, j];
    const point = lines[i].points.find((p) => p[0] === layers[j]);
    const box = { x: x.apply(layers[j]), y: marginTop + i * row + (narrow ? 16 : 0), width: cell, height: narrow ? row - 16 : row, visibility: "visible" };
    for (const [key, value] of Object.entries(box)) frame.setAttribute(key, value);
    const rows = point ? [[null, "mean change", `${numberText(point[1])} ${unit}`, ""],
      [null, "interval", point[2] === null ? "–" : `${numberText(point[2])} … ${numberText(point[3])} ${unit}`, ""], [null, "p, corrected", pText(point[5]), ""], [null, "samples", String(point[4]), ""]] : [[null, "no value", "", ""]];
    tip.show(box.x + cell / 2, box.y + box.height, width, ...tipTable(`${lines[i].label}, layer ${layers[j] + base}`, rows));
  }
  const hide = () => { frame.setAttribute("visibility", "hidden"); tip.hide(); };
  pointed(svg, width, (px, py) => show(Math.floor((py - marginTop) / row), Math.floor((px - marginLeft) / cell)),
    (dx, dy) => (ci < 0 ? show(0, 0) : show(ci + dy, cj + dx)), hide);
}

function colorBar(bound, left) {
  const form = numberText(bound, false, bound >= 10 ? 0 : 1);
  return make("p", { class: "ramp", style: `margin-left:${left}px` }, `−${form} ${unit}`, make("i", {}), `+${form} ${unit}`);
}
