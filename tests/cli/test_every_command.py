"""What every command promises: help, errors, exit codes, in this process and in one of its own."""

from pathlib import Path

import pytest

from .said import PLUGIN, shell

COMMANDS = ["demo", "run", "results", "results import", "report", "status", "why", "table", "figure", "cite"]
COMMANDS += ["measure", "purify", "distill", "scan", "list", "show", "layers", "check", "export"]
COMMANDS += ["store ls", "store gc", "store verify", "store export", "store import"]
COMMANDS += ["board build", "board submit"]


def test_help_lists_every_command_and_each_explains_itself(distrust):
    said = distrust("--help")
    assert said.code == 0 and all(f"  {name.partition(' ')[0]}" in said.out for name in COMMANDS)
    for name in COMMANDS:
        said = distrust(*name.split(), "-h")
        assert said.code == 0
        for option in ("--store", "--jobs", "--json", "--seed", "--device", "--quiet"):
            assert option in said.out


@pytest.mark.parametrize(
    "words, near",
    [
        ("", ""),
        ("mesure", "measure"),
        ("list --jsn", "--json"),
        ("--json list", "--json"),
        ("show", "method"),
        ("layers wrn10-1 --size 0", "--size"),
        ("store lss", "ls"),
        ("store gc --days -1", "--days"),
        ("list --jobs many", "--jobs"),
        ("run trial.toml --retry --force", "exclude"),
        ("run trial.toml --only-cached --force", "exclude"),
        ("table trial --rows nad", "AXIS=ENTRY"),
        ("figure trial", "kind"),
    ],
)
def test_wrong_usage_is_code_4_and_names_what_is_near(distrust, words, near):
    said = distrust(*words.split())
    assert said.code == 4 and near in said.err
    if "--json" not in words.split():
        assert said.out == ""
    told = distrust(*words.split(), "--json")
    assert told.code == 4 and told.facts["error"] == "Usage" and near in told.facts["message"] + told.err


@pytest.mark.parametrize(
    "words, kind, message",
    [
        ("run nowhere.toml", "NotFound", "nowhere.toml"),
        (
            "measure --images digit --trigger sig --target 0 --model {code}:factory",
            "NotFound",
            "Did you mean 'digits'?",
        ),
        ("measure --images digits --trigger sig --target 0 --weights no.pt --model wrn10-1", "NotFound", "no.pt"),
        ("measure --images digits --trigger sig --target 0", "BadInput", "Type --weights FILE"),
        ("measure --images digits --trigger sig --target 0 --model wrn10-1", "BadInput", "no weights are given"),
        ("measure --images digits --trigger sig --target 0 --weights {pt}", "BadInput", "Type --model"),
        ("measure --images digits --trigger sig --target 0 --weights {pt} --model wrm10-1", "NotFound", "'wrn16-1'"),
        ("measure --images digits --trigger sig --device banana", "BadInput", "device 'banana' cannot be used"),
        ("purify nda --images digits --out o", "NotFound", "no defense 'nda'. Did you mean 'nad'?"),
        ("purify nad[bta=0] --images digits --out o", "NotFound", "Did you mean 'beta'?"),
        ("purify nad[beta=-1] --images digits --out o", "BadInput", "greater than or equal to 0"),
        ("purify nad[ --images digits --out o", "BadInput", "selector 'nad['"),
        ("distill --images digits --student wrn10-1 --out o --distiller kdd", "NotFound", "Did you mean 'kd'"),
        ("list atacks", "NotFound", "Did you mean 'attacks'"),
        ("list model", "NotFound", "Did you mean 'models'"),
        ("show badnet", "NotFound", "Did you mean 'badnets'"),
        ("show defense/nad", "NotFound", "Did you mean 'defenses'"),
        ("layers wrn10", "NotFound", "no model 'wrn10'. Did you mean 'wrn10-1'"),
        ("layers wrn11-1", "BadInput", "Take wrn10-1 or wrn16-1"),
        ("results trail", "NotFound", "no results in"),
        ("results import nowhere.csv", "NotFound", "no results file 'nowhere.csv'"),
        ("results import {code}", "BadInput", "no results file of BackdoorBench"),
        ("report trail", "NotFound", "no results in"),
        ("report nowhere.toml", "NotFound", "nowhere.toml"),
        ("table trail", "NotFound", "no results in"),
        ("table nowhere.toml", "NotFound", "nowhere.toml"),
        ("figure trail map --out o", "BadInput", "Type --out f.pdf"),
        ("figure trail mop --out o.svg", "NotFound", "Did you mean 'map'"),
        ("figure trail map --out o.svg", "NotFound", "no results in"),
        ("cite trail", "NotFound", "no results in"),
        ("cite --cell x", "BadInput", "Type: distrust cite STUDY --cell x"),
        ("status --store nowhere://x", "StoreError", "Give a directory"),
        ("why abc", "NotFound", "no key"),
        ("check nowhere.pt", "NotFound", "nowhere.pt"),
        ("check nowhere.toml", "NotFound", "nowhere.toml"),
        ("check nowhere", "NotFound", "no image set 'nowhere'"),
        ("store ls --store nowhere://x", "StoreError", "Give a directory"),
        ("store gc --keep nowhere.toml", "NotFound", "nowhere.toml"),
        ("store export o", "NotFound", "has no stage yet"),
        ("store import nowhere.zip", "NotFound", "nowhere.zip"),
        ("export nowhere.toml", "NotFound", "nowhere.toml"),
        ("board build nowhere", "NotFound", "Run a study first: distrust run"),
        ("board submit nowhere --by me", "NotFound", "no results in"),
        ("list --plugin nowhere.py", "NotFound", "no plug-in file"),
    ],
)
def test_an_error_is_code_2_with_its_name_and_what_to_type(distrust, stranger, words, kind, message):
    words = words.format(pt=stranger.attacked, code=stranger.code).split()
    said = distrust(*words)
    assert said.code == 2 and said.out == "" and said.err.startswith(f"{kind}: ") and message in said.err
    told = distrust(*words, "--json")
    assert told.code == 2 and told.facts["error"] == kind and message in told.facts["message"]
    assert not Path("o").exists() and not Path("o.svg").exists()


@pytest.mark.parametrize(
    "raised, code, kind",
    [
        ("Skip('no labels')", 3, "Skip"),
        ("ZeroDivisionError('oh')", 2, "ZeroDivisionError"),  # a crash must not look like a finding
        ("KeyboardInterrupt", 2, "Interrupted"),
    ],
)
def test_what_stops_a_method_decides_the_code(distrust, stranger, raised, code, kind):
    Path("mine.py").write_text(PLUGIN.format(raised=raised))
    said = distrust(
        "purify", "mine", "--plugin", "mine.py", "--images", stranger.images, "--weights", stranger.attacked,
        "--model", "wrn10-1", "--out", "out", "--json",
    )  # fmt: skip
    assert said.code == code and said.facts["error"] == kind and kind in said.err
    assert not Path("out").exists()


@pytest.mark.slow
def test_the_script_answers_help_at_once_and_passes_codes_on(tmp_path, stranger):
    said = shell("--help", cwd=tmp_path)
    assert said.code == 0 and "purify" in said.out and said.err == ""
    assert shell("purify", cwd=tmp_path).code == 4
    said = shell(
        "measure", "--weights", stranger.attacked, "--model", "wrn10-1", "--images", stranger.images,
        "--trigger", "patch:white:3", "--target", 5, "--json", cwd=tmp_path,
    )  # fmt: skip
    assert said.code == 1 and said.facts["asr"] > 0.7 and said.err == ""
    said = shell("show", "nda", "--json", cwd=tmp_path)
    assert said.code == 2 and said.facts["error"] == "NotFound" and "Did you mean 'nad'" in said.err
