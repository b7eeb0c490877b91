// The samples: a list to search and sort, and the chosen one beside it. The choice stands in the page's address.
const shown = () => data.samples?.samples ?? [];

// All that is known of the samples of the chosen run and task, in the order of the list. Samples of no run come too.
function sampleList() {
  const known = new Map();
  for (const sample of [...(data.text ?? []), ...shown()]) known.set(sample.id, { ...known.get(sample.id), ...sample });
  const seen = new Map((data.sweeps ?? []).flatMap((sweep) => sweep.each).filter((s) => s.media).map((s) => [s.id, s.media]));
  const own = data.sweeps?.[state.run]?.each ?? [], swept = new Set((data.sweeps ?? []).flatMap((sweep) => sweep.each.map((s) => s.id)));
  const all = [...own.map((sample, number) => ({ number, media: seen.get(sample.id), ...known.get(sample.id), ...sample })), ...[...known.values()].filter((sample) => !swept.has(sample.id))];
  const words = state.search.toLowerCase().split(/\s+/).filter(Boolean);
  const told = (s) => `${s.id} ${s.task} ${s.question ?? ""}`.toLowerCase();
  const found = all.filter((s) => (!state.task || s.task === state.task) && words.every((word) => told(s).includes(word)));
  const size = (s) => Math.abs(s.effect?.[2] ?? 0);
  const orders = { effect: (a, b) => size(b) - size(a), task: (a, b) => (a.task < b.task ? -1 : a.task > b.task ? 1 : 0), order: () => 0 };
  return [...found].sort(orders[state.order]);
}

function samplesBegin() {
  state.search = "";
  state.order = (data.sweeps ?? []).some((sweep) => sweep.each) ? "effect" : "order";
  if (!place("sample")) return;
  const search = place("sample-search"), order = place("sample-order");
  search.addEventListener("input", () => { state.search = search.value; sampleNames(); });
  order.value = state.order;
  order.addEventListener("change", () => { state.order = order.value; sampleNames(); });
  const read = () => { const id = hashOf(); if (id !== null) state.sample = id; return id !== null && bringRun(id); };
  addEventListener("hashchange", () => (read() ? render() : sampleCharts()));
  read();
  if (state.sample !== null) requestAnimationFrame(() => place("sample").closest("section").scrollIntoView());
}

function hashOf() {
  const found = location.hash.match(/^#sample=(.*)$/);
  try { return found ? decodeURIComponent(found[1]) : null; } catch { return null; }
}

// A link to a sample of another run, or of another task than is chosen, brings these. Has anything changed?
function bringRun(id) {
  const sweeps = data.sweeps ?? [], find = (sweep) => sweep?.each?.find((s) => s.id === id), was = `${state.run} ${state.task}`;
  if (!find(sweeps[state.run])) {
    const other = sweeps.findIndex(find);
    if (other < 0) return false;
    state.run = other;
  }
  if (state.task && state.task !== find(sweeps[state.run]).task) state.task = "";
  if (was === `${state.run} ${state.task}`) return false;
  controls();
  return true;
}

const MOST_NAMES = 400; // in the list at once; the search finds the others

function sampleNames() {
  const list = sampleList(), most = Math.max(1, ...list.map((s) => Math.abs(s.effect?.[2] ?? 0)));
  place("sample-list").replaceChildren(...list.slice(0, MOST_NAMES).map((s) => {
    const change = s.effect?.[2];
    const link = make("a", { href: `#sample=${encodeURIComponent(s.id)}`, "aria-current": s.id === state.sample ? "true" : null },
      make("b", {}, s.question || s.id), make("span", { class: "soft" }, [s.question ? s.id : "", s.task].filter(Boolean).join(" · ")),
      ...(change === undefined ? [] : [make("span", { class: "effect" }, make("i", { class: change < 0 ? "" : "up", style: `width:${(100 * Math.min(1, Math.abs(change) / most)).toFixed(1)}%` }), make("em", {}, `${roundText(change)} ${unit}`))]));
    return make("li", {}, link);
  }));
  const more = list.length - MOST_NAMES;
  place("sample-count").textContent = `${list.length} sample${list.length === 1 ? "" : "s"}${more > 0 ? `, the first ${MOST_NAMES} listed` : ""}`;
  return list;
}

function sampleCharts() {
  const list = sampleNames(), chosen = list.find((s) => s.id === state.sample) ?? list[0];
  if (!chosen) return absent(place("sample"));
  if (chosen.id !== state.sample) {
    state.sample = chosen.id;
    place("sample-list").querySelector("a")?.setAttribute("aria-current", "true");
  }
  // A page that is served asks for the rest of a sample (served/ask.js).
  if (typeof moreOf !== "function" || chosen.number === undefined) return oneSample(place("sample"), chosen);
  moreOf(chosen).then((more) => { if (state.sample === chosen.id) oneSample(place("sample"), { ...chosen, ...more }); });
}

let current = null; // the sample that is shown, whole

function oneSample(holder, sample) {
  current = sample;
  sampleView(holder, sample);
  const about = [sample.id, sample.task, sample.correct === true ? "answered right" : sample.correct === false ? "answered wrong" : "",
    sample.p_clean == null ? "" : `probability of the answer ${shareText(sample.p_clean)}`].filter(Boolean).join(" · ");
  holder.querySelector(".question").after(make("p", { class: "soft" }, about));
  if (sample.curves) {
    const styles = new Map(data.sweeps[state.run].flow.flatMap((entry) => linesIn(entry)).map((line) => [line.path, line]));
    const lines = Object.entries(sample.curves).map(([path, points]) => ({ ...styles.get(path), points: points.map(([layer, change]) => [layer, change, null, null]) })).filter((line) => line.label);
    const loud = (line) => line.points.some((p) => Math.abs(p[1]) >= LEAST), chosen = lines.filter(loud).sort((a, b) => Math.max(...b.points.map((p) => Math.abs(p[1]))) - Math.max(...a.points.map((p) => Math.abs(p[1]))));
    const place_ = make("div", { class: "chart keep" });
    holder.append(make("h3", {}, "What cutting each path does to this sample's answer"), place_, make("ul", { class: "legend" }, ...chosen.map(lineItem)));
    if (!chosen.length) holder.append(make("p", { class: "soft" }, `No path changes this answer by ${LEAST} ${unit} or more.`));
    lineChart(place_, { lines: chosen, quiet: lines.filter((line) => !loud(line)), base: state.base, y: spread(lines, true, 1, LEAST), zero: true, ylabel: `change in answer probability (${unit})`, xlabel: "layer (window centre)", label: "This sample's change by path and layer" });
    saving("sample", () => [["sample", "path", "layer", "change"], ...Object.entries(current.curves).flatMap(([path, points]) => points.map(([layer, change]) => [current.id, path, layer + state.base, change]))]);
  }
  if (sample.texts) holder.append(make("h3", {}, "What it says with a path cut"), textTable(sample.texts));
  if (sample.answers) holder.append(make("h3", {}, "The generated answer"), answerTable(sample));
}

// [knockout, first layer, last layer, text or null: as the clean run's]; what changes nothing is only counted.
function textTable({ clean, rows }) {
  const other = rows.filter((row) => row[3] !== null), same = rows.length - other.length;
  const head = make("tr", {}, ...["cut", "layers", "text"].map((name) => make("th", { scope: "col" }, name)));
  const body = other.map(([path, first, last, text]) => make("tr", {}, make("th", { scope: "row", class: "path" }, path),
    make("td", { class: "soft path" }, first === last ? first + state.base : `${first + state.base}–${last + state.base}`), make("td", {}, text || "(empty)")));
  return make("div", { class: "wide" }, make("p", {}, make("span", { class: "soft" }, "nothing cut: "), clean || "(empty)"),
    ...(other.length ? [make("table", { class: "texts" }, head, ...body)] : []),
    make("p", { class: "soft" }, `${same} of ${rows.length} knockouts leave the text as it is.`));
}
