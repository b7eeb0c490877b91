// Attention allocation: a stacked bar per layer. Text groups are hatched, so colour is not needed to tell them apart.
function shareBars(holder, entry, base, label) {
  const width = Math.max(300, holder.clientWidth || 700), height = 280;
  const [left, right, top, bottom] = [54, 8, 10, 38];
  const slot = (width - left - right) / entry.layers.length;
  const y = scale(0, 100, height - bottom, top);
  const svg = draw("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label }, hatches(entry.groups));
  for (const value of [0, 25, 50, 75, 100])
    svg.append(draw("line", { class: "grid", x1: left, x2: width - right, y1: y(value), y2: y(value) }),
      draw("text", { x: left - 7, y: y(value) + 4, "text-anchor": "end" }, String(value)));
  const every = everyLayer(entry.layers, width - left - right);
  entry.layers.forEach((layer, j) => {
    let sum = 0;
    for (const group of entry.groups) {
      const share = 100 * group.values[j];
      const bar = { x: left + (j + 0.08) * slot, width: 0.84 * slot, y: y(sum + share), height: Math.max(0, y(sum) - y(sum + share) - 0.6) };
      svg.append(draw("rect", { ...bar, style: `fill:${hue(group.color)}` }));
      if (group.hatched) svg.append(draw("rect", { ...bar, fill: "url(#hatch)" }));
      sum += share;
    }
    if (j % every === 0) svg.append(draw("text", { x: left + (j + 0.5) * slot, y: height - bottom + 17, "text-anchor": "middle" }, layer + base));
  });
  svg.append(draw("text", { x: (left + width - right) / 2, y: height - 4, "text-anchor": "middle" }, "layer"),
    draw("text", { transform: `translate(12 ${(top + height - bottom) / 2}) rotate(-90)`, "text-anchor": "middle" }, "share of attention (%)"));
  const frame = draw("rect", { class: "frame", y: top, height: height - bottom - top, width: slot, visibility: "hidden" });
  svg.append(frame);
  holder.replaceChildren(svg);
  const tip = tipOf(holder);
  let current = -1;
  function show(j, py = top) {
    current = Math.min(Math.max(j, 0), entry.layers.length - 1);
    frame.setAttribute("x", left + current * slot); frame.setAttribute("visibility", "visible");
    const rows = [...entry.groups].reverse().map((g) => [g.color, g.label, `${numberText(100 * g.values[current], false)} %`, ""]);
    tip.show(left + (current + 1) * slot, Math.min(py, 40), width, ...tipTable(`Layer ${entry.layers[current] + base}`, rows));
  }
  const hide = () => { frame.setAttribute("visibility", "hidden"); tip.hide(); };
  pointed(svg, width, (px, py) => show(Math.floor((px - left) / slot), py), (dx) => dx && show(current < 0 ? 0 : current + dx), hide);
}

function hatches() {
  return draw("defs", {}, draw("pattern", { id: "hatch", width: 6, height: 6, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" },
    draw("line", { x1: 0, y1: 0, x2: 0, y2: 6, style: "stroke:var(--paper);stroke-width:1.6;opacity:.6" })));
}

// A square of a group's colour with its name, for legends.
function groupItem(group, more = "") {
  const square = draw("svg", { width: 14, height: 14, "aria-hidden": "true" }, draw("rect", { width: 14, height: 14, rx: 2, style: `fill:${hue(group.color)}` }));
  if (group.hatched) square.append(draw("rect", { width: 14, height: 14, fill: "url(#hatch)" }));
  return make("li", {}, make("span", { class: "item" }, square, group.label, make("span", { class: "soft" }, more)));
}
