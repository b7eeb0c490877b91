// The page's state, its controls, and which chart shows what.
const data = JSON.parse(document.getElementById("data").textContent);
const place = (id) => document.getElementById(id);
const state = { run: 0, task: "", base: Number(root.dataset.base), off: new Set(), sample: 0 };
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

function absent(holder) {
  delete holder.dataset.names; // of charts that are gone now, and are to be made anew
  holder.replaceChildren(make("p", { class: "soft" }, `No sample of ${taskName(state.task)} here.`));
}

function flowCharts() {
  const holder = place("flow"), map = place("heat"), entry = entryOf(data.sweeps[state.run].flow);
  place("flow-count").textContent = entry ? `${taskName(entry.task)}, ${entry.samples} sample${entry.samples === 1 ? "" : "s"}` : "";
  if (!entry) { absent(holder); absent(map); place("numbers").replaceChildren(); return; }
  const visible = entry.panels.flatMap((panel) => panel.lines.filter((line) => !state.off.has(line.path)));
  const y = spread(visible.length ? visible : [{ points: [[0, 0, 0, 0]] }], true);
  // The legends hold the focus of who chooses paths by key: they are made anew only with another set of paths.
  const names = entry.panels.map((panel) => panel.lines.map((line) => line.path)).join();
  if (holder.dataset.names !== names) {
    holder.dataset.names = names;
    holder.replaceChildren(...entry.panels.map((panel) => make("section", {}, make("h3", {}, panel.title), make("div", { class: "chart" }), legend(panel.lines))));
  }
  entry.panels.forEach((panel, i) => lineChart(holder.children[i].querySelector(".chart"), {
    lines: panel.lines.filter((line) => !state.off.has(line.path)), base: state.base, y, zero: true,
    ylabel: i ? "" : entry.own ? "change in own answer's probability (%)" : "change in answer probability (%)", xlabel: "layer (window centre)", label: `${panel.title}: mean change by layer` }));
  if (visible.length) heatMap(map, visible, state.base, `Mean change by path and layer, ${taskName(entry.task)}`);
  else map.replaceChildren(make("p", { class: "soft" }, "No path is shown."));
  numbers(place("numbers"), visible);
}

function legend(lines) {
  return make("ul", { class: "legend" }, ...lines.map((line) => {
    const box = make("input", { type: "checkbox", checked: state.off.has(line.path) ? null : "", "data-path": line.path });
    box.addEventListener("change", () => { box.checked ? state.off.delete(line.path) : state.off.add(line.path); render(); });
    return make("li", {}, make("label", {}, box, swatch(line), make("span", {}, line.label)));
  }));
}

// The heat map as a table, for reading out and copying.
function numbers(holder, lines) {
  const layers = [...new Set(lines.flatMap((line) => line.points.map((p) => p[0])))].sort((a, b) => a - b);
  const head = make("tr", {}, make("th", {}, "mean change (%)"), ...layers.map((layer) => make("th", { class: "number" }, layer + state.base)));
  holder.replaceChildren(make("table", {}, head, ...lines.map((line) => make("tr", {}, make("th", {}, line.label),
    ...layers.map((layer) => make("td", { class: "number" }, numberText(line.points.find((p) => p[0] === layer)?.[1])))))));
}

function compareCharts() {
  const select = place("compare-path");
  if (!select.options.length) {
    const own = data.sweeps.map((s) => new Map(s.flow.flatMap((e) => e.panels.flatMap((p) => p.lines.map((l) => [l.path, l.label])))));
    const labels = own.flatMap((map) => [...map]).filter(([path]) => own.filter((map) => map.has(path)).length > 1);
    select.append(...[...new Map(labels)].map(([path, label]) => make("option", { value: path }, label)));
    select.addEventListener("change", render);
  }
  const colors = ["blue", "vermillion", "green", "orange", "purple", "sky", "grey"], shapes = [[], [10, 3.2], [2.4, 2.8]];
  const lines = data.sweeps.map((sweep, i) => {
    const line = entryOf(sweep.flow)?.panels.flatMap((p) => p.lines).find((l) => l.path === select.value);
    return line && { ...line, label: sweep.name, color: colors[i % 7], dashes: shapes[Math.floor(i / 7) % 3] };
  }).filter(Boolean);
  if (!lines.length) return absent(place("compare"));
  const chart = make("div", { class: "chart" });
  place("compare").replaceChildren(chart, make("ul", { class: "legend" }, ...lines.map((line) => make("li", {}, make("span", { class: "item" }, swatch(line), line.label)))));
  lineChart(chart, { lines, base: state.base, y: spread(lines, true), zero: true, ylabel: "change (%)", xlabel: "layer (window centre)", label: "One path in several runs" });
}

function lookCharts() {
  if (data.share) {
    const entry = entryOf(data.share);
    if (entry) { shareBars(place("share"), entry, state.base, "Share of the last token's attention by group and layer");
      place("share-legend").replaceChildren(...[...entry.groups].reverse().map((g) => groupItem(g))); }
    else { absent(place("share")); place("share-legend").replaceChildren(); }
  }
  if (data.lens) {
    const entry = entryOf(data.lens);
    if (!entry) { absent(place("lens")); place("lens-legend").replaceChildren(); return; }
    lineChart(place("lens"), { lines: entry.lines, base: state.base, y: [0, Math.max(...spread(entry.lines, true))], ylabel: "probability after the layer",
      label: "Answer lens", height: 280, form: (v) => numberText(v, false) });
    place("lens-legend").replaceChildren(...entry.lines.map((line) => make("li", {}, make("span", { class: "item" }, swatch(line), line.label))));
  }
}

// Sections of panels with lines: patching (points), words by the lens (%), shift (% and nats).
function panelCharts(name, ylabel) {
  const entry = entryOf(data[name]), holder = place(name);
  if (!entry) return absent(holder);
  holder.replaceChildren(...entry.panels.map((panel) => make("section", {}, make("h3", {}, panel.title), make("div", { class: "chart" }),
    make("ul", { class: "legend" }, ...panel.lines.map((line) => make("li", {}, make("span", { class: "item" }, swatch(line), line.label)))))));
  entry.panels.forEach((panel, i) => lineChart(holder.children[i].querySelector(".chart"), {
    lines: panel.lines, base: state.base, y: spread(panel.lines, true), zero: true, ylabel: ylabel ?? panel.title,
    label: `${panel.title || ylabel} by layer` }));
}

function planCharts() {
  const { plan } = data, pick = (a, b, c) => plan.lines.map((line) => ({ ...line, points: line.points.map((p) => [p[0], p[a], p[b], p[c]]) }));
  const marks = (column) => plan.lines.filter((line) => line.leaves !== null)
    .map((line) => [line.leaves, line.points.find((p) => p[0] === line.leaves)[column], line.color]);
  const shared = { base: state.base, xlabel: "last layer that sees the group", form: (v) => numberText(v, false) };
  const far = plan.figures.measure === "kl"; // a label-free plan: no answer is looked at
  const accuracy = pick(1, 2, 3), p = pick(4, 5, 6);
  lineChart(place("plan-accuracy"), { ...shared, lines: accuracy, factor: 100, y: spread(accuracy, false, 100), ylabel: far ? "prompts within the KL allowed (%)" : "accuracy (%)", flat: plan.accuracy, marks: marks(1), label: far ? "Prompts within the KL allowed after eviction" : "Accuracy after eviction" });
  lineChart(place("plan-p"), { ...shared, lines: p, y: spread(p, false), ylabel: far ? "exp(mean log p of the next token)" : "probability of the right answer", flat: plan.p, marks: marks(4), label: far ? "exp(mean log p of the next token) after eviction" : "Probability of the right answer after eviction" });
  place("plan-legend").replaceChildren(...plan.lines.map((line) => make("li", {}, make("span", { class: "item" }, swatch(line), line.label))));
  const last = Math.max(...plan.lines.flatMap((line) => line.points.map((q) => q[0])));
  scheduleBars(place("schedule"), plan, state.base, data.sweeps?.[0]?.layers || last + 2);
}

function sampleCharts() {
  const { samples } = data.samples, select = place("sample-choice");
  if (!select.options.length) {
    select.append(...samples.map((s, i) => make("option", { value: i }, `${s.task ? `${s.task}: ` : ""}${s.id}`)));
    select.addEventListener("change", () => { state.sample = Number(select.value); render(); });
  }
  sampleView(place("sample"), samples[state.sample]);
  if (samples[state.sample].answers) place("sample").append(make("h3", {}, "The generated answer"), answerTable(samples[state.sample]));
}

function render() {
  if (data.sweeps?.length) { flowCharts(); if (place("compare")) compareCharts(); }
  lookCharts();
  if (data.patch?.length) panelCharts("patch", "change in answer probability (points)");
  if (data.tokens) panelCharts("tokens", "tokens (%)");
  if (data.shift) panelCharts("shift");
  if (data.plan) planCharts();
  if (data.samples?.samples.length) sampleCharts();
}

theme();
controls();
render();
let seen = root.clientWidth;
addEventListener("resize", () => { if (root.clientWidth !== seen) { seen = root.clientWidth; render(); } });
