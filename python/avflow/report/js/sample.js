// A sample as it is seen, heard and read: its frames, its waveform, and what each token is.
function sampleView(holder, sample) {
  const options = sample.options.map(([letter, text]) => make("li", { class: letter === sample.answer ? "right" : null },
    letter === text ? letter : `${letter}. ${text}`, letter === sample.answer ? " ✓" : ""));
  const parts = [make("p", { class: "question" }, sample.question), make("ul", { class: "options" }, ...options)];
  holder.replaceChildren(...parts);
  for (const medium of sample.media) {
    holder.append(make("h3", {}, medium.label));
    if (medium.pictures) holder.append(pictureStrip(medium));
    else { const place = make("div", { class: "chart keep" }); holder.append(place); waveform(place, medium); }
  }
  const place = make("div", { class: "chart keep" });
  holder.append(make("h3", {}, `${sample.tokens.count} tokens, in the order in which the model reads them`), place);
  tokenLayout(place, sample.tokens);
  holder.append(make("ul", { class: "legend" }, ...sample.tokens.groups.map((g) => groupItem(g, String(g.count)))));
}

function pictureStrip(medium) {
  const figures = medium.pictures.map((uri, i) => {
    const name = medium.times ? `${medium.times[i].toFixed(2)} s` : String.fromCharCode(65 + i);
    return make("figure", {}, make("img", { src: uri, alt: `${medium.label}, ${name}` }), make("figcaption", {}, name));
  });
  return make("div", { class: "strip keep", style: `max-width:${150 * figures.length}px` }, ...figures);
}

function waveform(holder, medium) {
  const width = Math.max(300, holder.clientWidth || 900), height = 92, middle = 38;
  const x = scale(0, medium.low.length, 0, width), most = Math.max(0.05, ...medium.high.map(Math.abs), ...medium.low.map(Math.abs));
  const up = medium.high.map((v, i) => `${x(i + 0.5).toFixed(1)},${(middle - (v / most) * 34 - 0.4).toFixed(1)}`);
  const down = medium.low.map((v, i) => `${x(i + 0.5).toFixed(1)},${(middle - (v / most) * 34 + 0.4).toFixed(1)}`).reverse();
  const svg = draw("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `Waveform, ${medium.label}, ${medium.seconds} s` },
    draw("line", { class: "grid", x1: 0, x2: width, y1: middle, y2: middle }),
    draw("polygon", { points: [...up, ...down].join(" "), style: "fill:var(--vermillion)" }));
  const at = scale(0, medium.seconds, 0, width);
  for (const value of ticks(0, medium.seconds, 8))
    svg.append(draw("text", { x: at(value), y: height - 4, "text-anchor": value === 0 ? "start" : at(value) > width - 12 ? "end" : "middle" }, `${value} s`));
  holder.replaceChildren(svg);
}

// Rows of equal length; a block is a stretch of one group and one item (frame, audio segment, option).
function tokenLayout(holder, tokens) {
  const width = Math.max(300, holder.clientWidth || 900), rowHeight = 30;
  const rows = Math.min(8, Math.max(1, Math.ceil(tokens.count / 90))), perRow = Math.ceil(tokens.count / rows);
  const x = scale(0, perRow, 0, width), svg = draw("svg", { viewBox: `0 0 ${width} ${rows * rowHeight}`, role: "img", "aria-label": "Token layout" }, hatches());
  const boxes = [];
  tokens.stretches.forEach(([group, item, first, count], index) => {
    for (let from = first; from < first + count;) {
      const row = Math.floor(from / perRow), to = Math.min(first + count, (row + 1) * perRow);
      const box = { x: x(from - row * perRow), y: row * rowHeight + 2, width: Math.max(0.8, x(to - from) - 1), height: rowHeight - 6, rx: 2 };
      svg.append(draw("rect", { ...box, style: `fill:${hue(tokens.groups[group].color)}` }));
      if (tokens.groups[group].hatched) svg.append(draw("rect", { ...box, fill: "url(#hatch)" }));
      if (item >= 0 && box.width > 16) svg.append(draw("text", { x: box.x + box.width / 2, y: box.y + 16, "text-anchor": "middle",
        style: "fill:#fff;font-size:11px;paint-order:stroke;stroke:rgb(0 0 0 / .55);stroke-width:2.5px" }, String(item)));
      boxes.push([box, index]);
      from = to;
    }
  });
  const frame = draw("rect", { class: "frame", visibility: "hidden", rx: 2 });
  svg.append(frame);
  holder.replaceChildren(svg);
  const tip = tipOf(holder);
  let current = -1;
  function show(number) {
    current = Math.min(Math.max(number, 0), boxes.length - 1);
    const [box, index] = boxes[current], [group, item, first, count, text] = tokens.stretches[index];
    for (const key of ["x", "y", "width", "height"]) frame.setAttribute(key, box[key]);
    frame.setAttribute("visibility", "visible");
    const name = tokens.groups[group].label + (item >= 0 ? ` ${item}` : "");
    const where = count === 1 ? `token ${first}` : `tokens ${first}–${first + count - 1} (${count})`;
    tip.show(box.x + box.width / 2, box.y + rowHeight, width, make("b", {}, name), where, ...(text ? [make("div", { class: "soft" }, JSON.stringify(text))] : []));
  }
  const hide = () => { frame.setAttribute("visibility", "hidden"); tip.hide(); };
  pointed(svg, width, (px, py) => {
    const found = boxes.findIndex(([b]) => px >= b.x && px <= b.x + b.width + 1 && py >= b.y - 2 && py < b.y + rowHeight - 2);
    found < 0 ? hide() : show(found);
  }, (dx, dy) => show(current + dx + dy), hide);
}

// The two answers of a sample, and what they took.
function answerTable(sample) {
  const { clean, evicted } = sample.answers;
  const ms = (seconds) => (1000 * seconds).toFixed(1), kb = (bytes) => (bytes / 1e3).toFixed(1);
  const row = (name, a, b, ratio) => make("tr", {}, make("th", {}, name), make("td", { class: "number" }, a), make("td", { class: "number" }, b), make("td", { class: "number" }, ratio));
  return make("table", { class: "answers" }, row("", "nothing leaves", "with the schedule", "ratio"),
    row("answer", clean.text || "(empty)", evicted.text || "(empty)", sample.answers.same ? "the same" : "differs"),
    row("prefill, ms", ms(clean.prefill_seconds), ms(evicted.prefill_seconds), (evicted.prefill_seconds / clean.prefill_seconds).toFixed(2)),
    row("keys and values, kB", kb(clean.kv_bytes), kb(evicted.kv_bytes), (evicted.kv_bytes / clean.kv_bytes).toFixed(2)));
}
