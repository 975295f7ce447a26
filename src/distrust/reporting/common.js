// Shared by the report and the board.

// The data are JSON, compressed by gzip and written in base64.
async function unpacked(text) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).json();
}

// Text enters the page as text nodes only, so that no name can become markup.
function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}
const missing = (value) => value === null || value === undefined;
// As Python writes it: a number that lies exactly between two goes to the even digit, where toFixed goes up.
function fixed(value, digits) {
  const scaled = Math.abs(value) * 10 ** digits;
  const down = (value * 2 ** (digits + 1)) % 1 === 0 && scaled % 2 === 0.5;
  return (down ? (Math.sign(value) * Math.floor(scaled)) / 10 ** digits : value).toFixed(digits);
}
const percent = (value) => (missing(value) ? "–" : fixed(100 * value, 1).replace(/^-0\.0$/, "0.0").replace("-", "−"));
const interval = (bounds) => (Array.isArray(bounds) ? `[${percent(bounds[0])}, ${percent(bounds[1])}]` : bounds ?? "");  // of runs it is written already
function duration(seconds) {
  if (missing(seconds)) return "–";
  if (seconds >= 3600) return `${(seconds / 3600).toFixed(1)} h`;
  return seconds >= 60 ? `${(seconds / 60).toFixed(1)} min` : `${seconds.toFixed(1)} s`;
}
// A metric's value in its unit: shares, points and ratios in percent.
function written(value, unit) {
  if (missing(value) || ["share", "points", "ratio"].includes(unit)) return percent(value);
  if (unit === "count") return Math.round(value).toLocaleString("en");
  return unit || !Number.isInteger(value) ? fixed(value, 2) : String(value);
}
const number = (value, bounds, unit = "share") =>
  make("td", { class: "num" }, written(value, unit), bounds && !missing(value) ? make("small", {}, interval(bounds)) : null);
const given = (axes, name) => (["none", undefined].includes(axes[name]) ? null : axes[name]);
const flagged = (names) => names.map((name) => make("span", { class: "flag" }, name));

async function copy(text, button, name = "Copy") {
  try {
    await navigator.clipboard.writeText(text);
  } catch {  // no clipboard permission from file:// in this browser
    const area = make("textarea", { class: "unseen" });
    area.value = text;
    button.parentElement.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  button.textContent = "Copied";
  setTimeout(() => { button.textContent = name; }, 1500);
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
