const data = await unpacked(document.getElementById("data").textContent);
const cells = new Map(data.cells.map((cell) => [cell.id, cell]));
const panel = document.getElementById("panel");

const mean = (row, key) => row.values[key]?.[0];

function bars(row) {
  const box = make("div", { class: "bars" });
  const lines = [
    ["ACC", mean(row, "acc"), true], ["control", mean(row, "acc_control")], ["undefended", mean(row, "undefended_acc")],
    ["ASR", mean(row, "asr"), true], ["untriggered", mean(row, "untriggered")], ["control", mean(row, "base")],
    ["undefended", mean(row, "undefended_asr")],
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
    make("caption", {}, "Percent or points. Mean: the runs or, of five and more, their t-interval; seeds: interval over images."),
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
    const took = missing(stage.seconds) ? null : duration(stage.seconds);  // the plan alone does not know
    const state = stage.state === "done" ? null : stage.state;
    return make("li", {}, make("b", {}, stage.method ?? stage.kind), ` ${[stage.kind, took, state].filter(Boolean).join(" · ")} `,
      ...flagged(stage.flags ?? []), make("code", {}, [key, options].filter(Boolean).join(" · ")));
  });
  return make("ol", { class: "chain", "aria-label": "Lineage" }, ...steps);
}

const address = (id) => `#${new URLSearchParams({ cell: id })}`;

function run(cell, open) {
  const button = make("button", { type: "button", "aria-label": `Copy the command for seed ${cell.seed}` }, "Copy");
  button.addEventListener("click", () => copy(cell.reproduce ?? "", button));
  const note = cell.state === "done" ? duration(cell.seconds) : cell.state;
  const box = make("details", { class: "seed" }, make("summary", {}, `Seed ${cell.seed} · ${note}`),
    cell.error ? make("p", { class: "error" }, cell.error) : null,
    cell.reproduce ? make("div", { class: "command" }, make("code", {}, cell.reproduce), button) : null,
    make("p", { class: "note" }, make("a", { href: address(cell.id) }, "Link to this cell")), chain(cell));
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

// Opens the cell that the address names, among the seeds of its row; an address without one closes it.
const rowOf = new Map(data.rows.flatMap((row) => row.cells.map((id) => [id, row])));
function show() {
  const asked = new URLSearchParams(location.hash.slice(1)).get("cell");
  const row = rowOf.get(asked);
  if (!row) return panel.close();
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
  parts.push(make("h3", {}, "Reproduce, and lineage"), ...members.map((cell) => run(cell, cell.id === asked)));
  document.getElementById("panel-body").replaceChildren(...parts);
  if (!panel.open) panel.showModal();
  panel.scrollTop = 0;
  document.getElementById("panel-title").focus();
}

document.addEventListener("click", ({ target }) => {
  const button = target.closest("[data-cell]");
  if (button) location.hash = address(button.dataset.cell);
});
addEventListener("hashchange", show);
panel.addEventListener("close", () => history.replaceState(null, "", location.href.split("#")[0]));
panel.addEventListener("click", (event) => { if (event.target === panel) panel.close(); });

// A line of a table, flat: a word or number for each column that is no metric, and the values of those that are.
function lineOf(id, seed, n, state, flags, values) {
  const { axes, verdict, name } = rowOf.get(id);
  const words = data.axes.map((axis) => [axis, given(axes, axis) ?? (["attack", "defense"].includes(axis) ? "none" : null)]);
  return { ...Object.fromEntries(words), seed, n: n || null, verdict, state, flags, values, id, name };
}
function valuesOf(cell) {
  const measured = data.columns.filter(({ key }) => cell.state === "done" && Number.isFinite(cell[key]));
  return Object.fromEntries(measured.map(({ key }) => [key, [cell[key], cell[`${key}_interval`]]]));
}
const lines = {
  rows: data.rows.map((row) => lineOf(row.cells[0], row.seeds.length, row.n, row.state, row.flags, row.values)),
  cells: data.cells.map((cell) =>
    lineOf(cell.id, cell.seed, cell.state === "done" ? cell.n : null, cell.state, cell.flags ?? [], valuesOf(cell))),
};

// A column: the words that its cell shows of a line, the first of them large, and what it sorts by.
function columnOf({ dataset, className }) {
  const { key } = dataset;
  const metric = data.columns.find((column) => column.key === dataset.metric);
  const [mean, bounds] = [0, 1].map((i) => ({ values }) => values[metric.key]?.[i]);
  let words = (line) => [missing(line[key]) ? "–" : String(line[key])];
  let content = (said) => said.map((word, i) => (i ? make("small", {}, word) : word));
  let rank = (line) => line[key];
  if (metric) {
    words = (line) => [written(mean(line), metric.unit), interval(bounds(line))].filter(Boolean);
    rank = mean;
  } else if (key === "flags") {
    words = ({ state, flags }) => [...(state === "done" ? [] : [state]), ...flags];
    content = (said) => flagged(said).flatMap((flag) => [flag, " "]);
    rank = (line) => words(line).join(" ");
  }
  return { className, words, content, rank };
}

// Only the lines near the screen are in the document. The rest of a table is blocks of empty space of their height.
const BLOCK = 40;  // lines that come and go together
const HEIGHT = 50;  // pixels of a line that was not drawn yet
const drawn = new WeakMap();  // block → how to draw its lines
const near = new IntersectionObserver((blocks) => {
  for (const { target, isIntersecting } of blocks) (isIntersecting ? fill : clear)(target);
}, { rootMargin: "800px" });
function fill(block) {
  if (block.className !== "far") return;
  block.className = "";
  block.replaceChildren(...drawn.get(block)());
}
function clear(block) {
  if (block.className === "far" || block.contains(document.activeElement)) return;
  space(block, block.offsetHeight || HEIGHT * block.rows.length);
}
function space(block, height) {
  block.className = "far";
  block.replaceChildren(make("tr", { "aria-hidden": "true" }, make("td", { colspan: 99, style: `height: ${height}px` })));
}

// Missing numbers go last in both directions.
function compare(a, b, sign) {
  if (missing(a) || missing(b)) return missing(a) - missing(b);
  return sign * (typeof a === "number" ? a - b : a.localeCompare(b));
}

// Fills a table, and lets it be filtered and sorted; returns how to draw it anew.
function tabulate(table) {
  const head = table.tHead.rows[0];
  const columns = [...head.cells].slice(0, -1).map(columnOf);
  const all = lines[table.id].map((line) => {
    const words = columns.map((column) => column.words(line));
    return { line, words, text: words.flat().join(" ").toLowerCase() };
  });
  // Each heading holds the longest words of its column, unseen, so that no column changes its width on the way.
  const longest = (words) => Math.max(0, ...words.map((word) => word.length));
  columns.forEach((column, i) => {
    const words = all.reduce((most, line) => (longest(line.words[i]) > longest(most) ? line.words[i] : most), []);
    head.cells[i].append(make("div", { class: "widest", "aria-hidden": "true" }, ...column.content(words)));
  });
  function row({ line, words }, place) {
    const button = make("button", { type: "button", class: "open", "data-cell": line.id,
      "aria-label": `Details of ${line.name}` }, "⋯");
    const state = line.state === "done" ? {} : { class: "gone" };
    return make("tr", { ...state, "aria-rowindex": place + 2 },
      ...columns.map((column, i) => make("td", { class: column.className }, ...column.content(words[i]))), make("td", {}, button));
  }
  let asked = [];
  function draw() {
    const left = all.filter(({ text }) => asked.every((word) => text.includes(word)));
    for (const block of [...table.tBodies]) { near.unobserve(block); block.remove(); }
    for (let first = 0; first < left.length; first += BLOCK) {
      const block = make("tbody");
      const some = left.slice(first, first + BLOCK);
      drawn.set(block, () => some.map((line, i) => row(line, first + i)));
      space(block, HEIGHT * some.length);
      table.append(block);
      near.observe(block);
    }
    if (left.length) fill(table.tBodies[0]);
    table.setAttribute("aria-rowcount", left.length + 1);
    document.querySelector(`[data-count="${table.id}"]`).textContent = `${left.length} of ${all.length}`;
  }
  document.querySelector(`[data-filter="${table.id}"]`).addEventListener("input", ({ target }) => {
    asked = target.value.toLowerCase().split(/\s+/).filter(Boolean);
    draw();
  });
  for (const button of head.querySelectorAll(".sort")) {
    button.addEventListener("click", () => {
      const th = button.closest("th");
      const first = button.dataset.better === "higher" ? -1 : 1;  // the best on top
      const sorted = { ascending: -1, descending: 1 };
      const sign = sorted[th.getAttribute("aria-sort")] ?? first;
      for (const other of head.cells) other.removeAttribute("aria-sort");
      th.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
      const { rank } = columns[th.cellIndex];
      all.sort((a, b) => compare(rank(a.line), rank(b.line), sign));
      draw();
    });
  }
  draw();
  return draw;
}

// What the map, the pictures and the drawings say stands in the data alone.
function told({ name, state, errors, values, seeds, n, flags }) {
  const [mean, bounds] = values.carried ?? [null, null];
  const numbers = `carried ${percent(mean)} points ${bounds ?? ""}, ${seeds.length} seeds, n = ${n}`;
  return `${name}: ${state === "done" ? numbers : `${state}: ${errors.join("; ")}`}${flags.length ? `; flags: ${flags.join(", ")}` : ""}`;
}
for (const tile of document.querySelectorAll(".tile")) {
  const row = data.rows[tile.dataset.row];
  tile.dataset.cell = row.cells[0];
  tile.title = told(row);
  tile.setAttribute("aria-label", tile.title);
}
for (const image of document.querySelectorAll("[data-picture]"))
  image.src = `data:image/png;base64,${data.pictures[image.dataset.picture]}`;
for (const figure of document.querySelectorAll("[data-figure]"))
  figure.append(new DOMParser().parseFromString(data.figures[figure.dataset.figure], "image/svg+xml").documentElement);
const redraw = [...document.querySelectorAll("table.lines")].map(tabulate);
addEventListener("beforeprint", () => {  // all lines go to paper
  near.disconnect();
  document.querySelectorAll("main details").forEach((box) => { box.open = true; });
  document.querySelectorAll("tbody.far").forEach(fill);
});
addEventListener("afterprint", () => redraw.forEach((draw) => draw()));
document.getElementById("save").addEventListener("click", () => {
  const url = URL.createObjectURL(new Blob([JSON.stringify(data)], { type: "application/json" }));
  make("a", { href: url, download: `${data.title}.json` }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
});

show();
document.querySelector("main").removeAttribute("aria-busy");
