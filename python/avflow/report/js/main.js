// The page's state, its controls, and which chart shows what.
const data = JSON.parse(document.getElementById("data").textContent);
const place = (id) => document.getElementById(id);
const state = { run: 0, task: "", base: Number(root.dataset.base), off: new Set(), on: new Set(), sample: null };
const taskName = (task) => task || "all tasks";

function choice(legend, name, entries, chosen, change) {
  const labels = entries.map(([value, text]) => {
    const input = make("input", { type: "radio", name, value, checked: value === chosen ? "" : null });
    input.addEventListener("change", () => { change(value); render(); });
    return make("label", {}, input, make("span", {}, text));
  });
  return make("fieldset", { class: "choice" }, make("legend", {}, legend), ...labels);
}

function tasks() {
  const all = [...(data.sweeps ?? []).flatMap((s) => s.flow), ...["share", "lens", "patch", "tokens", "shift"].flatMap((name) => data[name] ?? [])];
  return [...new Set(all.map((entry) => entry.task))];
}

function controls() {
  const parts = [];
  if (tasks().length > 1) parts.push(choice("Task", "task", tasks().map((t) => [t, taskName(t)]), state.task, chooseTask));
  if ((data.sweeps ?? []).length > 1)
    parts.push(choice("Run", "run", data.sweeps.map((s, i) => [i, s.name]), state.run, (v) => { state.run = v; }));
  parts.push(choice("Layers count from", "base", [[0, "0"], [1, "1"]], state.base, (v) => { state.base = v; root.dataset.base = v; }));
  place("controls").replaceChildren(...parts);
}

// Light, dark, or what the system says.
function theme() {
  const system = matchMedia("(prefers-color-scheme: dark)"), button = place("theme");
  let own = null;
  const apply = () => {
    const dark = own === null ? system.matches : own;
    root.dataset.theme = dark ? "dark" : "light";
    button.textContent = dark ? "Light page" : "Dark page";
  };
  button.addEventListener("click", () => { own = root.dataset.theme !== "dark"; apply(); });
  system.addEventListener("change", apply);
  apply();
}

// A run without a sample of the task gives way to one that has some.
function chooseTask(task) {
  state.task = task;
  if (!data.sweeps?.length || entryOf(data.sweeps[state.run].flow)) return;
  const other = data.sweeps.findIndex((sweep) => entryOf(sweep.flow));
  if (other < 0) return;
  state.run = other;
  document.querySelector(`input[name="run"][value="${other}"]`).checked = true;
}

const entryOf = (entries) => entries.find((entry) => entry.task === state.task);
const linesIn = (entry) => entry.panels.flatMap((panel) => panel.lines);
const hidden = (line) => (line.quiet ? !state.on.has(line.path) : state.off.has(line.path));
const LEAST = 5; // points that an axis of changes spans at least
const unit = data.sweeps?.[0]?.flow[0].unit ?? "%"; // of all changes of sweeps: "%" or "points"

function absent(holder) {
  delete holder.dataset.names; // of charts that are gone now, and are to be made anew
  holder.replaceChildren(make("p", { class: "soft" }, `No sample of ${taskName(state.task)} here.`));
}

// "change in answer probability (%)", with what is said before the unit.
const axisOf = ({ axis }, more = "") => axis[0].toLowerCase() + axis.slice(1).replace(" (", `${more} (`);

// The chart that the page opens with: the paths that its first sentence is about, and thin lines for all others.
function storyChart() {
  const { sweep, paths } = data.story, lines = linesIn(data.sweeps[sweep].flow[0]);
  const told = paths.map((path) => lines.find((line) => line.path === path)), rest = lines.filter((line) => !paths.includes(line.path) && !line.quiet);
  lineChart(place("story"), { lines: told, faint: rest, quiet: lines.filter((line) => line.quiet && !paths.includes(line.path)), base: state.base, height: 320, zero: true,
    y: spread([...told, ...rest.map(({ points }) => ({ points: points.map((p) => [p[0], p[1], null, null]) }))], true, 1, LEAST),
    ylabel: axisOf(data.sweeps[sweep].flow[0], " when the path is cut"), xlabel: "layer (window centre)", label: "The strongest paths: mean change by layer" });
  const top = (line) => line.points.reduce((best, p) => (Math.abs(p[1]) > Math.abs(best[1]) ? p : best));
  const items = told.map((line) => [line, top(line)]).map(([line, p]) => make("li", {}, swatch(line), make("div", {}, make("b", {}, line.label),
    make("span", { class: "soft" }, `${roundText(p[1])} ${unit} at layer ${p[0] + state.base}`, p[2] === null ? "" : " ", p[2] === null ? "" : make("span", { class: "whole" }, `[${roundText(p[2])}, ${roundText(p[3])}]`)))));
  const others = lines.length - told.length;
  if (others) items.push(make("li", {}, swatch({ color: "faint", dashes: [] }), make("div", {}, make("span", { class: "soft" }, `${others} other path${others === 1 ? "" : "s"}`))));
  place("story-key").replaceChildren(...items);
  saving("story", () => flowRows([data.sweeps[sweep].flow[0]]));
}

const flowRows = (entries) => [["task", "path", "layer", "mean", "low", "high", "samples", "p"],
  ...entries.flatMap((entry) => linesIn(entry).flatMap((line) => line.points.map((p) => [entry.task || "all", line.path, p[0] + state.base, ...p.slice(1)])))];

// A panel's charts in `holder`, a place each; `legends` makes what stands below.
function flowPanels(holder, entry, legends) {
  const drawn = linesIn(entry).filter((line) => !hidden(line));
  const y = spread(drawn.length ? drawn : [{ points: [[0, 0, 0, 0]] }], true, 1, LEAST);
  const names = entry.panels.map((panel) => panel.lines.map((line) => `${line.path}${line.quiet ? "~" : ""}`)).join();
  // The legends hold the focus of who chooses paths by key: they are made anew only with another set of paths.
  if (holder.dataset.names !== names) {
    holder.dataset.names = names;
    holder.replaceChildren(...entry.panels.map((panel) => make("section", {}, make("h3", {}, panel.title), make("div", { class: "chart" }), legends(panel.lines))));
  }
  entry.panels.forEach((panel, i) => lineChart(holder.children[i].querySelector(".chart"), {
    lines: panel.lines.filter((line) => !hidden(line)), quiet: panel.lines.filter((line) => line.quiet && hidden(line)), base: state.base, y, zero: true,
    ylabel: axisOf(entry), xlabel: "layer (window centre)", label: `${panel.title}: mean change by layer` }));
}

function flowCharts() {
  const holder = place("flow"), map = place("heat"), entry = entryOf(data.sweeps[state.run].flow);
  place("flow-count").textContent = entry ? `${taskName(entry.task)}, ${entry.samples} sample${entry.samples === 1 ? "" : "s"}` : "";
  if (!entry) { absent(holder); absent(map); place("numbers").replaceChildren(); return; }
  flowPanels(holder, entry, legend);
  const shown = linesIn(entry).filter((line) => !state.off.has(line.path));
  if (shown.length) heatMap(map, shown, state.base, `Mean change by path and layer, ${taskName(entry.task)}`);
  else map.replaceChildren(make("p", { class: "soft" }, "No path is shown."));
  numbers(place("numbers"), shown);
  saving("flow", () => flowRows(data.sweeps[state.run].flow));
  saving("heat", () => flowRows([entryOf(data.sweeps[state.run].flow)].filter(Boolean)));
}

// Lines with a box each; those that do nothing stand together, folded, and are drawn as one band unless they are chosen.
function legend(lines) {
  const item = (line) => {
    const box = make("input", { type: "checkbox", checked: line.quiet ? (state.on.has(line.path) ? "" : null) : state.off.has(line.path) ? null : "", "data-path": line.path });
    box.addEventListener("change", () => {
      const set = line.quiet ? state.on : state.off;
      box.checked === Boolean(line.quiet) ? set.add(line.path) : set.delete(line.path);
      render();
    });
    return make("li", {}, make("label", {}, box, swatch(line), make("span", {}, line.label)));
  };
  const loud = lines.filter((line) => !line.quiet), quiet = lines.filter((line) => line.quiet);
  const items = loud.map(item);
  if (quiet.length) {
    const most = Math.max(...quiet.flatMap((line) => line.points.map((p) => Math.abs(p[1]))));
    const told = `${quiet.length} path${quiet.length === 1 ? "" : "s"} without effect (within ±${numberText(Math.max(0.1, most), false, 1)} ${unit})`;
    items.push(make("li", {}, make("details", { class: "quiet" }, make("summary", {}, make("i", {}), told), make("ul", { class: "legend" }, ...quiet.map(item)))));
  }
  return make("ul", { class: "legend" }, ...items);
}

// The heat map as a table, for reading out and copying.
function numbers(holder, lines) {
  const layers = layersOf(lines);
  const head = make("tr", {}, make("th", { scope: "col" }, `mean change (${unit})`), ...layers.map((layer) => make("th", { class: "number", scope: "col" }, layer + state.base)));
  holder.replaceChildren(make("table", {}, head, ...lines.map((line) => make("tr", {}, make("th", { scope: "row", class: "path" }, line.label),
    ...layers.map((layer) => make("td", { class: "number" }, numberText(line.points.find((p) => p[0] === layer)?.[1])))))));
}

function compareCharts() {
  const select = place("compare-path");
  if (!select.options.length) {
    const own = data.sweeps.map((s) => new Map(s.flow.flatMap((e) => linesIn(e).map((l) => [l.path, l.label]))));
    const labels = own.flatMap((map) => [...map]).filter(([path]) => own.filter((map) => map.has(path)).length > 1);
    select.append(...[...new Map(labels)].map(([path, label]) => make("option", { value: path }, label)));
    select.addEventListener("change", render);
  }
  const colors = ["blue", "vermillion", "green", "orange", "purple", "sky", "grey"], shapes = [[], [10, 3.2], [2.4, 2.8]];
  const lines = data.sweeps.map((sweep, i) => {
    const entry = entryOf(sweep.flow), line = entry && linesIn(entry).find((l) => l.path === select.value);
    return line && { ...line, label: sweep.name, color: colors[i % 7], dashes: shapes[Math.floor(i / 7) % 3] };
  }).filter(Boolean);
  if (!lines.length) return absent(place("compare"));
  const holder = make("div", { class: "chart" });
  place("compare").replaceChildren(holder, make("ul", { class: "legend" }, ...lines.map(lineItem)));
  lineChart(holder, { lines, base: state.base, y: spread(lines, true, 1, LEAST), zero: true, ylabel: `change (${unit})`, xlabel: "layer (window centre)", label: "One path in several runs" });
  saving("compare", () => [["run", "path", "layer", "mean", "low", "high", "samples", "p"], ...lines.flatMap((line) => line.points.map((p) => [line.label, line.path, p[0] + state.base, ...p.slice(1)]))]);
}

function lookCharts() {
  if (data.share) {
    const entry = entryOf(data.share);
    if (entry) { shareBars(place("share"), entry, state.base, "Share of the last token's attention by group and layer");
      place("share-legend").replaceChildren(...[...entry.groups].reverse().map((g) => groupItem(g))); }
    else { absent(place("share")); place("share-legend").replaceChildren(); }
    saving("share", () => [["task", "group", "layer", "share"], ...data.share.flatMap((e) => e.groups.flatMap((g) => e.layers.map((layer, j) => [e.task || "all", g.group, layer + state.base, g.values[j]])))]);
  }
  if (data.lens) {
    const entry = entryOf(data.lens);
    if (!entry) { absent(place("lens")); place("lens-legend").replaceChildren(); return; }
    lineChart(place("lens"), { lines: entry.lines, base: state.base, y: [0, Math.max(...spread(entry.lines, true))], ylabel: "probability after the layer",
      label: "Answer lens", height: 290, form: shareText });
    place("lens-legend").replaceChildren(...entry.lines.map(lineItem));
    saving("lens", () => [["task", "option", "layer", "mean", "low", "high"], ...data.lens.flatMap((e) => e.lines.flatMap((l) => l.points.map((p) => [e.task || "all", l.label, p[0] + state.base, ...p.slice(1, 4)])))]);
  }
}

// Sections of panels with lines: patching (points), words by the lens (%), shift (% and nats).
function panelCharts(name, ylabel) {
  const entry = entryOf(data[name]), holder = place(name);
  if (!entry) return absent(holder);
  holder.replaceChildren(...entry.panels.map((panel) => make("section", {}, ...(panel.title ? [make("h3", {}, panel.title)] : []), make("div", { class: "chart" }),
    make("ul", { class: "legend" }, ...panel.lines.map((line) => make("li", {}, make("span", { class: "item" }, swatch(line), line.label)))))));
  entry.panels.forEach((panel, i) => lineChart(holder.children[i].querySelector(".chart"), {
    lines: panel.lines, base: state.base, y: spread(panel.lines, true), zero: true, ylabel: ylabel ?? panel.title,
    label: `${panel.title || ylabel} by layer` }));
  saving(name, () => [["task", "panel", "line", "layer", "mean", "low", "high"], ...data[name].flatMap((e) => e.panels.flatMap((panel) => panel.lines.flatMap((l) => l.points.map((p) => [e.task || "all", panel.title, l.path ?? l.label, p[0] + state.base, ...p.slice(1, 4)]))))]);
}

function planCharts() {
  const { plan } = data, pick = (a, b, c) => plan.lines.map((line) => ({ ...line, points: line.points.map((p) => [p[0], p[a], p[b], p[c]]) }));
  const marks = (column) => plan.lines.filter((line) => line.leaves !== null)
    .map((line) => [line.leaves, line.points.find((p) => p[0] === line.leaves)?.[column], line.color]).filter((mark) => mark[1] !== undefined);
  const shared = { base: state.base, xlabel: "last layer that sees the group", height: 290 };
  const far = plan.figures.measure === "kl"; // a label-free plan: no answer is looked at
  const held = (v) => (v === null ? v : Math.min(1, Math.max(0, v))), inside = (line) => ({ ...line, points: line.points.map((q) => [q[0], q[1], held(q[2]), held(q[3])]) });
  const accuracy = pick(1, 2, 3), p = pick(4, 5, 6);
  lineChart(place("plan-accuracy"), { ...shared, lines: accuracy.map(inside), factor: 100, y: spread(accuracy.map(inside), false, 100, LEAST), form: (v) => numberText(v, false), ylabel: far ? "prompts within the KL allowed (%)" : "accuracy (%)", flat: plan.accuracy, marks: marks(1), label: far ? "Prompts within the KL allowed after eviction" : "Accuracy after eviction" });
  lineChart(place("plan-p"), { ...shared, lines: p, y: spread(p, false, 1, 0.05), form: shareText, ylabel: far ? "exp(mean log p of the next token)" : "probability of the right answer", flat: plan.p, marks: marks(4), label: far ? "exp(mean log p of the next token) after eviction" : "Probability of the right answer after eviction" });
  place("plan-legend").replaceChildren(...plan.lines.map(lineItem));
  const last = Math.max(...plan.lines.flatMap((line) => line.points.map((q) => q[0])));
  scheduleBars(place("schedule"), plan, state.base, data.sweeps?.[0]?.layers || last + 2);
  saving("plan", () => [["group", "layer", "accuracy", "accuracy low", "accuracy high", "p", "p low", "p high"], ...plan.lines.flatMap((line) => line.points.map((q) => [line.group, q[0] + state.base, ...q.slice(1)]))]);
}

// Paper has no buttons: what is folded is opened, and the runs that are not chosen follow, each with its charts.
function printed() {
  const opened = [...document.querySelectorAll("details:not([open])")];
  opened.forEach((fold) => { fold.open = true; });
  const holder = place("other-runs");
  (data.sweeps ?? []).forEach((sweep, i) => {
    const entry = sweep.flow[0];
    if (!holder || i === state.run || !entry) return;
    const panels = make("div", { class: "panels" });
    holder.append(make("h3", {}, `${sweep.name}: ${taskName(entry.task)}, ${entry.samples} samples`), panels);
    flowPanels(panels, entry, (lines) => make("ul", { class: "legend" }, ...lines.map(lineItem)));
  });
  return () => { opened.forEach((fold) => { fold.open = false; }); holder?.replaceChildren(); };
}

function printing() {
  let undo = null;
  const begin = () => { undo ??= printed(); }, end = () => { undo?.(); undo = null; };
  addEventListener("beforeprint", begin);
  addEventListener("afterprint", end);
  const paper = matchMedia("print");
  paper.addEventListener("change", () => (paper.matches ? begin() : end()));
}

function render() {
  if (data.story) storyChart();
  if (data.sweeps?.length) { flowCharts(); if (place("compare")) compareCharts(); }
  lookCharts();
  if (data.patch?.length) panelCharts("patch", "change in answer probability (points)");
  if (data.tokens) panelCharts("tokens", "tokens (%)");
  if (data.shift) panelCharts("shift");
  if (data.plan) planCharts();
  if (place("sample")) sampleCharts();
}

theme();
controls();
samplesBegin();
render();
printing();
let seen = root.clientWidth;
addEventListener("resize", () => { if (root.clientWidth !== seen) { seen = root.clientWidth; render(); } });
