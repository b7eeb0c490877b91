// Which groups are still there in which layer: a bar per group that ends where it leaves, or begins again.
function scheduleBars(holder, plan, base, layers) {
  const single = plan.lines.filter((line) => !line.group.includes("+") || line.leaves !== null);
  const rows = [...single.map((line) => [line.label, line.color, line.leaves]), ["all other tokens", "silver", null]];
  const width = Math.max(300, holder.clientWidth || 700), row = 28, left = 150, right = 150, height = rows.length * row + 38;
  const cell = (width - left - right) / layers, until = plan.figures.until ?? null;
  const told = (leaves) => leaves === null ? "stays" : until === null ? `leaves after ${leaves + base}` : `rests ${leaves + 1 + base} to ${until + base}`;
  const svg = draw("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": "The schedule: layers that see each group" });
  rows.forEach(([label, color, leaves], i) => {
    const seen = leaves === null ? layers : leaves + 1, y = i * row + 4;
    svg.append(draw("text", { class: "strong", x: left - 9, y: y + 15, "text-anchor": "end" }, label),
      draw("rect", { x: left, y, width: layers * cell, height: row - 8, rx: 3, style: "fill:var(--card)" }),
      draw("rect", { x: left, y, width: seen * cell, height: row - 8, rx: 3, style: `fill:${hue(color)}` }),
      draw("text", { x: left + layers * cell + 9, y: y + 15 }, told(leaves)));
    if (leaves !== null && until !== null)
      svg.append(draw("rect", { x: left + (until + 1) * cell, y, width: (layers - until - 1) * cell, height: row - 8, rx: 3, style: `fill:${hue(color)}` }));
  });
  const every = everyLayer(Array(layers).fill(0), width - left - right), foot = rows.length * row;
  for (let layer = 0; layer < layers; layer += every)
    svg.append(draw("text", { x: left + (layer + 0.5) * cell, y: foot + 15, "text-anchor": "middle" }, layer + base));
  svg.append(draw("text", { x: left + (layers * cell) / 2, y: foot + 33, "text-anchor": "middle" }, "layer"));
  holder.replaceChildren(svg);
}
