"""Rewrite the result tables of README.md and the pages, and their drawings, from results/: `python docs/tables.py`.

Tables stand between `<!-- results:STUDY -->` and `<!-- /results -->`, or `choices` in place of `results`. A test
checks that they are up to date.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distrust.flags import MEANING
from distrust.measurement.scores import over_seeds
from distrust.reporting import aggregate
from distrust.reporting.aggregate import maker
from distrust.reporting.answer import answer
from distrust.reporting.figures import frontiers
from distrust.reporting.text import interval, percent
from distrust.selectors import Selector, Tune, parse_one
from distrust.study import read_cells
from distrust.study.cells import by_axes

ROOT = Path(__file__).resolve().parents[1]
PAGES = (
    ROOT / "README.md",
    ROOT / "docs" / "results.md",
    ROOT / "docs" / "cheatkd.md",
    ROOT / "docs" / "clean-teacher.md",
    ROOT / "docs" / "distilled-sets.md",
    ROOT / "docs" / "encoders.md",
)
DRAWINGS = {  # study, head and option along which curves are drawn
    ROOT / "docs" / "mimic-steps.svg": ("mimic-ablation", "mlp", "epochs"),
    ROOT / "docs" / "mimic-clean.svg": ("mimic", "linear", "clean"),
}
MARKED = re.compile(r"(<!-- (results|choices|neurons):([\w-]+) -->\n).*?(<!-- /\2 -->)", re.DOTALL)
SIFTED = {
    "poison_hits": "poisons that fool the teacher %", "poison_ssim": "their SSIM, 100 = unchanged",
    "caught": "poisons removed %", "lost": "clean removed %",
}  # fmt: skip
TRAINED = {"untriggered": "untriggered %", "acc_control": "ACC of the clean twin %"}  # where a set may wreck its victim
ARCHETYPES = {"asr_archetypes": "ASR on archetypes %", "base_archetypes": "base on archetypes %"}
SCORED = {"score": "score", "score_control": "score of its clean twin"}
HEAD = ("seeds", "ACC %", "ASR %", "base %", "carried, points")
CHOICES = ("defence", "seed", "validation ACC before", "after, candidate by candidate", "taken", "its ASR %")
BESIDE = ("our ACC %", "their ACC %", "our ASR %", "their ASR %", "whose, and how they count")
COUNTED = {  # whose way of counting a published number follows → our numbers beside it, and how to say it
    "others": ("acc_others", "asr", "ACC over the test images of the classes that are not the target"),
    "all": ("acc", "asr_all", "ASR over all test images, those of the target class included"),
}
NEURONS = ("model", "seed", "layer", "channels", "rank under the trigger", "rank on clean images", "longest run")

Cell = dict[str, Any]


def current(page: Path, results: Path = ROOT / "results") -> str:
    """A page with every table brought up to date."""
    glossary = "flags.md" if page.parent.name == "docs" else "docs/flags.md"

    def filled(found: re.Match[str]) -> str:
        folder = results / found[3]
        made = {"choices": choices, "neurons": neurons}.get(found[2], lambda folder: table(folder, glossary))
        return found[1] + made(folder) + found[4]

    return MARKED.sub(filled, page.read_text())


def table(folder: Path, glossary: str) -> str:
    """The tables of one study, or a line that says there are none; flags are links into `glossary`."""
    if not folder.is_dir():
        return (
            f"No results yet. `distrust run studies/{folder.name}.toml --results results/{folder.name}` makes them.\n"
        )
    cells = read_cells(folder)
    groups = sorted(by_axes(cells).values(), key=_order)
    shared = _shared([group[0] for group in groups])
    axes = [
        a
        for a in ("images", "condenser", "encoder", "attack", "detector")
        if len({group[0].get(a) for group in groups}) > 1
    ]
    names = [*axes, "model", "defence"]
    if any(cell["distiller"] != "none" and cell.get("teacher_asr") is not None for cell in cells):
        names.append("its teacher's ASR %")
    tuned = any(cell.get("chosen") for cell in cells)
    heads = {**(TRAINED if any(maker(cell) for cell in cells) else {}), **SIFTED, **ARCHETYPES, **SCORED}
    more = [name for name in heads if any(cell.get(name) is not None for cell in cells)]
    seeds = "Mean over seeds, with its 95 % t-interval" if len({c["seed"] for c in cells}) > 1 else "One seed"
    text = f"> {answer(cells)}\n\n{shared}. {seeds}.\n\n" + _markdown(
        [*names, *HEAD, *(heads[name] for name in more), *(["chosen"] if tuned else []), "flags"],
        [_row(group, axes, names, tuned, more, glossary) for group in groups],
    )
    names = [*axes, "model", "defence"]
    published = [row for group in groups for row in _published(group, axes)]
    if published:
        ways = sorted({row.get("counted", "others") for cell in cells for row in cell["published"]})
        text += (
            f"\nPublished numbers stand beside ours, counted their way: {'; '.join(COUNTED[way][2] for way in ways)}. "
            "They are not mixed into the table above.\n\n"
        ) + _markdown([*names, *BESIDE], published)
    return text


def neurons(folder: Path) -> str:
    """The mechanism check of each model that nobody defended: the poisoned neuron's rank, layer by layer."""
    if not folder.is_dir():
        return "No results yet.\n"
    rows = [
        [
            _names(cell, [])[0], str(cell["seed"]), f"`{row['layer']}`", str(row["channels"]),
            ", ".join(map(str, row["rank"])) or "–", ", ".join(map(str, row["rank_clean"])) or "–", str(row["run"]),
        ]
        for group in sorted(by_axes(read_cells(folder)).values(), key=_order)
        for cell in group
        if cell["defense"] == "none"
        for row in cell.get("mechanism", ())
    ]  # fmt: skip
    return _markdown(NEURONS, rows)


def drawing(folder: Path, student: str, option: str) -> str:
    """ACC against ASR of BadEncoder under one head: undefended, and the defences that set `option`; an SVG file."""
    rows = [
        row
        for row in aggregate.over_seeds(read_cells(folder))
        if (row["attack"], row["student"]) == ("badencoder", student)
    ]
    rows = [row for row in rows if row["defense"] == "none" or option in parse_one(row["defense"]).options]
    (drawn,) = frontiers(rows, [row["defense"] for row in rows])
    return drawn["svg"].replace("currentColor", "#7d8590") + "\n"  # readable on light and on dark pages


def choices(folder: Path) -> str:
    """For each tuned defence and seed: validation ACC of the suspect and of each candidate, and what was taken."""
    if not folder.is_dir():
        return "No results yet.\n"
    rows = [
        [
            *_names(cell, [])[1:], str(cell["seed"]), percent(cell["validation"]["before"]),
            ", ".join(percent(acc) for acc in cell["validation"]["after"]), _chosen([cell]), percent(cell["asr"]),
        ]
        for group in sorted(by_axes(read_cells(folder)).values(), key=_order)
        for cell in group
        if cell.get("validation")
    ]  # fmt: skip
    return _markdown(CHOICES, rows)


def _row(
    group: Sequence[Cell], axes: Sequence[str], names: Sequence[str], tuned: bool, more: Sequence[str], glossary: str
) -> list[str]:
    done = [cell for cell in group if cell["state"] == "done"]
    numbers = [_mean(done, name) for name in ("acc", "asr", "base", "carried", *more)]
    raised = {flag for cell in group for flag in cell["flags"] if flag != "one-seed"}  # each cell is one; is the row?
    raised |= {"one-seed"} if len(done) == 1 else set()
    flags = [f"[{name}]({glossary}#{name})" for name in MEANING if name in raised]
    states = sorted({f"{cell['state']}: {cell['error']}" for cell in group if cell["state"] != "done"})
    chosen = [_chosen(done)] if tuned else []
    told = _names(group[0], axes)
    if len(names) > len(told):
        told.append(_mean(done, "teacher_asr") if group[0]["distiller"] != "none" else "–")
    return [*told, str(len(done)), *numbers, *chosen, ", ".join(flags + states) or "–"]


def _published(group: Sequence[Cell], axes: Sequence[str]) -> list[list[str]]:
    done = [cell for cell in group if cell["state"] == "done"]
    return [
        [
            *_names(group[0], axes),
            _mean(done, acc), _percent(row.get("acc")), _mean(done, asr), _percent(row.get("asr")),
            f"{row.get('source', '–')}: {row.get('convention', 'convention not given')}",
        ]
        for row in group[0]["published"]
        for acc, asr, _ in [COUNTED[row.get("counted", "others")]]
    ]  # fmt: skip


def _percent(rate: float | None) -> str:
    return "–" if rate is None else percent(rate)


def _names(cell: Cell, axes: Sequence[str]) -> list[str]:
    model = "teacher" if cell["distiller"] == "none" else f"{cell['student']} student by {cell['distiller']}"
    model = f"{cell['student']}" if maker(cell) else model
    told = model if cell["attack"] != "none" else f"{model}, never attacked"
    return [*(f"`{cell.get(axis) or 'none'}`" for axis in axes), told, f"`{_bare(cell['defense'])}`"]


def _bare(text: str) -> str:
    """A selector without the options that were tuned; the chosen values have their own column."""
    selector = parse_one(text)
    return Selector(selector.name, {k: v for k, v in selector.options.items() if not isinstance(v, Tune)}).text


def _chosen(done: Sequence[Cell]) -> str:
    """Tuned options with their value for each seed, in the order of the seeds."""
    chosen = [cell["chosen"] for cell in sorted(done, key=lambda cell: cell["seed"]) if cell.get("chosen")]
    return "; ".join(f"{k} {', '.join(str(c[k]) for c in chosen)}" for k in chosen[0]) if chosen else "–"


def _mean(done: Sequence[Cell], name: str) -> str:
    values = [cell[name] for cell in done if cell.get(name) is not None]
    if not values:
        return "–"
    if name in SCORED:
        return f"{over_seeds(values)[0]:.2f}"
    mean, bounds = over_seeds(values, name)
    return f"{percent(mean)} {interval(bounds)}".strip()


def _order(group: Sequence[Cell]) -> tuple[Any, ...]:
    cell = group[0]
    taught, defended = cell["distiller"] != "none", cell["defense"] != "none"
    bare = _bare(cell["defense"])
    made = (cell["images"], cell["teacher"], maker(cell) or "", cell["attack"], taught, cell["distiller"])
    return (*made, cell["student"], cell.get("detector") or "", defended, bare.partition("[")[0], "[" not in bare, bare)


def _shared(cells: Sequence[Cell]) -> str:
    """What every row has in common."""
    parts = [f"Study `{cells[0]['study']}`, budget `{cells[0]['budget']}`"]
    for axis in ("images", "teacher", "condenser", "encoder", "attack"):
        values = list(dict.fromkeys(cell.get(axis) or "none" for cell in cells))
        if axis in ("teacher", "condenser", "encoder") and values == ["none"]:
            continue
        if axis != "teacher" and len(values) > 1:
            continue  # it has a column
        parts.append(f"{axis} {', '.join(f'`{value}`' for value in values)}")
    images = sorted({cell["n"] for cell in cells if cell.get("n")})
    if images:
        parts.append(f"n = {'–'.join(f'{n:,}' for n in dict.fromkeys((images[0], images[-1])))} triggered test images")
    return "; ".join(parts)


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


if __name__ == "__main__":
    for path in PAGES:
        path.write_text(current(path))
        print(path.relative_to(ROOT))
    for path, (study, student, option) in DRAWINGS.items():
        path.write_text(drawing(ROOT / "results" / study, student, option))
        print(path.relative_to(ROOT))
