"""The recipes of docs/cluster.md, typed on one machine: two nodes of Ray, and a SLURM that runs everything here."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest
from tests.kills import is_alive
from tests.study_fixture import BUDGET

PAGE = Path(__file__).parents[1] / "docs" / "cluster.md"
STUDY = f"""
name = "nad-mini"
teacher = "wrn10-1"
attack = "badnets"
budget = "cpu"
[budgets.cpu]
train = {BUDGET["train"]}
test = {BUDGET["test"]}
size = 8
teacher = {{epochs = 1}}
"""
SRUN = """#!/bin/sh
while [ "${1#--}" != "$1" ]; do shift; done
exec "$@"
"""


def recipe(title):
    """The shell blocks of a section."""
    section = PAGE.read_text().partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    return re.findall(r"^```sh\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)


@pytest.fixture
def desk(tmp_path):
    """A folder with the study, and a way to type there; what is typed there has ended afterwards."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    tools = tmp_path / "tools"
    for file, text in (
        ("studies/nad-mini.toml", STUDY), ("tools/srun", SRUN), ("tools/scontrol", "#!/bin/sh\necho 127.0.0.1\n")
    ):  # fmt: skip
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text(text)
        (tmp_path / file).chmod(0o755)
    path = os.pathsep.join([str(tools), str(Path(sys.executable).parent), os.environ["PATH"]])
    mark = f"DESK={uuid.uuid4().hex}"
    environment = os.environ | dict([mark.split("=")]) | {"PATH": path, "HOME": str(tmp_path)}

    def type_(text, **more):
        text = text.replace("10.0.0.7", "127.0.0.1").replace("6379", port).replace("/shared/", f"{tmp_path}/")
        return subprocess.Popen(
            ["bash", "-c", text], cwd=tmp_path, env=environment | more, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )  # fmt: skip

    yield type_
    for number in (signal.SIGTERM, signal.SIGKILL):
        end = time.monotonic() + 5
        while (left := marked(mark)) and time.monotonic() < end:
            for process in left:
                os.kill(process, number)
            time.sleep(0.5)
    assert not marked(mark)


def marked(mark):
    """Processes that have this variable."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mark.encode() in entry.read_bytes().split(b"\0"):
                found.append(int(entry.parent.name))
        except OSError:
            continue
    return [process for process in found if is_alive(process)]


def results(folder):
    return [json.loads(file.read_text()) for file in (folder / "runs" / "results" / "nad-mini").glob("*.json")]


def test_two_machines(desk, tmp_path):
    *starts, study = recipe("Two machines")
    nodes = []
    try:
        for text in starts:
            nodes.append(desk(text.rstrip() + " --block\n"))
            heard = []
            while "Ray runtime started." not in "".join(heard):
                heard.append(nodes[-1].stdout.readline())
                assert heard[-1], "".join(heard)
        with desk(study) as typed:
            said = typed.communicate(timeout=600)[0]
        assert typed.returncode == 0, said
        assert [cell["state"] for cell in results(tmp_path)] == ["done"]
    finally:
        for node in nodes:
            node.terminate()
            node.communicate(timeout=60)


def test_slurm(desk, tmp_path):
    (script,) = recipe("SLURM")
    given = {"SLURM_JOB_NODELIST": "here", "SLURM_JOB_NUM_NODES": "2", "SLURM_CPUS_PER_TASK": "1"}
    with desk(script, **given) as typed:
        while line := typed.stdout.readline():
            if "ACC" in line:  # the table of results is the last that is said
                break
        assert typed.wait(timeout=60) == 0
        os.killpg(typed.pid, signal.SIGTERM)  # the end of the job
        typed.communicate(timeout=60)
    assert [cell["state"] for cell in results(tmp_path)] == ["done"]
