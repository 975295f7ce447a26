"""What the tests of the command line share beside fixtures."""

import json
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

MEASURED = {"acc", "asr", "asr_all", "base", "titg", "n", "flags"}

STUDY = """
name = "trial"
teacher = "wrn10-1"
attack = ["none", "badnets[trigger=patch:white:3,target=5,rate=0.1]"]
defense = ["none", "finetune[epochs=1]"]

[budgets.cpu]
size = 8
train = 640
test = 60
clean = 0.1
teacher = {epochs = 2, batch_size = 64, augment = {flip = false, crop = 0}}
"""

PLUGIN = '''
from torch import Generator, nn
from distrust import Skip
from distrust.data import ImageSet
from distrust.marks import defense

@defense(paper="none")
def mine(model: nn.Module, clean: ImageSet, *, rng: Generator | None = None) -> nn.Module:
    """Stop."""
    raise {raised}
'''


class Said(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def facts(self) -> dict:
        """The one JSON object that stdout holds."""
        assert self.out.count("\n") == 1 and self.out.endswith("\n"), self.out
        found = json.loads(self.out)
        assert isinstance(found, dict)
        return found


def shell(*words: object, cwd: Path) -> Said:
    """The same in a process of its own, through the script that pip installed."""
    script = Path(sys.executable).with_name("distrust")
    found = subprocess.run([script, *map(str, words)], capture_output=True, text=True, cwd=cwd, timeout=300)
    return Said(found.returncode, found.stdout, found.stderr)
