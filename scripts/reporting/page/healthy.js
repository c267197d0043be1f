// ---- a case beside the healthy images of the calibration ----------------------------------------------------------
const GREY = "#b9b9b9", OWN = "#e69f00"; // apart in lightness and, with the shapes, for every colour vision
const count = (share, of) => `${Math.round(share * of)} of ${of}`;

function drawn(parent, name, attributes, text) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (text !== undefined) node.textContent = text;
  parent.append(node);
  return node;
}

// A logarithmic axis over some values: value -> 0 to 1, and its ticks at 1, 2, 5, 10 ...
function logarithmic(values) {
  const positive = values.filter((v) => v > 0);
  const low = Math.log10(Math.min(...positive) / 1.3), high = Math.log10(Math.max(...positive) * 1.3);
  const ticks = [];
  for (let e = Math.floor(low); e <= high; e++) for (const m of high - low > 2 ? [1] : [1, 2, 5]) ticks.push(m * 10 ** e);
  const to = (v) => (Math.log10(v) - low) / (high - low);
  return { to, ticks: ticks.filter((t) => to(t) > 0.02 && to(t) < 0.98) };
}

function horizontal(svg, scale, left, wide, y, title) {
  drawn(svg, "line", { x1: left, x2: left + wide, y1: y, y2: y, stroke: "#888888" });
  for (const tick of scale.ticks) {
    const x = left + wide * scale.to(tick);
    drawn(svg, "line", { x1: x, x2: x, y1: y, y2: y + 4, stroke: "#888888" });
    drawn(svg, "text", { x, y: y + 16, "text-anchor": "middle" }, number(tick));
  }
  drawn(svg, "text", { x: left + wide / 2, y: y + 32, "text-anchor": "middle" }, title);
}

function scorePlot(svg, score, scores) {
  svg.replaceChildren();
  const left = 16, wide = 388, y = 54, scale = logarithmic([score, ...scores]);
  for (const one of scores) {
    if (one > 0) drawn(svg, "circle", { cx: left + wide * scale.to(one), cy: y - 12, r: 4.5, fill: "none", stroke: GREY, "stroke-width": 1.5 });
  }
  const x = left + wide * scale.to(score);
  if (score > 0) {
    drawn(svg, "path", { d: `M${x},${y - 4} l7,-8 -7,-8 -7,8 z`, fill: OWN, stroke: "#000000" });
    drawn(svg, "text", { x: Math.min(Math.max(x, 40), 380), y: y - 28, "text-anchor": "middle", class: "own" }, "this head");
  }
  horizontal(svg, scale, left, wide, y, "anomaly score");
}

function findingsPlot(svg, findings, healthy) {
  svg.replaceChildren();
  const own = findings.map((f) => [f.peak, f.volume_mm3, f.number]).filter(([, size]) => size > 0);
  const all = [...healthy.flat(), ...own], left = 52, wide = 352, high = 180, top = 12;
  if (!all.length) return;
  const x = logarithmic(all.map(([, size]) => size)), y = logarithmic(all.map(([peak]) => peak));
  const place = (peak, size) => [left + wide * x.to(size), top + high * (1 - y.to(peak))];
  drawn(svg, "line", { x1: left, x2: left, y1: top, y2: top + high, stroke: "#888888" });
  for (const tick of y.ticks) {
    drawn(svg, "line", { x1: left - 4, x2: left, y1: top + high * (1 - y.to(tick)), y2: top + high * (1 - y.to(tick)), stroke: "#888888" });
    drawn(svg, "text", { x: left - 7, y: top + high * (1 - y.to(tick)) + 4, "text-anchor": "end" }, number(tick));
  }
  drawn(svg, "text", { transform: `translate(13 ${top + high / 2}) rotate(-90)`, "text-anchor": "middle" }, "peak of the anomaly map");
  for (const [peak, size] of healthy.flat()) {
    const [cx, cy] = place(peak, size);
    drawn(svg, "circle", { cx, cy, r: 4.5, fill: "none", stroke: GREY, "stroke-width": 1.5 });
  }
  for (const [peak, size, name] of own) {
    const [cx, cy] = place(peak, size);
    drawn(svg, "path", { d: `M${cx},${cy + 7} l7,-7 -7,-7 -7,7 z`, fill: OWN, stroke: "#000000" });
    drawn(svg, "text", { x: cx + 9, y: cy - 6, class: "own" }, name);
  }
  horizontal(svg, x, left, wide, top + high, "volume, mm³");
}

function besideHealthy(view) {
  const { scores, findings, peaks } = view.healthy, kind = view.whole ? "heads" : "slices";
  at("healthy").hidden = !scores && !findings;
  at("scores").hidden = !scores;
  at("found").hidden = !findings || !view.whole; // sizes of slices are areas
  if (scores) {
    const lower = scores.filter((one) => one < view.score).length;
    at("score-text").textContent = `${lower} of ${scores.length} healthy ${kind} of the calibration (circles) have a ` +
      `lower anomaly score than this one (diamond): ${number(view.score)}.`;
    scorePlot(at("score-plot"), view.score, scores);
  }
  if (findings) {
    const with_ = findings.filter((one) => one.length).length;
    at("found-text").textContent = `Findings by size and strength: ${view.findings.length} here (diamonds, by number), ` +
      `${findings.flat().length} in ${with_} of ${findings.length} healthy ${kind} (circles).`;
    if (view.whole) findingsPlot(at("found-plot"), view.findings, findings);
  }
  return (peaks || findings || []).length;
}
