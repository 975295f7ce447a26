// The board: one script for every page. Lines are shown as a matrix or as a list; what is asked for stands in the address.
const FACETS = [
  ["distiller", "From teacher to student", "attack × distiller; the first column is the teacher itself"],
  ["condenser", "Through a distilled data set", "attack × condenser of the set on which the student was trained"],
  ["encoder", "Through a self-supervised encoder", "attack × head on the encoder"],
  ["teacher", "Not distilled yet", "what the teacher itself carries"],
];
const PLACES = { 1: "in the training data", 2: "in the teacher", 3: "in the transfer set", 4: "in the synthetic set", 5: "in the encoder" };
const KINDS = { distiller: "distillers", condenser: "condensers", encoder: "objectives" };
const [DEEP, GLOW] = [0.86, 0.64];  // the heat above which white reads on light, and black on dark
const AXES = ["images", "teacher", "attack", "condenser", "encoder", "distiller", "student", "defense"];
const BACK = { ACC: "acc", ASR: "asr", "Base": "base" };  // columns of a list beside what is carried
let data, panel, form, shown = [], order = { key: "carried", sign: -1 };

const told = (line, name) => line.numbers[name];
const meanOf = (line, name = "carried") => told(line, name)?.mean;
const whole = (value) => fixed(100 * value, 0).replace(/^-0$/, "0").replace("-", "−");
// How far the runs lie apart, in whole points: what a tile has room for.
function brief({ low, high, runs }) {
  if (runs.length > 1 && runs.length < 5) return runs.map(whole).join(", ");
  return missing(low) ? "" : `[${whole(low)}, ${whole(high)}]`;
}
const model = (line) => [line.condenser ?? line.encoder ?? line.distiller, line.student].filter(Boolean).join(" → ") || "teacher";
const nameOf = (line) => `${line.attack ?? "never attacked"} → ${model(line)}${line.defense ? `, defence ${line.defense}` : ""}`;
const mark = (line) => (line.doubted ? "⚑" : line.flags.length ? "△" : "");
const verdictOf = (line) => line.verdict || line.state !== "done" ? line.verdict : (line.defense ? "defended" : line.way[0] === "teacher" ? "" : line.doubted ? "not believed" : "not judged");

// What is asked for, from the form and back from the address.
const USUAL = () => ({ view: data.view, defense: data.view === "matrix" ? "none" : "" });
function asked() {
  const given = Object.fromEntries(new FormData(form));
  return { ...given, ...(order.key === "carried" && order.sign < 0 ? {} : { sort: `${order.sign < 0 ? "-" : ""}${order.key}` }) };
}
function address(more = {}) {
  const usual = { q: "", images: "", student: "", by: "", rows: "", ...USUAL() };
  const some = Object.entries({ ...asked(), ...more }).filter(([name, value]) => value !== (usual[name] ?? ""));
  return `#${new URLSearchParams(some)}`;
}
const keep = (more) => history.replaceState(null, "", address(more) === "#" ? location.href.split("#")[0] : address(more));
function restore() {
  const said = { ...USUAL(), ...Object.fromEntries(new URLSearchParams(location.hash.slice(1))) };
  for (const field of form.elements) {
    if (!field.name) continue;
    if (field.type === "radio" || field.type === "checkbox") field.checked = said[field.name] === field.value;
    else if (field.tagName !== "SELECT" || [...field.options].some(({ value }) => value === (said[field.name] ?? ""))) field.value = said[field.name] ?? "";
  }
  const sort = said.sort ?? "-carried";
  order = { key: sort.replace(/^-/, ""), sign: sort.startsWith("-") ? -1 : 1 };
  draw();
  if (said.line) open(data.lines.filter((line) => line.id === said.line && (!said.of || said.of === line.study)).slice(0, 1));
  if (said.tile) open(document.querySelector(`[data-tile="${CSS.escape(said.tile)}"]`)?.lines ?? []);
}

function matching() {
  const { q, images, student, defense, by, three, sound } = asked();
  const words = q.toLowerCase().split(/\s+/).filter(Boolean);
  return data.lines.filter((line) =>
    (!images || line.images === images) && (!student || !line.student || line.student === student) &&
    (!defense || (line.defense ?? "none") === defense) && (!by || (line.by || "ours") === by) &&
    (!three || line.seeds.length >= 3) && (!sound || !line.doubted) && words.every((word) => line.text.includes(word)));
}

// Of several settings a tile shows the one that carried most: of those that bear a verdict, else of those that can be believed.
const rank = (line) => (line.state !== "done" ? 3 : line.doubted ? 2 : line.seeds.length >= 3 ? 0 : 1);
const best = (lines) => [...lines].sort((a, b) => rank(a) - rank(b) || (meanOf(b) ?? -9) - (meanOf(a) ?? -9))[0];

function linked(path, text) {
  const page = data.methods[path];
  return page ? make("a", { href: data.root + page }, text) : text;
}

function tile(lines, key) {
  const line = best(lines);
  const carried = told(line, "carried");
  const heat = carried ? Math.min(Math.max(carried.mean, 0), 1) : 0;
  const hot = `${heat > DEEP ? " deep" : ""}${heat > GLOW ? " glow" : ""}`;
  const button = make("button", { type: "button", class: `tile ${line.state}${line.doubted ? " doubted" : ""}${hot}`, "data-tile": key },
    lines.length > 1 ? make("span", { class: "many", "aria-hidden": "true" }, `${lines.length}×`) : null,
    mark(line) ? make("sup", { "aria-hidden": "true" }, mark(line)) : null,
    make("b", {}, line.state === "done" ? percent(carried.mean) : line.state),
    make("span", {}, carried ? brief(carried) : ""), make("span", {}, verdictOf(line)));
  button.style.setProperty("--heat", heat.toFixed(3));
  const numbers = carried ? `carried ${percent(carried.mean)} points ${carried.reach}, ${line.seeds.length} seeds, n = ${line.n}` : line.errors.join("; ");
  button.title = `${nameOf(line)} on ${line.images}: ${numbers}${line.verdict ? `; ${line.verdict}` : ""}` +
    `${line.flags.length ? `; flags: ${line.flags.join(", ")}` : ""}${lines.length > 1 ? `; ${lines.length} settings` : ""}`;
  button.setAttribute("aria-label", button.title);
  button.lines = lines;
  return [button, line];
}

function facet([kind, title, note], lines, rowsBy) {
  const across = Map.groupBy(lines, (line) => line.way[1]);
  const down = [...Map.groupBy(lines, (line) => line.bare)];
  const many = (some) => new Set(some.map((line) => `${line.way[1]} ${line.bare}`)).size;
  const most = (some) => meanOf(best(some.filter((line) => line.way[0] === kind))) ?? -9;
  const by = { "": (a, b) => many(b[1]) - many(a[1]), carried: (a, b) => most(b[1]) - most(a[1]), name: () => 0 }[rowsBy];
  down.sort((a, b) => by(a, b) || a[0].localeCompare(b[0]));
  const columns = [...across].sort((a, b) => (b[0] === "teacher") - (a[0] === "teacher") || many(b[1]) - many(a[1]) || a[0].localeCompare(b[0])).map(([way]) => way);
  const picked = [];
  const head = (way) => make("th", { scope: "col" }, kind === "teacher" || way === "teacher" ? way : linked(`${KINDS[kind]}/${way.split(/ → | on /)[0]}`, way));
  const first = (attack, some) => make("th", { scope: "row" }, linked(`attacks/${attack}`, attack), make("small", {}, PLACES[some[0].place] ?? ""));
  const field = (attack, way, some) => {
    const here = some.filter((line) => line.way[1] === way);
    if (!here.length) return make("td", { class: "hole" }, make("div", {}, "not run"));
    const [button, line] = tile(here, `${attack}|${way}`);
    picked.push({ ...line, settings: here.length });
    return make("td", {}, button);
  };
  const table = make("table", {}, make("caption", {}, title, make("small", {}, note)));
  if (kind === "teacher") {  // one column, laid out along the page
    const box = make("div", { class: "figures only" });
    for (const [attack, some] of down) box.append(make("table", {}, make("tbody", {}, make("tr", {}, first(attack, some), field(attack, "teacher", some)))));
    return [make("div", { class: "facet" }, make("p", { class: "title" }, title, make("small", {}, note)), box), picked];
  }
  table.append(make("thead", {}, make("tr", {}, make("td"), ...columns.map(head))),
    make("tbody", {}, ...down.map(([attack, some]) => make("tr", {}, first(attack, some), ...columns.map((way) => field(attack, way, some))))));
  return [make("div", { class: "facet", tabindex: "0", role: "region", "aria-label": title }, table), picked];
}

function matrix(lines, rowsBy) {
  const attacked = lines.filter((line) => line.attack && (told(line, "carried") || line.state !== "done"));
  const passed = new Set(attacked.filter((line) => line.way[0] === "distiller").map((line) => line.bare));
  const at = (line) => (line.way[0] === "teacher" && passed.has(line.bare) ? "distiller" : line.way[0]);
  const boxes = [], picked = [];
  for (const one of FACETS) {
    const own = attacked.filter((line) => at(line) === one[0]);
    if (!own.length) continue;
    const [box, some] = facet(one, own, rowsBy);
    boxes.push(box);
    picked.push(...some);
  }
  if (!boxes.length) boxes.push(make("p", { class: "note" }, "No attack was measured of what is asked for. Reset, or ask for less."));
  document.getElementById("facets").replaceChildren(...boxes);
  return picked;
}

// The columns of a list: heading, what it sorts by, what it shows.
const COLUMNS = [
  ["attack", "Attack", (line) => line.attack ?? "~", (line) => line.attack ?? "never attacked"],
  ["model", "Came through", model, model],
  ["carried", "Carried", (line) => meanOf(line), (line) => (line.state === "done" ? value(told(line, "carried")) : [line.state])],
  ["", "0 … 100 points", null, forest],
  ["seeds", "Seeds", (line) => line.seeds.length, (line) => [String(line.seeds.length)]],
  ["verdict", "Backdoor", (line) => line.verdict || "~", (line) => line.verdict || "–"],
  ["images", "Images", (line) => line.images, (line) => line.images],
  ["defense", "Defence", (line) => line.defense ?? "", (line) => line.defense ?? "none"],
  ...Object.entries(BACK).map(([heading, name]) => [name, heading, (line) => meanOf(line, name), (line) => value(told(line, name))]),
  ["flags", "Flags", (line) => line.flags.length, (line) => flagged(line.flags).flatMap((flag) => [flag, " "])],
  ["study", "Study", (line) => line.study, (line) => [make("a", { href: `${data.root}${line.page}` }, line.study), line.by ? make("small", {}, `by ${line.by}`) : null]],
];
const NUMBERS = new Set(["carried", "seeds", ...Object.values(BACK)]);
const value = (one) => (one ? [percent(one.mean), make("small", {}, one.reach)] : ["–"]);
// Its runs as dots, or its interval as a line, and its mean, on a scale from −10 to 100.
function forest(line) {
  const one = told(line, "carried");
  if (!one) return [];
  const at = (number) => `${Math.min(Math.max((100 * number + 10) / 1.1, 0), 100)}%`;
  const drawn = make("span", { class: "forest", "aria-hidden": "true" });
  const place = (tag, left, right) => {
    const node = make(tag);
    node.style.left = at(left);
    if (right !== undefined) node.style.width = `calc(${at(right)} - ${at(left)})`;
    drawn.append(node);
  };
  if (one.runs.length > 1 && one.runs.length < 5) one.runs.forEach((run) => place("em", run));
  else if (!missing(one.low)) place("i", one.low, one.high);
  place("b", one.mean);
  return [drawn];
}
function compare(a, b) {
  if (missing(a) || missing(b)) return missing(a) - missing(b);  // missing ones last, either way
  return order.sign * (typeof a === "number" ? a - b : a.localeCompare(b));
}
function list(lines) {
  const [, , sorted] = COLUMNS.find(([key]) => key === order.key) ?? COLUMNS[2];
  const found = [...lines].sort((a, b) => compare(sorted(a), sorted(b)));
  const body = found.map((line) => {
    const button = make("button", { type: "button", class: "open", "aria-label": `Details of ${nameOf(line)}` }, "⋯");
    button.lines = [line];
    const cells = COLUMNS.map(([key, , , content]) => make("td", NUMBERS.has(key) ? { class: "num" } : {}, ...[content(line)].flat()));
    return make("tr", {}, make("td", {}, button), ...cells);
  });
  const table = document.querySelector("#list table");
  table.tBodies[0].replaceChildren(...body);
  const heads = COLUMNS.map(([key, heading]) => {
    if (!key) return make("th", { scope: "col" }, heading);
    const button = make("button", { type: "button", class: "sort", "data-key": key }, heading);
    const state = key === order.key ? { "aria-sort": order.sign > 0 ? "ascending" : "descending" } : {};
    return make("th", { scope: "col", ...(NUMBERS.has(key) ? { class: "num" } : {}), ...state }, button);
  });
  table.tHead.rows[0].replaceChildren(make("th", { scope: "col" }, make("span", { class: "unseen" }, "Details")), ...heads);
  return found;
}

function draw() {
  const lines = matching();
  const { view, rows } = asked();
  document.getElementById("matrix").hidden = view !== "matrix";
  document.getElementById("list").hidden = view !== "list";
  shown = view === "matrix" ? matrix(lines, rows) : list(lines);
  document.getElementById("count").textContent =
    view === "matrix" ? `${shown.length} fields of ${lines.length} lines` : `${lines.length} of ${data.lines.length} lines`;
}

// What is shown, flat; points and percent as on the page.
const points = (number) => (missing(number) ? null : Number((100 * number).toFixed(3)));
function flat(line) {
  const numbers = (name) => {
    const one = told(line, name) ?? {};
    return { [name]: points(one.mean), [`${name}_low`]: points(one.low), [`${name}_high`]: points(one.high) };
  };
  return {
    study: line.study, by: line.by, ...Object.fromEntries(AXES.map((axis) => [axis, line[axis] ?? "none"])), budget: line.budget,
    ...numbers("carried"), runs: (told(line, "carried")?.runs ?? []).map(points).join(" "), ...numbers("acc"), ...numbers("asr"),
    base: points(meanOf(line, "base")), untriggered: points(meanOf(line, "untriggered")), seeds: line.seeds.join(" "), n: line.n, state: line.state,
    verdict: line.verdict, flags: line.flags.join(" "), settings: line.settings ?? 1, command: line.commands.join("; "),
  };
}
const quoted = (word) => (/[",\n\r]/.test(word) ? `"${word.replaceAll('"', '""')}"` : word);
const armed = (word) => (/^[=+@\t]/.test(word) || /^-\D/.test(word) ? `'${word}` : word);  // a spreadsheet runs what begins so
function csv(lines) {
  const rows = lines.map(flat);
  const heads = Object.keys(rows[0] ?? { study: "" });
  const cell = (word) => quoted(typeof word === "string" ? armed(word) : String(word ?? ""));
  return [heads.join(","), ...rows.map((row) => heads.map((name) => cell(row[name])).join(","))].join("\r\n") + "\r\n";
}
const SIGNS = { "\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}", "→": "$\\to$", "−": "$-$", "–": "--", "≥": "$\\ge$" };
const tex = (word) => String(word).replace(/[\\~^→−–≥]|[&%$#_{}]/g, (sign) => SIGNS[sign] ?? `\\${sign}`);
function latex(lines) {
  const number = (one) => (one ? `${percent(one.mean)} ${one.reach}` : "–");
  const head = ["Attack", "Came through", "Images", "Defence", "Carried", "ACC", "Seeds", "Backdoor", "Flags"];
  const rows = lines.map((line) => [line.attack ?? "never attacked", model(line), line.images, line.defense ?? "none", number(told(line, "carried")),
    number(told(line, "acc")), line.seeds.length, line.verdict || "–", line.flags.join(", ") || "–"]);
  const line = (words) => `${words.map(tex).join(" & ")} \\\\`;
  return ["% Carried in points, ACC in percent; needs booktabs.", `\\begin{tabular}{${"l".repeat(4)}rrr${"l".repeat(2)}}`, "\\toprule", line(head), "\\midrule",
    ...rows.map(line), "\\bottomrule", "\\end{tabular}", ""].join("\n");
}
const TAKEN = {
  csv: ["csv", "text/csv", csv], latex: ["tex", "application/x-tex", latex],
  json: ["json", "application/json", (lines) => JSON.stringify(lines.map((line) => ({ ...flat(line), seeds: line.seeds, flags: line.flags, cells: line.cells })), null, 1)],
};
function take(name) {
  const [end, type, write] = TAKEN[name];
  const url = URL.createObjectURL(new Blob([write(shown)], { type }));
  make("a", { href: url, download: `${data.title.replace(/[^\w-]+/g, "-").toLowerCase()}.${end}` }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

// The panel: a line whole, or the settings behind a tile.
function tableOf(heads, rows, caption) {
  const head = heads.map((text, i) => make("th", { scope: "col", ...(i ? { class: "num" } : {}) }, text));
  const body = rows.map(([first, ...rest]) => make("tr", {}, make("th", { scope: "row" }, ...[first].flat()), ...rest.map((cell) => make("td", { class: "num" }, ...[cell].flat()))));
  return make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
    make("table", { class: "data" }, make("caption", {}, caption), make("thead", {}, make("tr", {}, ...head)), make("tbody", {}, ...body)));
}
const NAMES = { carried: "Carried, points", asr: "ASR %", base: "ASR of the control %", untriggered: "The target without trigger %",
  acc: "ACC %", acc_control: "ACC of the control %", teacher_asr: "ASR of the teacher %" };
function command(text) {
  const button = make("button", { type: "button", "aria-label": "Copy the command" }, "Copy");
  button.addEventListener("click", () => copy(text, button));
  return make("div", { class: "command" }, make("code", {}, text), button);
}
function chain(line, cell) {
  const label = { teacher: line.teacher, attack: line.attack, poison: line.attack, student: `${line.distiller} → ${line.student}`, defense: line.defense,
    choose: line.defense, sift: line.defense, condense: line.condenser, pretrain: line.encoder, head: line.student, victim: line.student };
  const steps = Object.entries(cell.keys).map(([kind, key]) => {
    const stage = data.lineage[key];
    const facts = stage ? [stage.method, stage.version && `version ${stage.version}`, duration(stage.seconds), stage.taint?.length && `attacked by ${stage.taint.join(", ")}`] : [label[kind]];
    return make("li", {}, make("b", {}, kind), ` ${facts.filter(Boolean).join(" · ")} `, make("code", {}, key));
  });
  return make("ol", { class: "chain", "aria-label": "Lineage" }, ...steps);
}
function whole_line(line) {
  const where = [line.images, `teacher ${line.teacher}`, `budget ${line.budget}`, line.n ? `n = ${line.n}` : ""].filter(Boolean).join(" · ");
  const parts = [make("p", { class: "note" }, where, line.verdict ? ` · backdoor: ${line.verdict}` : "")];
  parts.push(...line.errors.map((text) => make("p", { class: "error" }, text)));
  for (const flag of line.flags) parts.push(make("p", {}, ...flagged([flag]), " ", data.glossary[flag] ?? ""));
  const rows = Object.entries(NAMES).filter(([name]) => told(line, name)).map(([name, text]) => [text, percent(meanOf(line, name)), told(line, name).reach]);
  parts.push(make("h3", {}, "Numbers"), tableOf(["", "Mean", "Runs, or interval"], rows, `Over ${line.seeds.length} ${line.seeds.length === 1 ? "seed" : "seeds"}`));
  parts.push(make("h3", {}, "Run by run"), tableOf(["Seed", "Carried", "Interval over images", "ASR", "Control", "ACC", "Seconds"],
    line.cells.map((cell) => [`${cell.seed}${cell.state === "done" ? "" : ` ${cell.state}`}`, percent(cell.carried), cell.interval ? interval(cell.interval) : "–",
      percent(cell.asr), percent(cell.base), percent(cell.acc), String(Math.round(cell.seconds))]), "Points and percent"));
  if (line.published.length) parts.push(make("h3", {}, "Published, beside ours counted their way"), tableOf(["Source", "Their ACC", "Our ACC", "Their ASR", "Our ASR"],
    line.published.map((one) => [[one.source ?? "–", make("small", {}, one.convention ?? "")], percent(one.acc), value(one.ours.acc), percent(one.asr), value(one.ours.asr)]), "Percent"));
  parts.push(make("h3", {}, "Make it again"), ...line.commands.map(command));
  parts.push(make("h3", {}, "Lineage"), ...line.cells.map((cell, i) => {
    const box = make("details", { class: "seed" }, make("summary", {}, `Seed ${cell.seed}`), chain(line, cell));
    box.open = i === 0;
    return box;
  }));
  const also = line.also.length ? `; also in ${line.also.join(", ")}` : "";
  parts.push(make("p", {}, make("a", { href: `${data.root}${line.page}#line=${encodeURIComponent(line.id)}` }, `Study ${line.study}`), line.by ? ` by ${line.by}` : "", also));
  return parts;
}
function open(lines) {
  if (!lines.length) return;
  const one = lines.length === 1 ? lines[0] : null;
  const title = document.getElementById("panel-title");
  title.textContent = one ? nameOf(one) : `${lines[0].bare} → ${lines[0].way[1]}: ${lines.length} settings`;
  const body = one ? whole_line(one) : [make("p", { class: "note" }, "Each with its own command; those that carried most first."),
    tableOf(["Setting", "Carried", "Seeds", "Backdoor"], [...lines].sort((a, b) => rank(a) - rank(b) || meanOf(b) - meanOf(a)).map((line) => {
      const button = make("button", { type: "button", class: "open" }, nameOf(line));
      button.lines = [line];
      return [[button, make("small", {}, `${line.images} · ${line.teacher} · ${line.study}${line.by ? ` by ${line.by}` : ""}`)],
        value(told(line, "carried")), String(line.seeds.length), `${line.verdict || "–"} ${mark(line)}`];
    }), "Points")];
  document.getElementById("panel-body").replaceChildren(...body);
  if (!panel.open) panel.showModal();
  panel.scrollTop = 0;
  title.focus();
  keep(one ? { line: one.id, of: one.study } : { tile: `${lines[0].bare}|${lines[0].way[1]}` });
}

function fill(name, values, every, usual) {
  const select = form.elements[name];
  select.replaceChildren(make("option", { value: "" }, every), ...values.map((word) => make("option", { value: word }, word)));
  select.closest("label").hidden = values.length < 2 && !usual;
}
async function start() {
  data = await unpacked(document.getElementById("data").textContent);
  panel = document.getElementById("panel");
  form = document.getElementById("asked");
  panel.addEventListener("click", (event) => { if (event.target === panel) panel.close(); });
  if (form) {
    for (const line of data.lines)
      line.text = [nameOf(line), line.bare, line.images, line.teacher, line.study, line.by, line.verdict, ...line.flags].join(" ").toLowerCase();
    const values = (of) => [...new Set(data.lines.map(of).filter(Boolean))].sort((a, b) => a.localeCompare(b));
    fill("images", values((line) => line.images), "all");
    fill("student", values((line) => line.student), "all");
    fill("defense", ["none", ...values((line) => line.defense)], "all");
    fill("by", values((line) => line.by).length ? ["ours", ...values((line) => line.by)] : [], "all");
    form.addEventListener("submit", (event) => event.preventDefault());
    const redraw = () => { draw(); keep(); };
    form.addEventListener("input", redraw);
    document.querySelectorAll('[form="asked"]').forEach((field) => field.addEventListener("input", redraw));
    document.getElementById("again").addEventListener("click", () => { history.replaceState(null, "", location.href.split("#")[0]); restore(); });
    panel.addEventListener("close", () => keep());
    document.addEventListener("click", ({ target }) => {
      const button = target.closest("button");
      if (button?.lines) open(button.lines);
      else if (button?.dataset.take) take(button.dataset.take);
      else if (button?.dataset.key) {
        const first = NUMBERS.has(button.dataset.key) ? -1 : 1;
        order = { key: button.dataset.key, sign: order.key === button.dataset.key ? -order.sign : first };
        redraw();
        document.querySelector(`[data-key="${order.key}"]`).focus();
      }
    });
    const link = document.getElementById("link");
    link.addEventListener("click", () => { keep(); copy(location.href, link, "Copy link"); });
    addEventListener("hashchange", restore);
    restore();
  }
  document.querySelector("main").removeAttribute("aria-busy");
}
start();
