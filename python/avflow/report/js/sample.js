// A sample as it is seen, heard and read: its frames, its waveform, and what each token is.
function sampleView(holder, sample) {
  const parts = [make("p", { class: "question" }, sample.question || sample.id)];
  if (sample.options?.length) parts.push(make("ul", { class: "options" }, ...sample.options.map(([letter, text]) =>
    make("li", { class: letter === sample.answer ? "right" : null }, letter === text ? letter : `${letter}. ${text}`, letter === sample.answer ? " ✓" : ""))));
  holder.replaceChildren(...parts);
  for (const medium of sample.media ?? []) {
    holder.append(make("h3", {}, medium.label));
    if (medium.pictures) holder.append(pictureStrip(medium));
    else { const place = make("div", { class: "chart keep" }); holder.append(place); waveform(place, medium); }
  }
  if (!sample.tokens) return;
  const place = make("div", { class: "chart keep" });
  holder.append(make("h3", {}, `${sample.tokens.count} tokens, in the order in which the model reads them`), place);
  tokenLayout(place, sample.tokens);
  holder.append(make("ul", { class: "legend" }, ...sample.tokens.groups.map((g) => groupItem(g, String(g.count)))));
}

// Frames stand in a row in order of time; pictures without one get their letters.
function pictureStrip(medium) {
  const figures = medium.pictures.map((uri, i) => {
    const name = medium.times ? `${medium.times[i].toFixed(2)} s` : String.fromCharCode(65 + i);
    return make("figure", {}, make("img", { src: uri, alt: `${medium.label}, ${name}` }), make("figcaption", {}, name));
  });
  return make("div", { class: "strip keep", style: `--count:${figures.length}` }, ...figures);
}

function waveform(holder, medium) {
  const width = widthOf(holder, 280, 900), count = medium.low.length;
  const most = Math.max(0.05, ...medium.high.map(Math.abs), ...medium.low.map(Math.abs));
  const at = medium.low.map((low, i) => ({ s: ((i + 0.5) * medium.seconds) / count, low: Math.min(low, -0.01 * most), high: Math.max(medium.high[i], 0.01 * most) }));
  chart(holder, `Waveform, ${medium.label}, ${medium.seconds} s`, { width, height: 96, marginLeft: 0, marginRight: 0, marginTop: 2, marginBottom: 24,
    x: { domain: [0, medium.seconds], nice: false }, y: { domain: [-most, most], axis: null },
    marks: [Plot.ruleY([0], { stroke: "var(--grid)" }), Plot.areaY(at, { x: "s", y1: "low", y2: "high", fill: "var(--vermillion)", curve: "step" }),
      Plot.axisX({ ticks: Math.min(8, Math.ceil(width / 90)), tickSize: 0, tickFormat: (s) => `${s} s`, label: null, insetLeft: 8, insetRight: 8 })] });
}

// Rows of equal length; a block is a stretch of one group and one item (frame, audio segment, option).
function tokenLayout(holder, tokens) {
  const width = widthOf(holder, 280, 900), rowHeight = 30, rows = Math.min(8, Math.max(1, Math.ceil(tokens.count / (width < 620 ? 40 : 90))));
  const perRow = Math.ceil(tokens.count / rows), pixel = width / perRow;
  const boxes = tokens.stretches.flatMap(([group, item, first, count], index) => {
    const out = [];
    for (let from = first; from < first + count;) {
      const row = Math.floor(from / perRow), to = Math.min(first + count, (row + 1) * perRow);
      out.push({ x: (from - row * perRow) * pixel, y: row * rowHeight + 2, width: Math.max(0.8, (to - from) * pixel - 1), height: rowHeight - 6, index, item, group: tokens.groups[group] });
      from = to;
    }
    return out;
  });
  const box = { x1: "x", x2: (b) => b.x + b.width, y1: "y", y2: (b) => b.y + b.height, rx: 2 };
  const svg = chart(holder, "Token layout", { width, height: rows * rowHeight, margin: 0, x: { type: "identity", axis: null }, y: { type: "identity", axis: null },
    marks: [Plot.rect(boxes, { ...box, fill: (b) => hue(b.group.color) }), Plot.rect(boxes.filter((b) => b.group.hatched), { ...box, fill: "url(#hatch)" }),
      Plot.text(boxes.filter((b) => b.item >= 0 && b.width > 16), { x: (b) => b.x + b.width / 2, y: (b) => b.y + b.height / 2, text: (b) => String(b.item),
        fill: "#fff", stroke: "rgb(0 0 0 / .55)", strokeWidth: 2.5 })] });
  svg.prepend(hatches());
  const frame = draw("rect", { class: "frame", visibility: "hidden", rx: 2 });
  svg.append(frame);
  const tip = tipOf(holder);
  let current = -1;
  function show(number) {
    current = Math.min(Math.max(number, 0), boxes.length - 1);
    const at = boxes[current], [group, item, first, count, text] = tokens.stretches[at.index];
    for (const key of ["x", "y", "width", "height"]) frame.setAttribute(key, at[key]);
    frame.setAttribute("visibility", "visible");
    const name = tokens.groups[group].label + (item >= 0 ? ` ${item}` : "");
    const where = count === 1 ? `token ${first}` : `tokens ${first}–${first + count - 1} (${count})`;
    tip.show(at.x + at.width / 2, at.y + rowHeight, width, make("b", {}, name), where, ...(text ? [make("div", { class: "soft" }, JSON.stringify(text))] : []));
  }
  const hide = () => { frame.setAttribute("visibility", "hidden"); tip.hide(); };
  pointed(svg, width, (px, py) => {
    const found = boxes.findIndex((b) => px >= b.x && px <= b.x + b.width + 1 && py >= b.y - 2 && py < b.y + rowHeight - 2);
    found < 0 ? hide() : show(found);
  }, (dx, dy) => show(current + dx + dy), hide);
}

// The two answers of a sample, and what they took.
function answerTable(sample) {
  const { clean, evicted } = sample.answers;
  const ms = (seconds) => numberText(1000 * seconds, false, 1), kb = (bytes) => numberText(bytes / 1e3, false, 1);
  const row = (name, a, b, ratio) => make("tr", {}, make("th", { scope: "row" }, name), ...[a, b, ratio].map((text) => make("td", { class: "number" }, text)));
  const head = make("tr", {}, make("td", {}), ...["nothing leaves", "with the schedule", "ratio"].map((text) => make("th", { class: "number", scope: "col" }, text)));
  return make("div", { class: "wide" }, make("table", { class: "answers" }, head,
    row("answer", clean.text || "(empty)", evicted.text || "(empty)", sample.answers.same ? "the same" : "differs"),
    row("prefill, ms", ms(clean.prefill_seconds), ms(evicted.prefill_seconds), (evicted.prefill_seconds / clean.prefill_seconds).toFixed(2)),
    row("keys and values, kB", kb(clean.kv_bytes), kb(evicted.kv_bytes), (evicted.kv_bytes / clean.kv_bytes).toFixed(2))));
}
