"""The importer of BackdoorBench's results, against small files of our own: what is told, null, or refused."""

import json
import tomllib
from pathlib import Path

import pytest
from tests.cli.conftest import distrust
from tests.study_fixture import study

import distrust as dt
from distrust.errors import BadInput, NotFound
from distrust.study.scoring import _published

__all__ = ["distrust"]

TODAY = """\
,dataset,backbone,attack_name,defense_name,ratio,test_acc,test_asr,test_ra,seconds
0,cifar10,preactresnet18,badnet,no defense,0.1,0.9132,0.9503333333333334,0.0466666594147682,1
1,cifar10,preactresnet18,badnet,ft,0.1,0.8996,0.0,0.893889,2
2,cifar10,preactresnet18,badnet,ft,0.01,-1,-1.0,,3
3,gtsrb,vgg19_bn,lf,i-bau,0.1,0.97,nan,,4
4,cifar10,vgg19_bn,ssba,d-br,0.05,,,,5
"""
BEFORE = """\
dataset,backbone,attack,defense,pratio,test_acc,test_asr,test_ra
cifar10,preactresnet18,torjannn,nodefense,0.1,0.9,1.0,0.0
"""


@pytest.fixture
def board(tmp_path):
    """A file of such bytes."""

    def write(text=TODAY, name="results.csv"):
        file = tmp_path / name
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        return file

    return write


def numbers(row):
    return row["acc"], row["asr"], row["ra"]


def test_each_row_becomes_a_published_row_and_what_was_not_measured_is_none_and_not_zero(board):
    rows = dt.published(board()).rows
    assert [numbers(row) for row in rows] == [
        (0.9132, 0.950333, 0.046667), (0.8996, 0.0, 0.893889), (None, None, None), (0.97, None, None),
        (None, None, None),
    ]  # fmt: skip
    assert [(row["attack"], row["defense"], row["rate"]) for row in rows] == [
        ("badnets", "none", 0.1), ("badnets", "finetune", 0.1), ("badnets", "finetune", 0.01), ("lowfreq", "ibau", 0.1),
        ("ssba", "d-br", 0.05),
    ]  # fmt: skip
    assert {row["source"] for row in rows} == {"BackdoorBench, public board"}
    assert all(row["convention"].startswith("BackdoorBench: ACC over all test images") for row in rows)
    assert rows[3]["images"] == "gtsrb" and rows[3]["model"] == "vgg19_bn" and rows[3]["distiller"] == "none"
    assert rows[3]["note"] == "lf / i-bau on vgg19_bn, 10 % poisoned"
    (old,) = dt.published(board(BEFORE)).rows
    assert (old["attack"], old["defense"], *numbers(old)) == ("trojan", "none", 0.9, 1.0, 0.0)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("\n", "\r\n"),
        lambda text: b"\xef\xbb\xbf" + text.encode(),
        lambda text: text + "\n\n",
        lambda text: text.replace("cifar10", '"cifar10"'),
    ],
    ids=["CRLF", "BOM", "empty lines", "quotes"],
)
def test_how_a_file_was_saved_changes_nothing(board, change):
    for text in (TODAY, BEFORE):
        assert dt.published(board(change(text))).rows == dt.published(board(text)).rows


def test_what_is_printed_is_toml_that_a_study_takes_with_only_what_was_measured(board):
    rows = tomllib.loads(str(dt.published(board())))["published"]
    assert len(rows) == 3 and "asr" not in rows[2] and rows[1]["asr"] == 0.0
    read = study(published=rows, attack=["badnets"], defense=["none", "finetune[epochs=1]"], images=["cifar10"])
    axes = {"images": "cifar10", "attack": "badnets", "distiller": "none", "defense": "finetune[epochs=1]"}
    assert [row["acc"] for row in _published(read.published, axes)] == [0.8996]


def test_a_published_row_stands_beside_no_cell_of_another_rate():
    rows = [{"attack": "badnets", "rate": rate, "acc": rate} for rate in (0.1, 0.01)] + [{"attack": "sig", "rate": 0.1}]

    def beside(attack):
        return [row["rate"] for row in _published(rows, {"attack": attack})]

    assert beside("badnets[rate=0.1]") == [0.1] and beside("badnets[rate=0.01,stamp=after]") == [0.01]
    assert beside("badnets[rate=0.05]") == [] and beside("badnets") == [0.1, 0.01]
    assert beside("sig[rate=0.8]") == [0.1], "ours is of the target's images, theirs of all"


def test_filters_take_our_names_and_theirs_and_name_what_is_near(board):
    file = board()
    assert dt.published(file, attack=["badnet"]).rows == dt.published(file, attack=["badnets"]).rows != []
    both = dt.published(file, defense=["none", "i-bau"], rate=[0.1])
    assert [row["defense"] for row in both.rows] == ["none", "ibau"]
    assert len(dt.published(file, images=["cifar10"], model=["vgg19_bn"]).rows) == 1
    with pytest.raises(NotFound, match="no attack in .* 'bandets'. Did you mean 'badnets'"):
        dt.published(file, attack=["bandets"])
    with pytest.raises(NotFound, match=r"no rate in .* '0\.2'"):
        dt.published(file, rate=[0.2])
    with pytest.raises(BadInput, match="no row has this model and all that was asked for before it"):
        dt.published(file, images=["gtsrb"], model=["preactresnet18"])


@pytest.mark.parametrize(
    "text, told",
    [
        ("", "it has no column dataset"),
        ("a,b\n1,2\n", "it has no column dataset, backbone, attack_name or attack"),
        (TODAY.replace("test_asr", "asr"), "it has no column test_asr"),
        (TODAY.splitlines()[0], "has a header and no row"),
        (TODAY.replace("0.9132", "91.32"), "line 2: '91.32' is no share between 0 and 1"),
        (TODAY.replace("0.9132", "-0.5"), "line 2: '-0.5' is no share"),
        (TODAY.replace("0.8996", "high"), "line 3: 'high' is no share"),
        (TODAY.replace("0.8996", "inf"), "line 3: 'inf' is no share"),
        (TODAY.replace("ft,0.1,", "ft,,"), "line 3 has no rate"),
        (TODAY.replace("0.893889,2", "0.893889"), "line 3 has 9 fields; the header has 10"),
        (TODAY.replace("badnet", '"badnet'), "is not CSV"),
        (TODAY.encode("utf-16"), "is not UTF-8"),
    ],
)
def test_a_malformed_file_is_refused_in_one_sentence_with_what_to_give(distrust, board, text, told):
    said = distrust("results", "import", board(text))
    assert said.code == 2 and said.out == "" and said.err.startswith("BadInput: ") and told in said.err
    assert said.err.count("\n") == 1 and "Give " in said.err


def test_a_file_is_refused_by_its_size_before_it_is_read(board, monkeypatch):
    monkeypatch.setenv("DISTRUST_MOST_TEXT", "100")
    with pytest.raises(BadInput, match="DISTRUST_MOST_TEXT"):
        dt.published(board())
    with pytest.raises(NotFound, match="no results file '/dev/zero'"):
        dt.published("/dev/zero")


def test_the_command_prints_the_same_and_names_steer_no_terminal(distrust, board):
    Path("rows.csv").write_bytes(board(TODAY.replace("ssba", "a\x1b[2J\u202eb" + "c" * 200)).read_bytes())
    said = distrust("results", "import", "rows.csv", "--attack", "badnets", "--rate", "0.1", "--rate", "0.01")
    assert (
        said.code == 0 and tomllib.loads(said.out)["published"][1]["asr"] == 0.0 and said.out.startswith("# 2 rows; 1 ")
    )
    told = distrust("results", "import", "rows.csv", "--json")
    assert told.code == 0 and len(told.facts["published"]) == 5 and told.facts["published"][2]["asr"] is None
    name = told.facts["published"][4]["attack"]
    assert name.startswith("a[2Jb") and len(name) == 60 and json.dumps(name).isascii()
    assert distrust("results", "import").code == 4
    assert distrust("results", "import", "rows.csv", "--attack").code == 4


def test_a_folder_of_results_may_be_called_import(distrust):
    Path("import").mkdir()
    said = distrust("results", "./import")
    assert said.code == 2 and "import" in said.err and "BackdoorBench" not in said.err
