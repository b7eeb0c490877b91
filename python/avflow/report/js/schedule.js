// Which groups are still there in which layer: a bar per group that ends where it leaves, or begins again.
function scheduleBars(holder, plan, base, layers) {
  const single = plan.lines.filter((line) => !line.group.includes("+") || line.leaves !== null);
  const rows = [...single.map((line) => [line.label, line.color, line.leaves]), ["all other tokens", "silver", null]];
  const width = widthOf(holder, 280, 700), narrow = width < 620, row = narrow ? 44 : 30, until = plan.figures.until ?? null;
  const marginLeft = narrow ? 2 : 24 + 6.6 * Math.max(...rows.map(([label]) => label.length)), marginRight = narrow ? 2 : 140;
  const told = (leaves) => leaves === null ? "stays" : until === null ? `leaves after ${leaves + base}` : `rests ${leaves + 1 + base} to ${until + base}`;
  const bars = rows.flatMap(([label, color, leaves], i) => {
    const seen = [{ i, from: 0, to: leaves === null ? layers : leaves + 1, color: hue(color) }];
    return leaves !== null && until !== null ? [...seen, { i, from: until + 1, to: layers, color: hue(color) }] : seen;
  });
  const box = { x1: "from", x2: "to", y: "i", insetTop: narrow ? 20 : 4, insetBottom: 4, rx: 3 }, every = [...Array(layers).keys()];
  chart(holder, "The schedule: layers that see each group", { width, height: rows.length * row + 44, marginLeft, marginRight, marginTop: 2, marginBottom: 42,
    x: { type: "linear", domain: [0, layers], axis: null }, y: { type: "band", domain: rows.map((_, i) => i), padding: 0, round: false, axis: null },
    marks: [
      Plot.barX(rows, { x1: 0, x2: layers, y: (_, i) => i, fill: "var(--grid)", insetTop: box.insetTop, insetBottom: 4, rx: 3 }),
      Plot.barX(bars, { ...box, fill: "color" }),
      Plot.text(rows, { y: (_, i) => i, text: (d) => d[0], frameAnchor: "left", textAnchor: narrow ? "start" : "end", dx: narrow ? 0 : -9, dy: narrow ? -13 : 0, fill: "var(--ink)" }),
      Plot.text(rows, { y: (_, i) => i, text: (d) => told(d[2]), frameAnchor: "right", textAnchor: narrow ? "end" : "start", dx: narrow ? 0 : 9, dy: narrow ? -13 : 0, fill: "var(--soft)" }),
      Plot.text(numbered(every, base, width - marginLeft - marginRight), { x: (d) => d + 0.5, text: (d) => String(d + base), frameAnchor: "bottom", dy: 18, fill: "var(--soft)" }),
      Plot.text(["layer"], { frameAnchor: "bottom", dy: 36, fill: "var(--soft)" }),
    ] });
}
