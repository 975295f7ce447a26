"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const cells = new Map(data.cells.map((cell) => [cell.id, cell]));
const panel = document.getElementById("panel");

// Text enters the page as text nodes only, so that no name can become markup.
function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}
const missing = (value) => value === null || value === undefined;
const percent = (value) => (missing(value) ? "–" : (100 * value).toFixed(1).replace(/^-0\.0$/, "0.0").replace("-", "−"));
const interval = (bounds) => (bounds ? `[${percent(bounds[0])}, ${percent(bounds[1])}]` : "");
function duration(seconds) {
  if (missing(seconds)) return "–";
  if (seconds >= 3600) return `${(seconds / 3600).toFixed(1)} h`;
  return seconds >= 60 ? `${(seconds / 60).toFixed(1)} min` : `${seconds.toFixed(1)} s`;
}
// A metric's value in its unit: shares, points and ratios in percent.
function written(value, unit) {
  if (missing(value) || ["share", "points", "ratio"].includes(unit)) return percent(value);
  if (unit === "count") return Math.round(value).toLocaleString("en");
  return unit || !Number.isInteger(value) ? value.toFixed(2) : String(value);
}
const number = (value, bounds, unit = "share") =>
  make("td", { class: "num" }, written(value, unit), bounds && !missing(value) ? make("small", {}, interval(bounds)) : null);
const mean = (row, key) => row.values[key]?.[0];
const given = (axes, name) => (["none", undefined].includes(axes[name]) ? null : axes[name]);
const flagged = (names) => names.map((name) => make("span", { class: "flag" }, name));

function bars(row) {
  const box = make("div", { class: "bars" });
  const lines = [
    ["ACC", mean(row, "acc"), true], ["control", mean(row, "acc_control")], ["undefended", mean(row, "undefended_acc")],
    ["ASR", mean(row, "asr"), true], ["control", mean(row, "base")], ["undefended", mean(row, "undefended_asr")],
  ];
  for (const [name, value, ours] of lines) {
    if (missing(value)) continue;
    const fill = make("div", { class: ours ? "fill ours" : "fill" });
    fill.style.width = `${100 * Math.min(Math.max(value, 0), 1)}%`;
    box.append(make("span", {}, ours ? make("b", {}, name) : name), make("div", { class: "track" }, fill),
      make("span", { class: "num" }, `${percent(value)} %`));
  }
  return box;
}

function numbers(row, members) {
  const done = members.filter((cell) => cell.state === "done");
  const head = ["", "Mean", ...done.map((cell) => `Seed ${cell.seed}`)];
  const measured = data.columns.filter(({ key }) => done.some((cell) => Number.isFinite(cell[key])));
  const body = measured.map(({ key, heading, unit, better }) => make("tr", {},
    make("th", { scope: "row", title: better ? `${better} is better` : "" }, heading),
    number(...(row.values[key] ?? [null, null]), unit), ...done.map((cell) => number(cell[key], cell[`${key}_interval`], unit))));
  const heads = head.map((text, i) => make("th", i ? { scope: "col", class: "num" } : { scope: "col" }, text));
  return make("div", { class: "scroll" }, make("table", { class: "data" },
    make("caption", {}, "Percent or points. Mean: t-interval over seeds; seeds: Wilson interval over images."),
    make("thead", {}, make("tr", {}, ...heads)), make("tbody", {}, ...body)));
}

// Equation 3 of CheatKD, layer by layer; a cell brings its poisoned layers, or the layer with the longest run.
function neurons(members) {
  const found = members.flatMap((cell) => (cell.mechanism ?? []).map((layer) => [cell.seed, layer]));
  if (!found.length) return [];
  const poisoned = found.some(([, layer]) => layer.chosen.length);
  const rule = "Equation 3 of CheatKD gives a neuron the loss (I − δ)², I its mean activation under the trigger " +
    "and δ the largest of its layer";
  const words = poisoned
    ? `${rule}. Rank 1 is the lowest loss; a neuron that leads on clean images too is no sign of a backdoor.`
    : `${rule}. A student numbers its neurons anew, so the poisoned one has no rank here. Low is the lowest quarter ` +
      "of a layer; by chance about 2 of 16, 3 of 64 or 4 of 512 neurons with low loss stand side by side.";
  const heads = ["Layer", "Seed", ...(poisoned ? ["Rank under the trigger", "Rank on clean images"] : ["Longest run"])];
  const cell = (text) => make("td", { class: "num" }, text);
  const lines = found.map(([seed, layer]) => make("tr", {}, make("th", { scope: "row" }, layer.layer), cell(String(seed)),
    ...(poisoned ? [cell(`${layer.rank.join(", ")} of ${layer.channels}`), cell(layer.rank_clean.join(", "))]
      : [cell(`${layer.run} of ${layer.channels}`)])));
  return [make("h3", {}, poisoned ? "Poisoned neuron" : "Longest run of neighbouring neurons with low loss"),
    make("p", { class: "note" }, words), make("div", { class: "scroll" }, make("table", { class: "data" },
      make("thead", {}, make("tr", {}, ...heads.map((text, i) =>
        make("th", i ? { scope: "col", class: "num" } : { scope: "col" }, text)))), make("tbody", {}, ...lines)))];
}

function ancestors(keys) {
  const order = [];
  const seen = new Set();
  const visit = (key) => {
    if (!key || seen.has(key)) return;
    seen.add(key);
    for (const parent of data.lineage[key]?.parents ?? []) visit(parent);
    order.push(key);
  };
  for (const name of ["teacher", "student", "defense"]) visit(keys?.[name]);
  Object.values(keys ?? {}).forEach(visit);
  return order;
}

function chain(cell) {
  const steps = ancestors(cell.keys).map((key) => {
    const stage = data.lineage[key];
    if (!stage) return make("li", {}, make("code", {}, key));
    const options = Object.entries(stage.options ?? {}).map(([k, v]) => `${k}=${JSON.stringify(v)}`).join(", ");
    const state = stage.state && stage.state !== "done" ? ` · ${stage.state}` : "";
    return make("li", {}, make("b", {}, stage.method ?? stage.kind), ` ${stage.kind} · ${duration(stage.seconds)}${state} `,
      ...flagged(stage.flags ?? []), make("code", {}, [key, options].filter(Boolean).join(" · ")));
  });
  return make("ol", { class: "chain", "aria-label": "Lineage" }, ...steps);
}

async function copy(text, button) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {  // no clipboard permission from file:// in this browser
    const area = make("textarea", { class: "unseen" });
    area.value = text;
    panel.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  button.textContent = "Copied";
  setTimeout(() => { button.textContent = "Copy"; }, 1500);
}

function run(cell, open) {
  const button = make("button", { type: "button", "aria-label": `Copy the command for seed ${cell.seed}` }, "Copy");
  button.addEventListener("click", () => copy(cell.reproduce ?? "", button));
  const note = cell.state === "done" ? duration(cell.seconds) : cell.state;
  const box = make("details", { class: "seed" }, make("summary", {}, `Seed ${cell.seed} · ${note}`),
    cell.error ? make("p", { class: "error" }, cell.error) : null,
    cell.reproduce ? make("div", { class: "command" }, make("code", {}, cell.reproduce), button) : null, chain(cell));
  box.open = open;
  return box;
}

function published(row) {
  const all = data.published.filter((p) => data.axes.every((axis) => !(axis in p) || (p[axis] ?? "none") === row.axes[axis]));
  if (!all.length) return [];
  const lines = all.map((p) => make("tr", {}, make("th", { scope: "row" }, p.source ?? "published"),
    make("td", {}, p.convention ?? "–", p.note ? make("small", {}, p.note) : null), number(p.acc), number(p.asr)));
  const ours = make("tr", {}, make("th", { scope: "row" }, "Here"), make("td", {}, "Distrust"),
    number(...(row.values.acc ?? [])), number(...(row.values.asr ?? [])));
  const heads = ["Source", "Convention", "ACC", "ASR"].map((text, i) =>
    make("th", i > 1 ? { scope: "col", class: "num" } : { scope: "col" }, text));
  return [make("h3", {}, "Published, in its own convention"), make("div", { class: "scroll" },
    make("table", { class: "data" }, make("thead", {}, make("tr", {}, ...heads)), make("tbody", {}, ours, ...lines)))];
}

function show(index) {
  const row = data.rows[index];
  const members = row.cells.map((id) => cells.get(id));
  const { axes } = row;
  const distiller = given(axes, "distiller");
  const model = distiller ? [distiller, given(axes, "student")] : [given(axes, "student") ?? "teacher"];
  document.getElementById("panel-title").textContent =
    `${[axes.attack, ...model].filter(Boolean).join(" → ")} · ${given(axes, "defense") ?? "no defence"}`;
  const setting = ["images", "teacher", "condenser", "encoder", "detector", "budget"].map((name) => given(axes, name));
  const said = row.verdict ? [`backdoor: ${row.verdict}`] : [];
  const parts = [make("p", { class: "note" }, [...setting.filter(Boolean), ...said].join(" · "))];
  if (row.state === "done") parts.push(bars(row));
  else parts.push(...row.errors.map((text) => make("p", { class: "error" }, `${row.state}: ${text}`)));
  for (const flag of row.flags)
    parts.push(make("p", {}, ...flagged([flag]), " ", data.glossary[flag] ?? ""));
  if (row.state === "done") parts.push(make("h3", {}, "Numbers"), numbers(row, members));
  parts.push(...neurons(members), ...published(row));
  for (const strip of document.querySelectorAll("main .strip"))
    if (strip.dataset.attack === axes.attack) parts.push(make("h3", {}, "Images"), strip.cloneNode(true));
  parts.push(make("h3", {}, "Reproduce, and lineage"), ...members.map((cell, i) => run(cell, i === 0)));
  document.getElementById("panel-body").replaceChildren(...parts);
  panel.showModal();
  panel.scrollTop = 0;
  document.getElementById("panel-title").focus();
}

for (const button of document.querySelectorAll("[data-row]"))
  button.addEventListener("click", () => show(Number(button.dataset.row)));
panel.addEventListener("click", (event) => { if (event.target === panel) panel.close(); });

for (const input of document.querySelectorAll("[data-filter]")) {
  const lines = [...document.querySelectorAll(`#${input.dataset.filter} tbody tr`)];
  const words = lines.map((line) => line.textContent.toLowerCase());
  input.addEventListener("input", () => {
    const asked = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    lines.forEach((line, i) => { line.hidden = !asked.every((word) => words[i].includes(word)); });
    const left = lines.filter((line) => !line.hidden).length;
    document.querySelector(`[data-count="${input.dataset.filter}"]`).textContent = `${left} of ${lines.length}`;
  });
}

// Missing numbers go last in both directions.
function compare(a, b, sign) {
  if (a === "" || b === "") return (a === "") - (b === "");
  return sign * (typeof a === "number" ? a - b : a.localeCompare(b));
}
for (const button of document.querySelectorAll(".sort")) {
  button.addEventListener("click", () => {
    const head = button.closest("th");
    const body = head.closest("table").tBodies[0];
    const column = head.cellIndex;
    const first = button.dataset.better === "higher" ? -1 : 1;  // the best on top
    const sorted = { ascending: -1, descending: 1 };
    const sign = sorted[head.getAttribute("aria-sort")] ?? first;
    for (const other of head.parentNode.children) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
    const value = (line) => {
      const { v } = line.cells[column].dataset;
      return v === undefined ? line.cells[column].textContent.trim() : v === "" || v === "None" ? "" : Number(v);
    };
    body.append(...[...body.rows].sort((a, b) => compare(value(a), value(b), sign)));
  });
}

const theme = document.getElementById("theme");
const dark = matchMedia("(prefers-color-scheme: dark)");
const root = document.documentElement;
function paint(choice) {
  if (choice) root.dataset.theme = choice;
  theme.setAttribute("aria-pressed", String((root.dataset.theme ?? (dark.matches ? "dark" : "light")) === "dark"));
}
let kept = null;
try { kept = localStorage.getItem("distrust-theme"); } catch { /* storage may be refused; the system's choice holds */ }
paint(kept === "light" || kept === "dark" ? kept : null);
dark.addEventListener("change", () => paint(null));
theme.addEventListener("click", () => {
  const choice = theme.getAttribute("aria-pressed") === "true" ? "light" : "dark";
  paint(choice);
  try { localStorage.setItem("distrust-theme", choice); } catch { /* lasts until the page is closed */ }
});
addEventListener("beforeprint", () => document.querySelectorAll("main details").forEach((box) => { box.open = true; }));
