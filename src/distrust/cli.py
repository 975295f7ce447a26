"""The command line: one command, one public function. Everything heavy is imported when a command runs."""

from __future__ import annotations

import functools
import inspect
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from .faces import Face

app = typer.Typer(
    help="Distrust: what did the student inherit? Measures and cleans backdoors that travel through distillation.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Store = Annotated[str, typer.Option(help="Directory or fsspec URL where finished stages are kept.")]
Jobs = Annotated[
    int, typer.Option(min=0, help="Stages at a time, each with its share of the cores; 0: by itself.")
]
Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON object on stdout, and nothing else there.")
]
Seed = Annotated[int, typer.Option(help="Seed of everything that is drawn.")]
Device = Annotated[str, typer.Option(help="Torch device, e.g. cpu or cuda.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress on stderr.")]
GLOBAL = {"store": (Store, "runs"), "jobs": (Jobs, 0), "json_": (Json, False), "seed": (Seed, 0)}
GLOBAL |= {"device": (Device, "cpu"), "quiet": (Quiet, False)}

_entered = False  # whether a command's body began: before that, an error is one of usage


def command(body: Callable[..., Any]) -> Callable[..., Any]:
    """Register `body(face, …)` as a command with the global options; library errors become messages and codes."""

    @functools.wraps(body)
    def call(**given: Any) -> NoReturn:
        global _entered
        _entered = True
        face = Face(**{name: given.pop(name) for name in GLOBAL})
        from .errors import DistrustError

        try:
            code = body(face, **given) or 0
        except DistrustError as error:
            code = face.fail(error)
        except KeyboardInterrupt:
            face.say("Interrupted. What was finished is kept; the same command goes on from there.")
            code = 2
        raise typer.Exit(code)

    parameters = list(inspect.signature(body, eval_str=True).parameters.values())[1:]
    extra = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        for name, (annotation, default) in GLOBAL.items()
    ]
    parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in parameters]
    call.__signature__ = inspect.Signature(parameters + extra)  # type: ignore[attr-defined]
    call.__annotations__ = {p.name: p.annotation for p in parameters + extra}
    app.command(name=body.__name__.rstrip("_"))(call)
    return body


Plugins = Annotated[
    list[Path], typer.Option("--plugin", help="Python file with a method of your own; it is run.")
]
Weights = Annotated[
    Path | None, typer.Option(help="Checkpoint: .safetensors, or .pt that holds only tensors.")
]
Model = Annotated[
    str | None, typer.Option(help="wrn16-1, my.py:factory, timm:NAME …; not needed for our own files.")
]
Key = Annotated[str | None, typer.Option(help="Where the state dict lies in a nested .pt, e.g. state_dict.")]
Images = Annotated[str, typer.Option(help="Directory, .npz, hub:owner/name, or a name such as digits.")]
Size = Annotated[int | None, typer.Option(help="Resize images to this side in pixels.")]
Trigger = Annotated[str, typer.Option(help="patch:grid, patch:white:3, blend:FILE, sig, or trigger.json.")]
AskedTrigger = Annotated[
    str | None, typer.Option(help="Measure before and after: patch:grid, sig, trigger.json …")
]
Target = Annotated[int | None, typer.Option(help="Class number that the trigger leads to.")]
Control = Annotated[Path | None, typer.Option(help="Weights of the same model, trained without the attack.")]
Fraction = Annotated[float, typer.Option(help="Share of the training split that the defender has, 0..1.")]
Out = Annotated[Path, typer.Option(help="New folder for weights, record and model card.")]
Budget = Annotated[str | None, typer.Option(help="Which of the study's budgets to use.")]
Seeds = Annotated[int | None, typer.Option(min=1, help="Number of seeds, in place of the study's.")]
ReportFile = Annotated[Path, typer.Option(help="Where the report goes.")]


@command
def demo(face: Face, report: ReportFile = Path("report.html")) -> int:
    """Run the main job on scikit-learn's bundled digits, in a minute, and write report.html."""
    return _run(face, Path(__file__).parent / "study" / "demo.toml", report=report, name="distrust demo")


@command
def run(
    face: Face,
    study: Annotated[Path, typer.Argument(help="A study file, e.g. studies/nad-mini.toml.")],
    budget: Budget = None,
    seeds: Seeds = None,
    only: Annotated[str, typer.Option(help="Only the cells whose id begins so.")] = "",
    results: Annotated[
        Path | None, typer.Option(help="Folder for the cells (default: in the store).")
    ] = None,
    report: Annotated[Path | None, typer.Option(help="Write a report here too.")] = None,
    expect: Annotated[Path | None, typer.Option(help="Compare with these results; 1 if they differ.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show plan and cost, then stop.")] = False,
    retry: Annotated[bool, typer.Option("--retry", help="Run again what failed or was skipped.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Run everything again.")] = False,
    only_cached: Annotated[
        bool, typer.Option("--only-cached", help="Run nothing; show what is there.")
    ] = False,
    plugin: Plugins = [],  # noqa: B006 - typer copies it
) -> int:
    """Run a study: what is finished is kept, and the same command goes on after any interruption."""
    if retry + force + only_cached > 1:
        raise typer.BadParameter("--retry, --force and --only-cached exclude each other.")
    mode = "retry" if retry else "force" if force else "only-cached" if only_cached else "resume"
    return _run(
        face, study, budget=budget, seeds=seeds, only=only, results=results, report=report, expect=expect,
        dry_run=dry_run, mode=mode, plugins=plugin,
    )  # fmt: skip


def _run(
    face: Face,
    path: Path,
    *,
    budget: str | None = None,
    seeds: int | None = None,
    only: str = "",
    results: Path | None = None,
    report: Path | None = None,
    expect: Path | None = None,
    dry_run: bool = False,
    mode: str = "resume",
    plugins: list[Path] = [],  # noqa: B006
    name: str = "",
) -> int:
    from .methods import registry
    from .study import Store, make_plan, read_cells, read_study, score_cells, write_cells
    from .study import run as run_plan
    from .study.cells import compare
    from .study.run import automatic_jobs
    from .study.show import estimate

    for file in plugins:
        registry.add(file)
    study = read_study(path, budget=budget, seeds=seeds)
    jobs = face.jobs or automatic_jobs(face.device)
    expected = read_cells(expect) if expect else []
    plan = make_plan(study, only)
    store = Store(face.store)
    waiting = [s for k, s in plan.stages.items() if mode == "force" or store.record(k) is None]
    seconds = estimate(plan, waiting, jobs) if waiting and mode != "only-cached" else 0.0
    facts: dict[str, Any] = {"study": study.name, "budget": study.budget, "cells": len(plan.cells)}
    facts |= {"stages": len(plan.stages), "to_run": len(waiting), "estimated_seconds": round(seconds)}
    face.say(
        f"{study.name} ({study.budget}): {len(plan.cells)} cells, {len(plan.stages)} stages, "
        f"{len(waiting)} to run, about {face.duration(seconds)}"
    )
    if dry_run:
        return face.show(facts, "")
    with face.progress(waiting) as tell:
        outcome = run_plan(plan, store, jobs=jobs, mode=mode, device=face.device, tell=tell)  # type: ignore[arg-type]
    cells = score_cells(plan, store, outcome)
    if name:
        cells = [{**cell, "reproduce": name} for cell in cells]
    folder = results or Path(face.results(study.name))
    write_cells(cells, folder)
    facts |= {
        "ran": outcome.ran,
        "cached": outcome.cached,
        "failed": outcome.failed,
        "skipped": outcome.skipped,
    }
    facts |= {"results": str(folder)}
    if report:
        _write_report(cells, plan, store, report, name or f"distrust run {path} --report {report}")
        facts["report"] = str(report)
    differences = compare(cells, expected)
    facts["differences"] = differences
    from .report.answer import answer

    facts["answer"] = answer(cells)
    done = [c for c in cells if c["state"] == "done"]
    face.show(
        facts, face.table(cells), facts["answer"], *differences, *([f"Report: {report}"] if report else [])
    )
    if differences:
        return 1
    return 0 if done else 3


def _write_report(cells: list[dict[str, Any]], plan: Any, store: Any, path: Path, made_by: str) -> None:
    from .files import write_file
    from .report import page
    from .study.show import report_of

    write_file(path, page(report_of(cells, plan, store, made_by)).encode())


@command
def measure(
    face: Face,
    images: Images,
    trigger: Trigger,
    target: Target = None,
    weights: Weights = None,
    model: Model = None,
    key: Key = None,
    control: Control = None,
    size: Size = None,
) -> int:
    """Measure ACC and ASR of a checkpoint under a trigger. Exit code 1: the trigger moves the model."""
    from .files import load_weights, open_weights
    from .measurement import measure as measure_model
    from .suspect import make_backdoor, open_suspect, verdict

    suspect = open_suspect(weights, images, model=model, key=key, size=size)
    backdoor = make_backdoor(trigger, target, suspect.test.classes)
    twin = None
    if control:
        import copy

        twin = load_weights(copy.deepcopy(suspect.model), open_weights(control, key), str(control)).to(
            face.device
        )
    found = measure_model(suspect.model.to(face.device), suspect.test, backdoor, control=twin)
    facts = {"model": suspect.source, "images": images, "trigger": trigger, "target": backdoor.target}
    face.show({**facts, **found.record()}, str(found), *face.flags(found.flags))
    return int(verdict(found))


@command
def purify(
    face: Face,
    method: Annotated[str, typer.Argument(help="A defence, e.g. nad or 'nad[beta=0,lr=0.05]'.")],
    images: Images,
    out: Out,
    weights: Weights = None,
    model: Model = None,
    key: Key = None,
    fraction: Fraction = 0.05,
    trigger: AskedTrigger = None,
    target: Target = None,
    size: Size = None,
    plugin: Plugins = [],  # noqa: B006
) -> int:
    """Clean a checkpoint with a defence and a share of clean images; measures before and after if told the trigger."""
    from .measurement import measure as measure_model
    from .methods import registry
    from .seeds import rng
    from .selectors import parse_one
    from .suspect import make_backdoor, open_suspect, write_artefact

    for file in plugin:
        registry.add(file)
    face.free(out)
    selector = parse_one(method)
    defense = registry.get("defenses", selector.name)
    options = defense.check(selector.options)
    suspect = open_suspect(weights, images, model=model, key=key, size=size)
    backdoor = make_backdoor(trigger, target, suspect.test.classes) if trigger else None
    clean = suspect.roles(fraction, face.seed).clean
    face.say(f"{method} on {len(clean)} clean images of {suspect.train.name}")
    before = suspect.model.to(face.device)
    with face.loop(method):
        after = defense.call(before, clean, **options, rng=rng("defense", face.seed))
    facts: dict[str, Any] = {
        "method": selector.text,
        "images": images,
        "clean": len(clean),
        "seed": face.seed,
    }
    facts |= {"before": measure_model(before, suspect.test, backdoor).record()}
    found = measure_model(after, suspect.test, backdoor, undefended=before)
    facts |= {"after": found.record()}
    facts["weights"] = str(write_artefact(out, after, suspect.taint, {**facts, "options": options}))
    lines = [f"before: {measure_model(before, suspect.test, backdoor)}", f"after:  {found}", facts["weights"]]
    face.show(facts, *lines, *face.flags(found.flags))
    return 0


@command
def distill(
    face: Face,
    images: Images,
    student: Annotated[str, typer.Option(help="Model name of the student, e.g. wrn16-1.")],
    out: Out,
    distiller: Annotated[str, typer.Option(help="kd, at, or 'kd[temperature=2]'.")] = "kd",
    weights: Weights = None,
    model: Model = None,
    key: Key = None,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the training images.")] = 10,
    lr: Annotated[float, typer.Option(help="Learning rate, the maximum of the one-cycle schedule.")] = 0.1,
    trigger: AskedTrigger = None,
    target: Target = None,
    size: Size = None,
    plugin: Plugins = [],  # noqa: B006
) -> int:
    """Distil a student from a teacher's checkpoint on clean images; measures both if told a trigger."""
    from .measurement import measure as measure_model
    from .methods import registry
    from .models import model as make_model
    from .seeds import rng
    from .selectors import parse_one
    from .suspect import make_backdoor, open_suspect, verdict, write_artefact
    from .training import distill as distill_model

    for file in plugin:
        registry.add(file)
    face.free(out)
    selector = parse_one(distiller)
    method = registry.get("distillers", selector.name)
    loss = functools.partial(method.call, **method.check(selector.options))
    teacher = open_suspect(weights, images, model=model, key=key, size=size)
    backdoor = make_backdoor(trigger, target, teacher.test.classes) if trigger else None
    start = make_model(student, teacher.train, rng=rng("student", "start", face.seed))
    with face.loop(f"{student} by {selector.text}"):
        learnt = distill_model(
            start, teacher.model, teacher.train, loss=loss, epochs=epochs, lr=lr,
            rng=rng("student", face.seed), device=face.device,
        )  # fmt: skip
    facts: dict[str, Any] = {
        "distiller": selector.text,
        "student": student,
        "images": images,
        "seed": face.seed,
    }
    facts["teacher_measured"] = measure_model(teacher.model, teacher.test, backdoor).record()
    found = measure_model(learnt, teacher.test, backdoor)
    facts["student_measured"] = found.record()
    facts["weights"] = str(write_artefact(out, learnt, teacher.taint, {**facts, "epochs": epochs, "lr": lr}))
    face.show(facts, f"student: {found}", facts["weights"], *face.flags(found.flags))
    return int(verdict(found))


@command
def list_(
    face: Face,
    kind: Annotated[
        str | None, typer.Argument(help="triggers, attacks, distillers, defenses … or models.")
    ] = None,
    plugin: Plugins = [],  # noqa: B006
) -> int:
    """List methods (of one kind), or models."""
    from .methods import KINDS, registry
    from .models import families

    for file in plugin:
        registry.add(file)
    found: dict[str, dict[str, str]] = {}
    for name in [kind] if kind else [*KINDS, "models"]:
        if name == "models":
            found[name] = families()
        else:
            found[name] = {m.name: m.summary for m in registry.kind(name).values()}
    lines = [
        line
        for name, entries in found.items()
        if entries
        for line in [f"{name}:", *(f"  {entry:<24} {summary}" for entry, summary in entries.items())]
    ]
    return face.show(found, *lines)


@command
def show(
    face: Face,
    method: Annotated[
        str, typer.Argument(help="A method's name, e.g. nad, or kind/name, e.g. triggers/blend.")
    ],
    plugin: Plugins = [],  # noqa: B006
) -> int:
    """Show a method: paper, options with bounds and defaults, and how it differs from the paper."""
    from .cards import card
    from .methods import registry

    for file in plugin:
        registry.add(file)
    kind, _, name = method.rpartition("/")
    facts = card(registry.get(kind, name) if kind else registry.find(name))
    lines = [f"{facts['name']} ({facts['kind']}): {facts['summary']}", f"Paper: {facts['paper']}"]
    lines += [f"Enters at place {facts['place']}"] if "place" in facts else []
    for option in facts["options"]:
        lines.append(f"  {option['name']} = {json.dumps(option['default'])}   ({option['bounds']})")
        lines.append(f"      {option['about']}")
    return face.show(facts, *lines, facts["differs"])


@command
def layers(
    face: Face,
    model: Annotated[str, typer.Argument(help="wrn16-1, my.py:factory, timm:NAME …")],
    size: Annotated[int, typer.Option(help="Side of the images in pixels.")] = 32,
    channels: Annotated[int, typer.Option(help="Channels of the images.")] = 3,
    classes: Annotated[int, typer.Option(help="Number of classes.")] = 10,
) -> int:
    """Show a model's layer paths, output shapes, and where its groups end (layers=auto)."""
    from .models import layers as layers_of
    from .models import model as make_model

    network = make_model(model, classes=classes, channels=channels, size=size)
    rows = [row._asdict() for row in layers_of(network, (channels, size, size))]
    total = sum(p.numel() for p in network.parameters())
    lines = [
        f"{'●' if r['group_end'] else ' '} {r['path']:<32} {r['type']:<20} "
        f"{'×'.join(map(str, r['shape'])) if r['shape'] else '–':<14} {r['parameters']:>12,}"
        for r in rows
    ]
    facts = {"model": model, "parameters": total, "layers": rows}
    return face.show(facts, *lines, f"{total:,} parameters; ● = end of a group (auto)")


@command
def results(
    face: Face, folder: Annotated[Path, typer.Argument(help="A results folder, or a study's name.")]
) -> int:
    """Show the cells of a study, over seeds, with intervals and flags."""
    from .report.answer import answer
    from .study import read_cells

    cells = read_cells(face.find_results(folder))
    said = answer(cells)
    return face.show({"cells": cells, "answer": said}, face.table(cells), said)


@command
def report(
    face: Face,
    study: Annotated[Path, typer.Argument(help="A study file, a results folder, or a study's name.")],
    out: ReportFile = Path("report.html"),
    budget: Budget = None,
) -> int:
    """Write one HTML file that shows a study, from what the store or the results folder has."""
    from .study import Store, make_plan, read_cells, read_study, run, score_cells

    store, plan = Store(face.store), None
    if study.suffix == ".toml":
        plan = make_plan(read_study(study, budget=budget))
        cells = score_cells(plan, store, run(plan, store, mode="only-cached"))
    else:
        cells = read_cells(face.find_results(study))
        source = (
            Path(cells[0]["reproduce"].split()[2])
            if cells[0].get("reproduce", "").startswith("distrust run")
            else None
        )
        if source and source.is_file():
            plan = make_plan(read_study(source, budget=cells[0]["budget"]))
    _write_report(cells, plan, store, out, f"distrust report {study}")
    return face.show({"report": str(out), "cells": len(cells)}, f"{out}: {len(cells)} cells")


@command
def status(face: Face) -> int:
    """Show what the store holds: stages by kind and state, their cost, and what failed."""
    from .study import Store
    from .study.show import status_of

    facts = status_of(Store(face.store))
    lines = [f"{facts['store']}: {facts['stages']} stages, {face.duration(facts['seconds'])} of work"]
    lines += [f"  {what}: {n}" for what, n in facts["by_kind"].items()]
    return face.show(facts, *lines, *(f"  {key[:12]} {error}" for key, error in facts["failed"].items()))


@command
def why(face: Face, key: Annotated[str, typer.Argument(help="A stage's key, or its beginning.")]) -> int:
    """Show how a stage came to be: its recipe, its parents, its flags and its seconds."""
    from .study import Store

    store = Store(face.store)
    key, record = store.find(key)
    lines = [f"{key}  {record['label']}  {record['state']}  {record['seconds']} s"]
    parents = list(record["parents"])
    while parents:
        parent = parents.pop(0)
        of = store.record(parent) or {"label": "gone", "parents": [], "seconds": 0}
        lines.append(f"  ← {parent[:12]}  {of['label']}  {of['seconds']} s")
        parents += of["parents"]
    recipe = json.dumps(record["recipe"], indent=1)
    return face.show(
        {"key": key, **record}, *lines, recipe, *([record["error"]] if "error" in record else [])
    )


@command
def check(
    face: Face,
    file: Annotated[
        str, typer.Argument(help="A checkpoint, trigger.json, study.toml, method.py or image source.")
    ],
    key: Key = None,
) -> int:
    """Say what a file is and whether it is safe to open, without running it. Exit code 1: unsafe."""
    from .checks import check_file
    from .errors import UnsafeFile

    try:
        facts = check_file(file, key)
    except UnsafeFile as error:
        face.show({"file": file, "safe": False, "reason": str(error)}, f"UnsafeFile: {error}")
        return 1
    return face.show({"file": file, "safe": True, **facts}, facts.pop("text"))


def main() -> NoReturn:
    """Entry point: exit codes are 0 done, 1 a finding, 2 error, 3 nothing could be judged, 4 usage."""
    os.environ.setdefault(
        "OMP_WAIT_POLICY", "PASSIVE"
    )  # spinning threads starve each other on a busy machine
    try:
        app()
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        sys.exit(4 if code == 2 and not _entered else code)
    sys.exit(0)
