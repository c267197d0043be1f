// ---- the page: cases, findings, keyboard, table --------------------------------------------------------------------
// A row's data-case is JSON (attributes parse several times faster than script elements); all text is set by
// textContent. An index of many cases has no viewer: its rows lead to their pages.
const shared = JSON.parse(at("shared").textContent);
const body = at("table").tBodies[0];
const rows = [...body.rows];
const headings = [...at("table").tHead.rows[0].cells];
const tables = Object.fromEntries(
  Object.entries(shared.colour_maps).map(([name, text]) => [name, Uint8Array.from(atob(text), (c) => c.charCodeAt(0))])
);
const viewer = at("viewer") && new Viewer(tables);
let chosen = null; // {row, data}
let choices = 0; // so that a slow case never replaces a later one

async function choose(row) {
  if (!row) return;
  const token = ++choices;
  chosen?.row.classList.remove("chosen");
  row.classList.add("chosen");
  const data = JSON.parse(row.dataset.case);
  chosen = { row, data };
  at("viewer").hidden = false;
  at("viewer-case").textContent = data.case;
  at("viewer-source").textContent = data.source;
  at("viewer-note").textContent = data.note;
  at("panels").hidden = !data.view;
  if (!data.view) { viewer.view = null; return; }
  const healthy = besideHealthy(data.view);
  findings(data.view.findings, healthy);
  await viewer.show(data.view);
  if (token === choices) mark();
}

function findings(list, healthy) {
  at("findings").hidden = !list.length;
  at("none").hidden = Boolean(list.length);
  const known = (value, text) => (value === null ? "not known" : text(value));
  const place = (f, names) => known(f[names[0]], () => names.map((name) => signed(f[name])).join(", "));
  const among = (share) => known(share, (v) => count(v, healthy));
  at("findings").querySelector("tbody").replaceChildren(...list.map((f) => {
    const row = document.createElement("tr"), button = document.createElement("button");
    button.type = "button";
    button.textContent = `Finding ${f.number}`;
    button.addEventListener("click", () => jump(f));
    row.append(document.createElement("th"), ...[
      f.structures.join("; ") || "not known", f.side, known(f.volume_mm3, (v) => v.toFixed(0)),
      place(f, ["mni_x_mm", "mni_y_mm", "mni_z_mm"]), place(f, ["x_mm", "y_mm", "z_mm"]), number(f.peak),
      among(f.healthy_as_strong), among(f.healthy_as_strong_and_large),
    ].map((text) => {
      const cell = document.createElement("td");
      cell.textContent = text;
      if (text.includes(", ") && !text.includes("%")) cell.className = "place";
      return cell;
    }));
    row.firstChild.scope = "row";
    row.firstChild.append(button);
    return row;
  }));
}

function jump(finding) {
  viewer.jump(finding);
  mark();
}
function mark() {
  [...at("findings").querySelectorAll("tbody tr")].forEach((row, i) => row.classList.toggle("chosen", i === viewer.finding - 1));
}
function stepFinding(by) {
  const list = viewer.view?.findings ?? [];
  const target = list[(viewer.finding - 1 + by + list.length) % list.length];
  if (target) jump(target);
}

const visible = () => [...body.rows].filter((row) => !row.hidden);
function step(by) {
  const list = visible(), target = list[list.indexOf(chosen?.row) + by];
  if (target) location.hash = target.id;
}
function flip(id) {
  at(id).checked = !at(id).checked;
  viewer.draw();
}
const fromHash = () => {
  const row = rows.find((r) => `#${r.id}` === location.hash);
  if (row) choose(row).then(() => at("viewer").scrollIntoView({ block: "nearest" }));
  return Boolean(row);
};

if (viewer) {
  const drawing = ["divider", "opacity", "ceiling", "mode", "colours", "outline", "mask", "dim", "smooth", "cross", "window", "level"];
  drawing.forEach((id) => at(id).addEventListener("input", () => viewer.draw()));
  at("previous").addEventListener("click", () => step(-1));
  at("next").addEventListener("click", () => step(1));
  addEventListener("hashchange", fromHash);
  let opacity = at("opacity").value;
  const slide = (id, value) => { at(id).value = value; viewer.draw(); };
  const keys = {
    n: () => step(1), p: () => step(-1), f: () => stepFinding(1), b: () => stepFinding(-1),
    "]": () => viewer.move(0, 1), "[": () => viewer.move(0, -1),
    s: () => slide("divider", Number(at("divider").value) > 0 ? 0 : 100),
    l: () => flip("outline"), m: () => flip("mask"), x: () => flip("cross"), d: () => flip("dim"),
    r: () => { viewer.resetWindow(); viewer.draw(); },
    a: () => {
      if (at("opacity").value > 0) opacity = at("opacity").value;
      slide("opacity", at("opacity").value > 0 ? 0 : opacity);
    },
  };
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input[type=search], select")) return;
    const act = keys[event.key.toLowerCase()];
    if (act && (viewer.view || "np".includes(event.key.toLowerCase()))) { event.preventDefault(); act(); }
  });
  if (!fromHash()) choose(rows.find((row) => row.querySelector("img")) || rows[0]);
}

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
