// What the page's scripts take from Observable Plot. Only what is named here, and what it needs of d3, is bundled.
export { plot, lineY, areaY, ruleX, ruleY, dot, cell, text, rect, barX, barY, axisX, axisY, gridY } from "@observablehq/plot";
