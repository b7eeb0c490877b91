// npm ci --ignore-scripts && npm run build
// Bundles plot.js into one minified script, and the licences of all that is in it into one text.
import { build } from "esbuild";
import { existsSync, readFileSync, writeFileSync } from "node:fs";

const vendor = new URL("../../python/avflow/report/vendor/", import.meta.url);
const packageOf = (folder) => JSON.parse(readFileSync(`node_modules/${folder}/package.json`, "utf8"));
const made = await build({
  entryPoints: ["plot.js"], bundle: true, minify: true, write: false, metafile: true,
  format: "iife", globalName: "Plot", target: "es2020", legalComments: "none",
});
// All that could be in it: a package may carry parts of another in its own files.
const lock = JSON.parse(readFileSync("package-lock.json", "utf8")).packages;
const packages = Object.keys(lock).filter((path) => path && !lock[path].dev).map((path) => path.replace("node_modules/", ""));
const head = `/* Observable Plot ${packageOf("@observablehq/plot").version} and what it needs of d3, bundled by tools/page_bundle. Licences: LICENSES.txt */\n`;
writeFileSync(new URL("plot.min.js", vendor), head + made.outputFiles[0].text);

const licences = packages.map((name) => {
  const { version, license } = packageOf(name);
  const file = ["LICENSE", "LICENSE.md", "LICENSE.txt", "UNLICENSE"].find((f) => existsSync(`node_modules/${name}/${f}`));
  const text = file ? readFileSync(`node_modules/${name}/${file}`, "utf8").trim() : `(no file of its own; ${license})`;
  return `== ${name} ${version} (${license})\n\n${text}\n`;
});
writeFileSync(new URL("LICENSES.txt", vendor), `plot.min.js holds parts of these packages of npm, unchanged but for minification and what nothing uses being left out.\n\n${licences.join("\n")}`);
console.log(`${packages.length} packages, ${made.outputFiles[0].text.length} bytes`);
