"use strict";
// The report's viewer and table. A row's data-case is JSON with pictures as data URLs (attributes parse several times
// faster than script elements); all text is set by textContent.
(() => {
  const at = (id) => document.getElementById(id);
  const shared = JSON.parse(at("shared").textContent);
  const body = at("table").tBodies[0];
  const rows = [...body.rows];
  const headings = [...at("table").tHead.rows[0].cells];
  const tables = Object.fromEntries(
    Object.entries(shared.colour_maps).map(([name, text]) => [name, Uint8Array.from(atob(text), (c) => c.charCodeAt(0))])
  );
  const stage = at("stage"), pen = stage.getContext("2d");
  const LONG_SIDE = 640; // pixels of the stage
  let chosen = null; // {row, data, view, layers}
  let shownCase = 0; // counts choices, so that a slow picture never replaces a later one

  // ---- pictures -------------------------------------------------------------------------------------------------
  async function pixels(url) {
    const image = new Image();
    image.src = url;
    await image.decode();
    const canvas = new OffscreenCanvas(image.naturalWidth, image.naturalHeight);
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(image, 0, 0);
    return { image, width: canvas.width, height: canvas.height, data: context.getImageData(0, 0, canvas.width, canvas.height).data };
  }

  async function layersOf(slice) {
    const [input, inside, maps] = await Promise.all([slice.input, slice.inside, slice.maps].map(pixels));
    return { input, inside, maps };
  }

  const number = (value) => (value === 0 ? "0" : Number(value.toPrecision(3)).toString());
  const ceiling = () => {
    // The slider runs from the label threshold to the case's largest value, evenly in the logarithm.
    const { threshold, top } = chosen.view;
    const low = Math.min(Math.max(threshold, top / 1000), top);
    return low * (top / low) ** (at("ceiling").value / 100);
  };

  function draw() {
    if (!chosen || !chosen.layers) return;
    const { view, layers } = chosen;
    const { width, height } = layers.input;
    const composed = new ImageData(width, height);
    const out = composed.data, input = layers.input.data, inside = layers.inside.data, maps = layers.maps.data;
    const share = at("divider").value / 100, swipe = at("mode").value === "swipe";
    const opacity = at("opacity").value / 100, colours = tables[at("colours").value];
    const factor = view.top / ceiling();
    for (let i = 0, p = 0; i < width * height; i++, p += 4) {
      const x = input[p], healthy = maps[p + 2] ? inside[p] : x;
      const grey = swipe ? ((i % width) + 0.5 <= share * width ? x : healthy) : share * x + (1 - share) * healthy;
      const s = Math.min(maps[p] * factor, 255), alpha = opacity * Math.min((2 * s) / 255, 1), c = 3 * Math.round(s);
      for (let k = 0; k < 3; k++) out[p + k] = grey * (1 - alpha) + colours[c + k] * alpha;
      out[p + 3] = 255;
    }
    const small = new OffscreenCanvas(width, height);
    small.getContext("2d").putImageData(composed, 0, 0);
    const [rowMm, columnMm] = view.spacing;
    const zoom = LONG_SIDE / Math.max(width * columnMm, height * rowMm);
    const sx = zoom * columnMm, sy = zoom * rowMm;
    stage.width = Math.round(width * sx);
    stage.height = Math.round(height * sy);
    pen.imageSmoothingEnabled = false;
    pen.drawImage(small, 0, 0, stage.width, stage.height);
    if (at("mask").checked) outline(maps, width, height, 2, sx, sy, "#ffffff");
    if (at("outline").checked) outline(maps, width, height, 1, sx, sy, "#00e5ff");
    if (swipe) line(pen, [[share * stage.width, 0], [share * stage.width, stage.height]], "#ffd24d", 2);
    pen.font = "16px system-ui, sans-serif";
    pen.fillStyle = "#ffffff";
    pen.textBaseline = "middle";
    pen.fillText("L", 6, stage.height / 2);
    pen.textAlign = "right";
    pen.fillText("R", stage.width - 6, stage.height / 2);
    line(pen, [[12, stage.height - 14], [12 + 50 * zoom, stage.height - 14]], "#ffffff", 3);
    pen.textAlign = "left";
    pen.fillText("50 mm", 12, stage.height - 30);
    stage.setAttribute("aria-label", `${chosen.data.case} at ${chosen.slice.name}: input left of the divider, ` +
      "pseudo-healthy image right of it, anomaly map in colour, label outlined");
    legend();
  }

  function line(context, points, colour, width) {
    context.strokeStyle = colour;
    context.lineWidth = width;
    context.beginPath();
    points.forEach(([x, y], i) => (i ? context.lineTo(x, y) : context.moveTo(x, y)));
    context.stroke();
  }

  function outline(maps, width, height, channel, sx, sy, colour) {
    const on = (x, y) => x >= 0 && y >= 0 && x < width && y < height && maps[4 * (y * width + x) + channel] > 0;
    pen.strokeStyle = colour;
    pen.lineWidth = 1.5;
    pen.beginPath();
    for (let y = 0; y <= height; y++) {
      for (let x = 0; x <= width; x++) {
        if (on(x, y) !== on(x - 1, y)) { pen.moveTo(x * sx, y * sy); pen.lineTo(x * sx, (y + 1) * sy); }
        if (on(x, y) !== on(x, y - 1)) { pen.moveTo(x * sx, y * sy); pen.lineTo((x + 1) * sx, y * sy); }
      }
    }
    pen.stroke();
  }

  function legend() {
    const canvas = at("legend"), context = canvas.getContext("2d"), colours = tables[at("colours").value];
    const left = 12, wide = canvas.width - 24, top = ceiling(), { threshold } = chosen.view;
    context.clearRect(0, 0, canvas.width, canvas.height);
    for (let x = 0; x < wide; x++) {
      const c = 3 * Math.round((255 * x) / (wide - 1));
      context.fillStyle = `rgb(${colours[c]},${colours[c + 1]},${colours[c + 2]})`;
      context.fillRect(left + x, 16, 1, 16);
    }
    context.font = "12px system-ui, sans-serif";
    context.fillStyle = "#eeeeee";
    context.textBaseline = "top";
    [0, 0.5, 1].forEach((f) => {
      context.textAlign = f === 0 ? "left" : f === 1 ? "right" : "center";
      context.fillText((f === 1 && top < chosen.view.top ? "≥ " : "") + number(f * top), left + f * wide, 38);
    });
    const x = left + Math.min(threshold / top, 1) * wide;
    line(context, [[x, 14], [x, 34]], "#00e5ff", 2);
    context.textAlign = x < canvas.width / 2 ? "left" : "right";
    context.fillText(`label above ${number(threshold)}`, x, 0);
    canvas.setAttribute("aria-label", `Colours from 0 to ${number(top)}; label above ${number(threshold)}`);
  }

  async function level() {
    const { view, slice } = chosen, token = shownCase;
    at("level-text").textContent = view.sagittal
      ? `${slice.name} in MNI152 space; anterior on the left.`
      : `${slice.name} in MNI152 space; one slice has no sagittal view.`;
    at("sagittal").hidden = !view.sagittal;
    if (!view.sagittal) return;
    const { image, width, height } = await pixels(view.sagittal.image);
    if (token !== shownCase) return;
    const canvas = at("sagittal"), context = canvas.getContext("2d");
    canvas.width = 2 * width;
    canvas.height = 2 * height;
    context.drawImage(image, 0, 0, canvas.width, canvas.height);
    view.sagittal.heights.forEach((h, i) => {
      const current = view.slices[i] === chosen.slice;
      line(context, [[0, h * canvas.height], [canvas.width, h * canvas.height]], current ? "#ffd24d" : "#8ecbff", current ? 3 : 1);
    });
    canvas.setAttribute("aria-label", `Sagittal section with the level ${slice.name}`);
  }

  // ---- which case, which slice -----------------------------------------------------------------------------------
  async function choose(row) {
    if (!row) return;
    const token = ++shownCase;
    chosen?.row.classList.remove("chosen");
    row.classList.add("chosen");
    const data = JSON.parse(row.dataset.case);
    chosen = { row, data, view: data.view };
    at("viewer").hidden = false;
    at("viewer-case").textContent = data.case;
    at("viewer-source").textContent = data.source;
    at("viewer-note").textContent = data.note;
    at("panels").hidden = !data.view;
    if (!data.view) return;
    const last = data.view.slices.length - 1;
    at("slice").max = last;
    at("slice").value = data.view.start;
    at("slice-label").hidden = last === 0;
    at("ceiling").value = ceilingOf(data.view);
    findings(data.view.findings);
    await showSlice(token);
  }

  function findings(list) {
    at("findings").hidden = !list.length;
    const known = (value, text) => (value === null ? "not known" : text(value));
    const place = (f, names) => known(f[names[0]], () => names.map((name) => f[name].toFixed(0)).join(", "));
    at("findings").querySelector("tbody").replaceChildren(...list.map((f) => {
      const row = document.createElement("tr"), button = document.createElement("button");
      button.type = "button";
      button.textContent = `Finding ${f.number}`;
      button.addEventListener("click", () => { at("slice").value = f.slice; showSlice(); });
      row.append(document.createElement("th"), ...[
        known(f.volume_mm3, (v) => v.toFixed(0)), place(f, ["x_mm", "y_mm", "z_mm"]),
        place(f, ["mni_x_mm", "mni_y_mm", "mni_z_mm"]), f.side, number(f.peak),
        known(f.healthy_as_strong, (v) => `${(100 * v).toFixed(0)} %`),
      ].map((text) => { const cell = document.createElement("td"); cell.textContent = text; return cell; }));
      row.firstChild.scope = "row";
      row.firstChild.append(button);
      return row;
    }));
  }

  // Four times the label threshold, for every case: so that colours compare from case to case.
  function ceilingOf({ threshold, top }) {
    const low = Math.min(Math.max(threshold, top / 1000), top);
    return top > low ? Math.round((100 * Math.log((4 * threshold || top) / low)) / Math.log(top / low)) : 100;
  }

  async function showSlice(token = ++shownCase) {
    chosen.slice = chosen.view.slices[at("slice").value];
    at("slice").setAttribute("aria-valuetext", chosen.slice.name);
    const layers = await layersOf(chosen.slice);
    if (token !== shownCase) return;
    chosen.layers = layers;
    draw();
    await level();
    stage.dataset.ready = `${chosen.data.case}/${chosen.slice.name}`;
  }

  const visible = () => [...body.rows].filter((row) => !row.hidden);
  function step(by) {
    const list = visible();
    const target = list[list.indexOf(chosen?.row) + by];
    if (target) location.hash = target.id;
  }
  function turn(id, by) {
    at(id).value = Number(at(id).value) + by;
    at(id).dispatchEvent(new Event("input"));
  }
  function flip(id) {
    at(id).checked = !at(id).checked;
    draw();
  }
  const fromHash = () => {
    const row = rows.find((r) => `#${r.id}` === location.hash);
    if (row) choose(row).then(() => at("viewer").scrollIntoView({ block: "nearest" }));
    return Boolean(row);
  };

  ["divider", "opacity", "ceiling", "mode", "colours", "outline", "mask"].forEach((id) => at(id).addEventListener("input", draw));
  at("slice").addEventListener("input", () => showSlice());
  at("previous").addEventListener("click", () => step(-1));
  at("next").addEventListener("click", () => step(1));
  addEventListener("hashchange", fromHash);
  let opacity = at("opacity").value;
  const keys = {
    n: () => step(1), p: () => step(-1), "[": () => turn("slice", -1), "]": () => turn("slice", 1),
    l: () => flip("outline"), m: () => flip("mask"),
    a: () => {
      if (at("opacity").value > 0) opacity = at("opacity").value;
      at("opacity").value = at("opacity").value > 0 ? 0 : opacity;
      draw();
    },
  };
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input[type=search], select")) return;
    const act = keys[event.key.toLowerCase()];
    if (act) { event.preventDefault(); act(); }
  });
  stage.addEventListener("pointermove", (event) => {
    if (!chosen?.layers) return;
    const box = stage.getBoundingClientRect(), { width, height } = chosen.layers.input;
    const x = Math.floor(((event.clientX - box.left) / box.width) * width);
    const y = Math.floor(((event.clientY - box.top) / box.height) * height);
    if (x < 0 || y < 0 || x >= width || y >= height) return;
    const s = (chosen.layers.maps.data[4 * (y * width + x)] / 255) * chosen.view.top;
    at("readout").textContent = `Anomaly map here: ${number(s)} (to within ${number(chosen.view.top / 255)}).`;
  });

  // ---- table -----------------------------------------------------------------------------------------------------
  const valueOf = (row, column) => {
    const cell = row.cells[column];
    return cell.dataset.value === undefined ? cell.textContent.trim() : Number(cell.dataset.value);
  };
  function compare(a, b) {
    if (typeof a === "number" && typeof b === "number") return a - b;
    return String(a).localeCompare(String(b), undefined, { numeric: true });
  }
  headings.forEach((heading, column) => heading.querySelector("button")?.addEventListener("click", () => {
    const descending = heading.getAttribute("aria-sort") === "ascending";
    headings.forEach((h) => h.hasAttribute("aria-sort") && h.setAttribute("aria-sort", "none"));
    heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
    const keyed = rows.map((row, i) => [valueOf(row, column), i, row]);
    const empty = (value) => value === "";
    keyed.sort(([a, i], [b, j]) => {
      if (empty(a) || empty(b)) return empty(a) - empty(b) || i - j; // cases without a value come last either way
      return (descending ? -1 : 1) * compare(a, b) || i - j;
    });
    body.append(...keyed.map(([, , row]) => row));
  }));
  at("filter").addEventListener("input", () => {
    const wanted = at("filter").value.toLowerCase();
    rows.forEach((row) => {
      row.hidden = ![...row.cells].some((cell) => cell.textContent.toLowerCase().includes(wanted));
    });
    at("shown").textContent = wanted ? `${visible().length} of ${rows.length} shown` : "";
  });

  if (!fromHash()) choose(rows.find((row) => row.querySelector("img")) || rows[0]);
})();
