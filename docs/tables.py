"""Rewrite the result tables of README.md and the pages, and their drawings, from results/: `python docs/tables.py`.

Tables stand between `<!-- results:STUDY -->` and `<!-- /results -->`, or `choices`, `neurons`, `map`, `headline`,
`shelf` in place of `results`, or `verdicts`. A test checks that they are up to date.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean

from distrust.auditing.shelf import Judged, Shelf, family
from distrust.intervals import Share, weighted
from distrust.reporting.answer import answer
from distrust.reporting.detection import auroc, detections
from distrust.reporting.figures import frontiers
from distrust.reporting.labels import Short, shortened
from distrust.reporting.markup import MARKUP, markdown
from distrust.reporting.published import COUNTED
from distrust.reporting.rows import Axes, Cell, Estimate, Row, given, over_seeds
from distrust.reporting.table import (
    bare,
    chosen,
    entry,
    model,
    naming,
    order,
    setting,
    states,
    table_of,
    value_of,
)
from distrust.reporting.text import number, percent, share
from distrust.reporting.verdict import comparisons
from distrust.selectors import parse_one
from distrust.study import read_cells
from distrust.study.axes import AXES

ROOT = Path(__file__).resolve().parents[1]
PAGES = (
    ROOT / "README.md",
    ROOT / "docs" / "results.md",
    ROOT / "docs" / "cheatkd.md",
    ROOT / "docs" / "clean-teacher.md",
    ROOT / "docs" / "distilled-sets.md",
    ROOT / "docs" / "encoders.md",
    ROOT / "docs" / "nad.md",
    ROOT / "docs" / "nad-attacks.md",
    ROOT / "docs" / "audit.md",
    ROOT / "docs" / "subliminal.md",
)
DRAWINGS = {  # study, head and option along which curves are drawn
    ROOT / "docs" / "mimic-steps.svg": ("mimic-ablation", "mlp", "epochs"),
    ROOT / "docs" / "mimic-clean.svg": ("mimic", "linear", "clean"),
}
MARKED = re.compile(
    r"(<!-- (results|choices|neurons|map|headline|shelf|verdicts):([\w-]+) -->\n).*?(<!-- /\2 -->)", re.DOTALL
)
SEEDS = "Mean over seeds, and the runs or, of five and more, their 95 % t-interval; of one run its own interval"
CLEANED = (
    "defence", "carried still, points", "ACC %", "costs, points of ACC", "destroyed", "cleans", "beside",
    "carries more, points", "ACC more, points",
)  # fmt: skip
AUDITED = (
    "attacked by", "ASR %", "called suspicious", "95 % interval", "AUROC", "names the target", "unlike: inconclusive",
)  # fmt: skip
MAPPED = (
    "mean ASR %", "after re-tuning %", "costs, points of ACC", "costs a clean model, points of ACC", "seconds a model",
)  # fmt: skip
CLEANS = {None: "too few runs", True: "yes", False: "not shown"}
DETECTED = ("detector", "attacked", "clean", "AUROC", "level %", "found", "false alarms", "names the target")
CHOICES = ("defence", "seed", "validation ACC before", "after, candidate by candidate", "taken", "its ASR %")
BESIDE = ("our ACC %", "their ACC %", "our ASR %", "their ASR %", "whose, and how they count")
NEURONS = ("model", "seed", "layer", "channels", "rank under the trigger", "rank on clean images", "longest run")


def current(page: Path, results: Path = ROOT / "results") -> str:
    """A page with every table brought up to date."""
    glossary = "flags.md" if page.parent.name == "docs" else "docs/flags.md"

    def filled(found: re.Match[str]) -> str:
        folder = results / found[3]
        made = {"choices": choices, "neurons": neurons, "map": plain_map, "headline": headline, "shelf": judged}
        made |= {"verdicts": lambda folder: ten(ROOT / "tests" / f"{folder.name}.json")}
        return found[1] + made.get(found[2], lambda folder: table(folder, glossary))(folder) + found[4]

    return MARKED.sub(filled, page.read_text())


def table(folder: Path, glossary: str) -> str:
    """The tables of one study, or a line that says there are none; flags are links into `glossary`."""
    if not folder.is_dir():
        return (
            f"No results yet. `distrust run studies/{folder.name}.toml --results results/{folder.name}` makes them.\n"
        )
    cells = read_cells(folder)
    told = table_of(Short(cells), ["all"])  # with every option
    axes, rows = [key for key in naming(told.rows) if key in AXES and key != "defense"], told.rows
    lines = told.lines("markdown")
    for line, row in zip(lines, rows, strict=True):
        line[-1] = ", ".join([f"[{name}]({glossary}#{name})" for name in row.flags] + states(row)) or "–"
    common = MARKUP["markdown"].text(*setting(rows))
    text = f"> {answer(cells)}\n\n{common}. {SEEDS}.\n\n{markdown(told.head('markdown'), lines)}"
    text += _defences(cells) + _detectors(cells)
    published = [line for row in rows for line in _published(row, axes)]
    if published:
        ways = sorted({row.get("counted", "others") for cell in cells for row in cell["published"]})
        text += (
            f"\nPublished numbers stand beside ours, counted their way: {'; '.join(COUNTED[way][2] for way in ways)}. "
            "They are not mixed into the table above.\n\n"
        ) + markdown([*axes, "model", "defence", *BESIDE], published)
    return text


def _defences(cells: Sequence[Cell]) -> str:
    """The defences on the models that every one of them was run on."""
    text = ""
    for one in comparisons(shortened(cells)):
        under = f" under `{one.against}`" if one.against else ""
        rare = f" {one.rare} with fewer seeds are not among them." if one.rare else ""
        text += (
            f"\nDefences on the same backdoored models{under}: models {one.models}, seeds {one.seeds}, "
            f"{percent(one.carried)} points carried before. Differences are paired; a destroyed model counts with "
            f"what it carried. ◆: on the frontier of what is left and what it costs.{rare}\n\n"
        ) + markdown(
            CLEANED,
            [
                [
                    f"`{result.defense}`" + " ◆" * (result in one.frontier), value_of(result.carried),
                    percent(result.acc), value_of(result.cost), str(result.floored), CLEANS[result.cleans],
                    f"`{result.rival}`: {result.standing}" if result.rival else "–", value_of(result.less),
                    value_of(result.more),
                ]
                for result in sorted(one.results, key=lambda result: result.carried.mean)
            ],
        )  # fmt: skip
    return text


def plain_map(folder: Path) -> str:
    """Defences × attacks at one glance: ASR on backdoored teachers, and what each defence costs and takes."""
    if not folder.is_dir():
        return "No results yet.\n"
    rows = [row for row in over_seeds(read_cells(folder)) if row.state == "done" and not given(row.axes, "distiller")]
    attacks = list(dict.fromkeys(row.axes["attack"] for row in rows if given(row.axes, "attack")))
    at = {(row.axes["defense"], row.axes["attack"]): row for row in rows}
    weak = {row.axes["attack"] for row in rows if "attack-weak" in row.flags}  # in a run or more
    lines = []
    for defense in dict.fromkeys(row.axes["defense"] for row in rows):
        own = {attack: row for attack in attacks if (row := at.get((defense, attack)))}
        pairs = [(at["none", attack], row) for attack, row in own.items() if attack not in weak]
        clean = [(at["none", "none"], row) for row in [at.get((defense, "none"))] if row]
        left, again = (_average(row.mean(metric) for _, row in pairs) for metric in ("asr", "retune"))
        costs = (_average(before.mean("acc") - row.mean("acc") for before, row in some) for some in (pairs, clean))
        took = _average(max(row.mean("seconds") - before.mean("seconds"), 0) for before, row in pairs)
        line = [f"`{bare(defense)}`", *(_told(own.get(attack), "asr") for attack in attacks)]
        line += [*map(percent, (left, again, *costs)), number(took, "count")]
        lines.append(((defense != "none", math.inf if left is None else left, defense), line))
    headings = (f"`{attack}`{' (weak)' if attack in weak else ''}" for attack in attacks)
    return markdown(["defence", *headings, *MAPPED], [line for _, line in sorted(lines)])


def _told(row: Row | None, metric: str) -> str:
    if row is None or row.mean(metric) is None:
        return "–"
    return percent(row.mean(metric)) + " †" * ("acc-floor" in row.flags)


def _average(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def judged(folder: Path) -> str:
    """What an audit says of the models of a shelf: alone and, if they taught, with their students, too."""
    known = Shelf.read(folder.name)
    if known.alone == known:
        return _judged(known)
    taught = " and ".join(f"`{name}`" for name in known.about["students"])
    return f"Alone:\n\n{_judged(known.alone)}\nWith students by {taught}:\n\n{_judged(known)}"


def ten(file: Path) -> str:
    """What an audit says of models that nothing was settled on, a line each."""
    heads = ("attacked by", "target", "ASR %", "ACC %", "verdict", "class", "*p*")
    return markdown(
        heads,
        [
            [
                "nobody" if one["attack"] == "none" else f"`{one['attack']}`",
                "–" if one["target"] is None else str(one["target"]),
                percent(one["asr"]), percent(one["acc"]), one["verdict"],
                *(str(one.get(name, "–")) for name in ("class", "p")),
            ]
            for one in json.loads(file.read_text())
        ],
    )  # fmt: skip


def _judged(known: Shelf) -> str:
    """Family by family, each model judged by the clean ones of other seeds."""
    by: dict[str, list[Judged]] = {}
    for one in known.judged():
        by.setdefault(family(one.look.attack), []).append(one)
    rates, far = known.rates(), {name: [one.compared.stands or 0.0 for one in some] for name, some in by.items()}
    areas = {name: auroc(own, far[""]) for name, own in far.items()}
    lines = []
    for name, some in sorted(by.items()):
        asr = [_reached(one.look.asr for one in some)]
        asr += [
            f"{distiller} {_reached(one.look.inherited.get(distiller) for one in some)}"
            for distiller in some[0].look.inherited
        ]
        hits = [one.named for one in some if one.called]
        told = [f"{areas[name]:.2f}", f"{sum(hits)} of {len(hits)}" if hits else "–"] if name else ["–", "–"]
        unlike = str(sum(one.unlike for one in some))
        lines.append([f"`{name}`" if name else "nobody", "; ".join(asr), *_called(rates[name]), *told, unlike])
    alarms, attacked = rates.pop(""), [*rates]
    halves = [(0.5, Share(alarms.of - alarms.hits, alarms.of)), *((0.5 / len(attacked), one) for one in rates.values())]
    right, (low, high) = weighted(halves)
    wrong = {name: fmean(one.wrong for one in some) for name, some in by.items()}
    brier = (wrong[""] + fmean(wrong[name] for name in attacked)) / 2
    return (
        markdown(AUDITED, lines)
        + f"\nMean over families: AUROC {fmean(areas[name] for name in attacked):.2f}; accuracy, half of it on clean "
        f"models, {percent(right)} % [{percent(low)}, {percent(high)}]; Brier score {brier:.2f}, of chance "
        "0.25.\n"
    )


def _reached(rates: Iterable[float | None]) -> str:
    known = [rate for rate in rates if rate is not None]
    return f"{percent(min(known))} to {percent(max(known))}" if known else "–"


def _called(hits: Share) -> tuple[str, str]:
    low, high = hits.interval
    return f"{hits.hits} of {hits.of}", f"{percent(low)} to {percent(high)}"


def headline(folder: Path) -> str:
    """One line each: does NAD leave less than fine-tuning, and does what leaves least, by paired differences?

    Each is compared with fine-tuning on all models that the two of them cleaned, whatever a third one did.
    """
    if not folder.is_dir():
        return "No results yet.\n"
    cells = shortened(read_cells(folder))
    rivals = {one.defense for each in comparisons(cells) for one in each.results if one.rival == "finetune"}
    found = {}
    for name in sorted(rivals):
        for one in comparisons([cell for cell in cells if cell["defense"] in ("none", "finetune", name)]):
            by = {result.defense: result for result in one.results}
            found[name] = one, by[name], by["finetune"]
    if not found:
        return "No backdoored model was run under every defence.\n"
    best = min(found, key=lambda name: found[name][1].carried.mean)
    return "".join(
        f"- `{name}` leaves {value_of(own.carried)} points of {percent(one.carried)} on {one.models} models, "
        f"`finetune` {value_of(usual.carried)}; the paired difference is {value_of(own.less)}: {own.standing}.\n"
        for name in dict.fromkeys(("nad", best))
        for one, own, usual in [found[name]]
    )


def _detectors(cells: Sequence[Cell]) -> str:
    """What each detector tells apart, at a threshold that other seeds set."""
    lines = [
        [
            f"`{one.detector}`", str(one.attacked), str(one.clean), f"{one.auroc:.2f}",
            percent(one.level), *map(share, (one.found, one.alarms, one.named)),
        ]
        for one in detections(shortened(cells))
    ]  # fmt: skip
    return f"\n{markdown(DETECTED, lines)}" if lines else ""


def neurons(folder: Path) -> str:
    """The mechanism check of each model that nobody defended: the poisoned neuron's rank, layer by layer."""
    if not folder.is_dir():
        return "No results yet.\n"
    rows = [
        [
            _names(cell, [])[0], str(cell["seed"]), f"`{row['layer']}`", str(row["channels"]),
            ", ".join(map(str, row["rank"])) or "–", ", ".join(map(str, row["rank_clean"])) or "–", str(row["run"]),
        ]
        for group in sorted(over_seeds(read_cells(folder)), key=order)
        for cell in group.cells
        if cell["defense"] == "none"
        for row in cell.get("mechanism", ())
    ]  # fmt: skip
    return markdown(NEURONS, rows)


def drawing(folder: Path, student: str, option: str) -> str:
    """ACC against ASR of BadEncoder under one head: undefended, and the defences that set `option`; an SVG file."""
    rows = [
        row
        for row in over_seeds(read_cells(folder))
        if (row.axes["attack"], row.axes["student"]) == ("badencoder", student)
        and (not given(row.axes, "defense") or option in parse_one(row.axes["defense"]).options)
    ]
    (drawn,) = frontiers(rows, [row.axes["defense"] for row in rows])
    return drawn["svg"].replace("currentColor", "#7d8590") + "\n"  # readable on light and on dark pages


def choices(folder: Path) -> str:
    """For each tuned defence and seed: validation ACC of the suspect and of each candidate, and what was taken."""
    if not folder.is_dir():
        return "No results yet.\n"
    rows = [
        [
            *_names(cell, [])[1:], str(cell["seed"]), percent(cell["validation"]["before"]),
            ", ".join(percent(acc) for acc in cell["validation"]["after"]), chosen([cell]), percent(cell["asr"]),
        ]
        for group in sorted(over_seeds(read_cells(folder)), key=order)
        for cell in group.cells
        if cell.get("validation")
    ]  # fmt: skip
    return markdown(CHOICES, rows)


def _published(row: Row, axes: Sequence[str]) -> list[list[str]]:
    return [
        [
            *_names(row.axes, axes),
            _mean(row, acc), percent(theirs.get("acc")), _mean(row, asr), percent(theirs.get("asr")),
            f"{theirs.get('source', '–')}: {theirs.get('convention', 'convention not given')}",
        ]
        for theirs in row.cells[0]["published"]
        for acc, asr, _ in [COUNTED[theirs.get("counted", "others")]]
    ]  # fmt: skip


def _names(axes: Axes, shown: Sequence[str]) -> list[str]:
    return [*(f"`{entry(axes, name)}`" for name in shown), model(axes), f"`{entry(axes, 'defense')}`"]


def _mean(row: Row, name: str) -> str:
    """Of a number that no table above holds."""
    values = [cell[name] for cell in row.cells if cell["state"] == "done" and cell.get(name) is not None]
    return value_of(Estimate.of(values)) if values else "–"


if __name__ == "__main__":
    for path in PAGES:
        path.write_text(current(path))
        print(path.relative_to(ROOT))
    for path, (study, student, option) in DRAWINGS.items():
        path.write_text(drawing(ROOT / "results" / study, student, option))
        print(path.relative_to(ROOT))
