// ---- three planes of a case -------------------------------------------------------------------------------------
// A voxel is [level, row, column]; levels run upwards, rows from anterior to posterior, columns from patient left to
// right. All volumes are bytes, as view.py packs them.
const ANALYSED = 1, MASK = 2;
const CROSS = "#ffffff", DIVIDER = "#ffd24d", LABEL = "#00e5ff", UNLIKE = "#e69f00";
const PLANES = {
  // axis: which of the voxel's numbers the plane fixes; across, down: which run along its sides; up: down runs upwards.
  axial: { axis: 0, across: 2, down: 1, up: false },
  coronal: { axis: 1, across: 2, down: 0, up: true },
  sagittal: { axis: 2, across: 1, down: 0, up: true },
};
const signed = (value) => (Math.abs(value) < 0.5 ? "0" : (value < 0 ? "−" : "+") + Math.abs(value).toFixed(0));
const number = (value) => (value === 0 ? "0" : Number(value.toPrecision(3)).toString());

async function inflated(text) {
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

function line(context, points, colour, width, dash = []) {
  context.strokeStyle = colour;
  context.lineWidth = width;
  context.setLineDash(dash);
  context.beginPath();
  points.forEach(([x, y], i) => (i ? context.lineTo(x, y) : context.moveTo(x, y)));
  context.stroke();
  context.setLineDash([]);
}

class Viewer {
  constructor(tables) {
    this.tables = tables; // colour map -> 256 x RGB
    this.view = null;
    this.finding = 0; // number of the finding that was jumped to
    for (const name of Object.keys(PLANES)) this.listen(name);
    new ResizeObserver(() => this.draw()).observe(at("planes"));
  }

  async show(view) {
    const bytes = await inflated(view.volumes);
    const size = view.shape[0] * view.shape[1] * view.shape[2];
    const volumes = ["input", "inside", "anomaly", "label", "flags"];
    this.volumes = Object.fromEntries(volumes.map((name, i) => [name, bytes.subarray(i * size, (i + 1) * size)]));
    this.view = view;
    this.voxel = [...view.start];
    this.finding = view.findings.length ? 1 : 0;
    this.stack = view.shape[0] > 1 && view.whole;
    for (const [name, plane] of Object.entries(PLANES)) {
      at(name).parentElement.hidden = name !== "axial" && !this.stack;
      at(`${name}-place`).max = view.shape[plane.axis] - 1;
      at(`${name}-place`).hidden = view.shape[plane.axis] === 1;
    }
    this.resetWindow();
    at("ceiling").value = this.usualCeiling();
    this.draw();
  }

  resetWindow() {
    at("window").value = this.view.white;
    at("level").value = this.view.white / 2;
  }

  // Four times the label threshold, for every case: so that colours compare from case to case.
  usualCeiling() {
    const { threshold, top } = this.view, low = this.lowest();
    return top > low ? Math.round((100 * Math.log((4 * threshold || top) / low)) / Math.log(top / low)) : 100;
  }
  lowest() {
    const { threshold, top } = this.view;
    return Math.min(Math.max(threshold, top / 1000), top);
  }
  ceiling() {
    // The slider runs from the label threshold to the case's largest value, evenly in the logarithm.
    return this.lowest() * (this.view.top / this.lowest()) ** (at("ceiling").value / 100);
  }

  index([level, row, column]) {
    return (level * this.view.shape[1] + row) * this.view.shape[2] + column;
  }
  mni([level, row, column]) {
    const { origin, spacing, heights } = this.view;
    return [origin[0] + spacing[2] * column, origin[1] - spacing[1] * row, heights[level]];
  }

  // Millimetres of the widest row of planes that fit, as pixels of the page.
  zoom() {
    const { shape, spacing } = this.view;
    const mm = (plane) => shape[plane.across] * spacing[plane.across];
    const shown = Object.entries(PLANES).filter(([name]) => !at(name).parentElement.hidden).map(([, plane]) => plane);
    const wide = at("planes").clientWidth - 16 * (shown.length - 1) - 3; // gaps, and widths that are rounded up
    return Math.min(Math.max(wide / shown.reduce((sum, plane) => sum + mm(plane), 0), 1.2), this.stack ? 3 : 2.6);
  }

  draw() {
    if (!this.view) return;
    const zoom = this.zoom();
    for (const name of Object.keys(PLANES)) if (!at(name).parentElement.hidden) this.drawPlane(name, zoom);
    this.tell();
    this.legend();
    at("viewer").dataset.ready = `${at("viewer-case").textContent}/${this.voxel}`;
  }

  drawPlane(name, zoom) {
    const plane = PLANES[name], { shape, spacing } = this.view, { input, inside, anomaly, flags } = this.volumes;
    const wide = shape[plane.across], high = shape[plane.down];
    const steps = [shape[1] * shape[2], shape[2], 1];
    const first = this.voxel[plane.axis] * steps[plane.axis] + (plane.up ? (high - 1) * steps[plane.down] : 0);
    const across = steps[plane.across], down = plane.up ? -steps[plane.down] : steps[plane.down];
    const width = Math.max(Number(at("window").value), 1), low = Number(at("level").value) - width / 2;
    const share = at("divider").value / 100, swipe = at("mode").value === "swipe", dim = at("dim").checked ? 0.45 : 1;
    const opacity = at("opacity").value / 100, colours = this.tables[at("colours").value];
    const factor = this.view.top / this.ceiling();
    const composed = new ImageData(wide, high), out = composed.data;
    for (let y = 0, p = 0; y < high; y++) {
      for (let x = 0, i = first + y * down; x < wide; x++, i += across, p += 4) {
        const flag = flags[i], given = input[i], healthy = flag & MASK ? inside[i] : given;
        const value = swipe ? ((x + 0.5) / wide <= share ? given : healthy) : share * given + (1 - share) * healthy;
        const grey = Math.min(Math.max(((value - low) / width) * 255, 0), 255) * (flag & ANALYSED ? 1 : dim);
        const s = Math.min(anomaly[i] * factor, 255), alpha = opacity * Math.min((2 * s) / 255, 1), c = 3 * Math.round(s);
        out[p] = grey * (1 - alpha) + colours[c] * alpha;
        out[p + 1] = grey * (1 - alpha) + colours[c + 1] * alpha;
        out[p + 2] = grey * (1 - alpha) + colours[c + 2] * alpha;
        out[p + 3] = 255;
      }
    }
    const small = new OffscreenCanvas(wide, high);
    small.getContext("2d").putImageData(composed, 0, 0);
    const canvas = at(name), pen = canvas.getContext("2d");
    const sx = zoom * spacing[plane.across], sy = zoom * spacing[plane.down];
    canvas.width = Math.round(wide * sx);
    canvas.height = Math.round(high * sy);
    canvas.parentElement.style.width = `${canvas.width}px`;
    pen.imageSmoothingEnabled = at("smooth").checked;
    pen.imageSmoothingQuality = "high";
    pen.drawImage(small, 0, 0, canvas.width, canvas.height);
    const at2 = (x, y) => first + y * down + x * across;
    if (at("mask").checked) this.outline(pen, wide, high, (x, y) => flags[at2(x, y)] & MASK, sx, sy, "#ffffff", 1, [3, 3]);
    if (at("outline").checked) {
      const label = this.volumes.label, chosen = Math.min(this.finding, 20);
      this.outline(pen, wide, high, (x, y) => label[at2(x, y)], sx, sy, LABEL, 1.3);
      this.outline(pen, wide, high, (x, y) => Number(chosen > 0 && label[at2(x, y)] === chosen), sx, sy, "#ffffff", 2.4);
    }
    this.decorate(pen, name, zoom, sx, sy, swipe ? share : null);
    at(`${name}-place`).value = this.voxel[plane.axis];
  }

  outline(pen, wide, high, value, sx, sy, colour, width, dash = []) {
    const inside = (x, y) => (x >= 0 && y >= 0 && x < wide && y < high ? value(x, y) : 0);
    pen.strokeStyle = colour;
    pen.lineWidth = width;
    pen.setLineDash(dash);
    pen.beginPath();
    for (let y = 0; y <= high; y++) {
      for (let x = 0; x <= wide; x++) {
        const here = inside(x, y);
        if (here !== inside(x - 1, y)) { pen.moveTo(x * sx, y * sy); pen.lineTo(x * sx, (y + 1) * sy); }
        if (here !== inside(x, y - 1)) { pen.moveTo(x * sx, y * sy); pen.lineTo((x + 1) * sx, y * sy); }
      }
    }
    pen.stroke();
    pen.setLineDash([]);
  }

  decorate(pen, name, zoom, sx, sy, divider) {
    const plane = PLANES[name], { width, height } = pen.canvas, view = this.view;
    if (divider !== null) line(pen, [[divider * width, 0], [divider * width, height]], DIVIDER, 2);
    if (at("cross").checked) {
      const row = plane.up ? view.shape[0] - 1 - this.voxel[plane.down] : this.voxel[plane.down];
      const x = (this.voxel[plane.across] + 0.5) * sx, y = (row + 0.5) * sy, gap = 14;
      for (const [from, to] of [[[0, y], [x - gap, y]], [[x + gap, y], [width, y]], [[x, 0], [x, y - gap]], [[x, y + gap], [x, height]]]) {
        line(pen, [from, to], "#000000", 2.5);
        line(pen, [from, to], CROSS, 1);
      }
    }
    if (plane.up) {
      view.unlike.forEach((reason, level) => {
        if (!reason) return;
        pen.fillStyle = UNLIKE;
        pen.fillRect(width - 6, (view.shape[0] - 1 - level) * sy, 6, Math.max(sy - 0.5, 1));
      });
    }
    const sides = view.sides_known ? ["L", "R"] : ["", ""];
    const letters = { axial: [...sides, "A", "P"], coronal: [...sides, "S", "I"], sagittal: ["A", "P", "S", "I"] }[name];
    pen.font = "600 14px system-ui, sans-serif";
    pen.textBaseline = "middle";
    pen.textAlign = "center";
    const places = [[10, height / 2], [width - 16, height / 2], [width / 2, 11], [width / 2, height - 10]];
    letters.forEach((letter, i) => {
      pen.strokeStyle = "#000000";
      pen.lineWidth = 3;
      pen.strokeText(letter, ...places[i]);
      pen.fillStyle = "#ffffff";
      pen.fillText(letter, ...places[i]);
    });
    if (name === "axial") {
      line(pen, [[12, height - 12], [12 + 50 * zoom, height - 12]], "#ffffff", 3);
      pen.textAlign = "left";
      pen.font = "13px system-ui, sans-serif";
      pen.fillText("50 mm", 12, height - 26);
    }
  }

  // Captions, and what lies under the crosshair.
  tell() {
    const { view, voxel, volumes } = this, [x, y, z] = this.mni(voxel), i = this.index(voxel);
    const unlike = view.unlike[voxel[0]];
    const height = view.placed ? `z = ${signed(z)} mm` : "height not known";
    const side = Math.abs(x) < 3 || !view.sides_known ? "" : x < 0 ? ", left" : ", right";
    at("axial-text").textContent = `Axial, ${height}${unlike ? `; unlike a healthy T1w head: ${unlike}` : ""}`;
    at("axial-text").classList.toggle("warning", Boolean(unlike));
    at("coronal-text").textContent = `Coronal, y = ${signed(y)} mm`;
    at("sagittal-text").textContent = `Sagittal, x = ${signed(x)} mm${side}`;
    for (const name of Object.keys(PLANES)) {
      at(`${name}-place`).setAttribute("aria-valuetext", at(`${name}-text`).textContent);
      at(name).setAttribute("aria-label", `${at(`${name}-text`).textContent}: input left of the divider, ` +
        "pseudo-healthy image right of it, anomaly map in colour, label outlined. Arrow keys move the crosshair.");
    }
    const found = volumes.label[i], s = (volumes.anomaly[i] / 255) * view.top;
    const value = (v) => `${((100 * v) / view.white).toFixed(0)} %`;
    at("readout").textContent = [
      `Crosshair at MNI152 ${[x, y, z].map(signed).join(", ")} mm`,
      `input ${value(volumes.input[i])} of white`,
      volumes.flags[i] & MASK ? `pseudo-healthy ${value(volumes.inside[i])}` : "not drawn anew",
      volumes.flags[i] & ANALYSED ? `anomaly map ${number(s)} (to within ${number(view.top / 255)})` : "not analysed",
      found ? `finding ${found}` : "no finding",
    ].join("; ") + ".";
  }

  legend() {
    const canvas = at("legend"), context = canvas.getContext("2d"), colours = this.tables[at("colours").value];
    const left = 12, wide = canvas.width - 24, top = this.ceiling(), { threshold } = this.view;
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
      context.fillText((f === 1 && top < this.view.top ? "≥ " : "") + number(f * top), left + f * wide, 38);
    });
    const x = left + Math.min(threshold / top, 1) * wide;
    line(context, [[x, 14], [x, 34]], LABEL, 2);
    context.textAlign = x < canvas.width / 2 ? "left" : "right";
    context.fillText(`findings above ${number(threshold)}`, x, 0);
    canvas.setAttribute("aria-label", `Colours from 0 to ${number(top)}; findings above ${number(threshold)}`);
  }

  // ---- moving ----
  moveTo(voxel) {
    this.voxel = voxel.map((v, i) => Math.min(Math.max(Math.round(v), 0), this.view.shape[i] - 1));
    this.draw();
  }
  move(axis, by) {
    this.moveTo(this.voxel.map((v, i) => (i === axis ? v + by : v)));
  }
  jump(finding) {
    this.finding = finding.number;
    this.moveTo(finding.voxel);
  }

  listen(name) {
    const canvas = at(name), plane = PLANES[name];
    const place = (event) => {
      const box = canvas.getBoundingClientRect(), voxel = [...this.voxel];
      voxel[plane.across] = Math.floor(((event.clientX - box.left) / box.width) * this.view.shape[plane.across]);
      const down = Math.floor(((event.clientY - box.top) / box.height) * this.view.shape[plane.down]);
      voxel[plane.down] = plane.up ? this.view.shape[plane.down] - 1 - down : down;
      this.moveTo(voxel);
    };
    const isWindow = (event) => event.buttons === 2 || (event.buttons === 1 && event.shiftKey);
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      if (!isWindow(event)) place(event);
    });
    canvas.addEventListener("pointermove", (event) => {
      if (isWindow(event)) {
        at("window").value = Number(at("window").value) + event.movementX;
        at("level").value = Number(at("level").value) - event.movementY;
        this.draw();
      } else if (event.buttons === 1) place(event);
    });
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
    canvas.addEventListener("wheel", (event) => {
      if (this.view.shape[plane.axis] === 1) return;
      event.preventDefault();
      this.move(plane.axis, event.deltaY < 0 ? 1 : -1);
    }, { passive: false });
    canvas.addEventListener("keydown", (event) => {
      const steps = { ArrowLeft: [plane.across, -1], ArrowRight: [plane.across, 1],
        ArrowUp: [plane.down, plane.up ? 1 : -1], ArrowDown: [plane.down, plane.up ? -1 : 1],
        PageUp: [plane.axis, 1], PageDown: [plane.axis, -1] };
      if (!steps[event.key]) return;
      event.preventDefault();
      this.move(...steps[event.key]);
    });
    at(`${name}-place`).addEventListener("input", () =>
      this.moveTo(this.voxel.map((v, i) => (i === plane.axis ? Number(at(`${name}-place`).value) : v))));
  }
}
