// Attention allocation: a stacked bar per layer. Text groups are hatched, so colour is not needed to tell them apart.
function shareBars(holder, entry, base, label) {
  const { layers, groups } = entry, width = widthOf(holder, 280, 700), height = 290, marginLeft = 46, marginRight = 4, marginTop = 30, marginBottom = 40;
  const sums = layers.map(() => 0);
  const bars = groups.flatMap((group) => layers.map((layer, j) => {
    const from = sums[j];
    sums[j] += 100 * group.values[j];
    return { layer, from, to: sums[j], color: hue(group.color), hatched: group.hatched };
  }));
  const box = { x: "layer", y1: "from", y2: "to", insetTop: 0.6 };
  const svg = chart(holder, label, { width, height, marginLeft, marginRight, marginTop, marginBottom,
    x: { type: "band", domain: layers, padding: 0.14, round: false }, y: { domain: [0, 100] },
    marks: [
      Plot.gridY([0, 25, 50, 75, 100], { stroke: "var(--grid)", strokeOpacity: 1 }),
      Plot.axisY([0, 25, 50, 75, 100], { tickSize: 0, label: null }),
      Plot.barY(bars, { ...box, fill: "color" }),
      Plot.barY(bars.filter((b) => b.hatched), { ...box, fill: "url(#hatch)" }),
      Plot.axisX({ ...layerTicks(layers, base, width - marginLeft), label: null }),
      Plot.text(["layer"], { frameAnchor: "bottom", dy: 34, fill: "var(--soft)" }),
      Plot.text(["share of attention (%)"], { frameAnchor: "top-left", dx: 2 - marginLeft, dy: -22, textAnchor: "start", fill: "var(--soft)" }),
    ] });
  svg.prepend(hatches());
  const x = svg.scale("x"), slot = x.step, left = x.apply(layers[0]) - (slot - x.bandwidth) / 2;
  const frame = draw("rect", { class: "frame", y: marginTop, height: height - marginBottom - marginTop, width: slot, visibility: "hidden" });
  svg.append(frame);
  const tip = tipOf(holder);
  let current = -1;
  function show(j, py = marginTop) {
    current = Math.min(Math.max(j, 0), layers.length - 1);
    frame.setAttribute("x", left + current * slot); frame.setAttribute("visibility", "visible");
    const rows = [...groups].reverse().map((g) => [g.color, g.label, `${numberText(100 * g.values[current], false)} %`, ""]);
    tip.show(left + (current + 1) * slot, Math.min(py, 40), width, ...tipTable(`Layer ${layers[current] + base}`, rows));
  }
  const hide = () => { frame.setAttribute("visibility", "hidden"); tip.hide(); };
  pointed(svg, width, (px, py) => show(Math.floor((px - left) / slot), py), (dx) => dx && show(current < 0 ? 0 : current + dx), hide);
}
