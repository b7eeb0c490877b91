// What a section shows, as files: its numbers as CSV, its charts as one SVG.
function csvText(rows) {
  const cell = (value) => {
    const text = value === null || value === undefined ? "" : String(value);
    const safe = typeof value === "string" && /^[=+\-@\t\r]/.test(text) ? `'${text}` : text; // no cell is a formula
    return /[",\n\r]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
  };
  return rows.map((row) => row.map(cell).join(",")).join("\n") + "\n";
}

const DRAWN = ["fill", "fill-opacity", "stroke", "stroke-width", "stroke-opacity", "stroke-dasharray", "stroke-linecap", "opacity", "font-size", "font-family", "text-anchor", "visibility"];

// A file of its own: the page's colours are variables of its style, so what they are now is written into it.
function svgText(charts) {
  const out = draw("svg", { xmlns: NS }), space = 34;
  let width = 0, height = 0;
  for (const svg of charts) {
    const copy = svg.cloneNode(true), from = [svg, ...svg.querySelectorAll("*")], to = [copy, ...copy.querySelectorAll("*")];
    from.forEach((node, i) => {
      const style = getComputedStyle(node);
      for (const name of DRAWN) if (style.getPropertyValue(name)) to[i].setAttribute(name, style.getPropertyValue(name));
      to[i].removeAttribute("style");
    });
    copy.querySelectorAll("style").forEach((node) => node.remove());
    const [, , w, h] = svg.getAttribute("viewBox").split(" ").map(Number);
    for (const [key, value] of Object.entries({ x: 8, y: height + space, width: w, height: h, overflow: "visible" })) copy.setAttribute(key, value);
    const title = svg.closest(".chart")?.parentNode.querySelector("h3")?.textContent ?? svg.getAttribute("aria-label");
    out.append(draw("text", { x: 8, y: height + 20, "font-family": "sans-serif", "font-size": 13, "font-weight": 600, fill: getComputedStyle(root).getPropertyValue("--ink") }, title), copy);
    width = Math.max(width, w + 16);
    height += h + space + 12;
  }
  out.prepend(draw("rect", { width: "100%", height: "100%", fill: getComputedStyle(root).getPropertyValue("--paper") }));
  for (const [key, value] of Object.entries({ viewBox: `0 0 ${width} ${height}`, width, height })) out.setAttribute(key, value);
  return new XMLSerializer().serializeToString(out);
}

function offer(name, type, text) {
  const url = URL.createObjectURL(new Blob([text], { type }));
  make("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}

// The buttons of a section: `rows` gives its numbers when they are asked for, with a head.
function saving(id, rows) {
  const bar = document.querySelector(`[data-save="${id}"]`);
  if (!bar || bar.childElementCount) return;
  const button = (kind, told, make_) => {
    const made = make("button", { type: "button", title: told, "aria-label": told }, kind);
    made.addEventListener("click", make_);
    return made;
  };
  bar.append(button("CSV", `The numbers of ${id} as a CSV file`, () => offer(`${id}.csv`, "text/csv", csvText(rows()))),
    button("SVG", `The charts of ${id} as an SVG file`, () => offer(`${id}.svg`, "image/svg+xml", svgText(bar.closest("section").querySelectorAll(".chart > svg")))));
}
