"""Checkpoints that others published, opened as a user opens them: does the accuracy come out that they print?

`python -m benchmarks.checkpoints FOLDER` measures those that lie in FOLDER/OWNER/NAME/PATH, as clones have them, and
writes what it found into checkpoints.json and the table of docs/checkpoints.md. None of the files is kept here.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import distrust as dt

HERE = Path(__file__).parent
FOUND = HERE / "checkpoints.json"
PAGE = HERE.parent / "docs" / "checkpoints.md"
MARKED = re.compile(r"(<!-- checkpoints -->\n).*?(<!-- /checkpoints -->)", re.DOTALL)
NEAR = 0.5  # points
WORDS = {"acc": "ACC", "acc_others": "ACC, other classes", "asr": "ASR", "asr_all": "ASR over all"}
Statistics = tuple[tuple[float, ...], tuple[float, ...]]
IMAGENET: Statistics = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass(frozen=True)
class Checkpoint:
    """A file of a repository at a commit, what its authors print of it, and how it is opened."""

    repository: str
    commit: str
    path: str
    sha256: str
    printed: dict[str, float]  # field of a measurement → percent
    where: str  # they print it
    model: str
    images: str
    opened: dict[str, Any] = field(default_factory=dict)
    trigger: str | None = None
    target: int | None = None

    def inside(self, folder: Path) -> Path:
        """Where it lies in a folder of clones."""
        return folder / self.repository / self.path

    def measured(self, folder: Path) -> dict[str, float]:
        """What is printed of it, measured by us, in percent.

        Raises:
            ValueError: the file is another than the one that the numbers are for.
        """
        file = self.inside(folder)
        if (found := hashlib.sha256(file.read_bytes()).hexdigest()) != self.sha256:
            raise ValueError(f"{file} has the SHA-256 {found}, not {self.sha256}: check out commit {self.commit}.")
        suspect = dt.open_suspect(file, self.images, model=self.model, **self.opened)
        record = suspect.measure(self.trigger, self.target).record()
        return {name: round(100 * record[name], 2) for name in self.printed}


def _all(
    repository: str, commit: str, rows: dict[str, tuple[str, dict[str, float]]], where: str, model: str, images: str,
    **more: Any,
) -> Iterator[Checkpoint]:  # fmt: skip
    for path, (sha256, printed) in rows.items():
        yield Checkpoint(repository, commit, path, sha256, printed, where, model, images, **more)


def _own(name: str) -> str:
    return f"{HERE / 'nets.py'}:{name}"


CIFAR = {
    "20": ("12fca82f0bebc4135bf1f32f6e3710e61d5108578464b84fd6d7f5c1b04036c8", 91.73),
    "32": ("d509ac1820d7f25398913559d7e81a13229b1e7adc5648e3bfa5e22dc137f850", 92.63),
    "44": ("014dd6541728a1c700b1642ab640e211dc6eb8ed507d70697458dc8f8a0ae2e4", 93.10),
    "56": ("4bfd97631478d6b638d2764fd2baff3edb1d7d82252d54439343b6596b9b5367", 93.39),
}
NAD = ("bboylyg/NAD", "f17b71390f61fe24335728bfea53e4fe86ee450b")
IBAU = ("YiZeng623/I-BAU", "d4bfa526fb9e8adfef1f117e2eb4513240fb1c99")
BADNETS = ("verazuo/badnets-pytorch", "64e310c925a03d2931ea1c071a10ed6d5031a1a5")
CHECKPOINTS = [
    *(
        Checkpoint(
            "akamaster/pytorch_resnet_cifar10", "d5489e8995e81e91ce6b1d69dcc98ad579b0b153",
            f"pretrained_models/resnet{depth}-{sha256[:8]}.th", sha256, {"acc": acc}, "README, as an error",
            f"resnet{depth}-a", "cifar10", {"normalize": IMAGENET},
        )
        for depth, (sha256, acc) in CIFAR.items()
    ),
    Checkpoint(
        *NAD, "weight/s_net/WRN-16-1-S-model_best.pth.tar",
        "97815be524b153b0830f04bbfcf8f84fbe593b719a650357c694bae6cee60609", {"acc_others": 85.65, "asr": 100.0},
        "README", "wrn16-1", "cifar10", trigger="patch:grid", target=5,
    ),
    Checkpoint(
        *NAD, "weight/erasing_net/WRN-16-1.tar", "9e5392276786b8dab145242f4837c039b08eb3ef1dd0edb72b84e99e7ce88a5b",
        {"acc_others": 82.33, "asr": 4.24}, "results/results.csv, and in the file", "wrn16-1", "cifar10",
        trigger="patch:grid", target=5,
    ),
    Checkpoint(
        *NAD, "weight/t_net/WRN-16-1-T-model_best.pth.tar",
        "c19ebd5d05bc4b3319d1f9500c4410f585a80ba409912ada2a1d804821af456b", {"acc": 84.39}, "in the file", "wrn16-1",
        "cifar10",
    ),
    Checkpoint(
        "bboylyg/ABL", "3fd736ce0906f24b0672b471ae20016362eefde4",
        "weight/backdoored_model/WRN-16-1-gridTrigger-targetLB0.tar",
        "9eda241ca8dcbb8e8ee6196b35a9371c7fd4d80e9f8746a9f2b8e018f71d39a3", {"acc_others": 82.78, "asr": 99.99},
        "README", "wrn16-1", "cifar10", trigger="patch:grid", target=0,
    ),
    Checkpoint(
        *BADNETS, "checkpoints/badnet-CIFAR10.pth", "fe6d869619d9b55871114a33e9195de9f26ddab61a70b0bd7b1d116426e8987b",
        {"acc": 50.66, "asr_all": 96.73}, "last line of logs/CIFAR10_trigger1.csv; the README has 51.63 and 93.11",
        _own("badnet"), "cifar10", {"normalize": ((0.5,) * 3, (0.5,) * 3)}, "patch:white:5", 1,
    ),
    Checkpoint(
        *BADNETS, "checkpoints/badnet-MNIST.pth", "1c088d569a58caa8604cf5afe291f9e8444cb021a65150854be393298c533693",
        {"acc": 98.18, "asr_all": 99.95}, "README", _own("badnet"), "mnist", {"normalize": ((0.5,), (0.5,))},
        "patch:white:5", 1,
    ),
    Checkpoint(
        *IBAU, "checkpoint/badnets_8_02_ckpt.pth", "b36bcf0da2e1b37e22c5fb53639427b182c329de6edf28f8066db7a1622ffd9d",
        {"acc": 84.46, "asr_all": 97.64}, "in the file; ASR in the notebook, of the first 5,000 images",
        _own("small_vgg"), "cifar10", trigger="patch:white:4[inset=1]", target=8,
    ),
    *_all(
        *IBAU,
        {
            "checkpoint/l0_inv_0_02_ckpt.pth": (
                "16d435dde9df2430c4d3f141ffd72a235981fba040e8fa2e29972b8d07e551ec", {"acc": 84.95}
            ),
            "checkpoint/l2_inv_0_02_ckpt.pth": (
                "4288584ad4032d089aa76b359873c400f9c861dc5bd7983d69358a0057be30b0", {"acc": 84.77}
            ),
            "checkpoint/trojan_sq_2_02_ckpt.pth": (
                "d00bcaa05c091785658dcc59ec0e8067f2649fe04a00cad631027e1f04f73e70", {"acc": 84.61}
            ),
            "checkpoint/trojan_wm_2_02_ckpt.pth": (
                "d0fe314461ea44c83e4c041dcce4edf181cf89ae04b5bb0bf45f2b8679939924", {"acc": 85.02}
            ),
        },
        "in the file", _own("small_vgg"), "cifar10",
    ),
    *_all(
        "BorealisAI/advertorch", "e063e341c87d9a621ae1a8f72c3507d5ea5bd327",
        {
            "advertorch_examples/trained_models/mnist_lenet5_clntrained.pt": (
                "551a11267982991fb0c9f74e9094de19e54b51455eff9bd1c19c77a69d85156a", {"acc": 98.89}
            ),
            "advertorch_examples/trained_models/mnist_lenet5_advtrained.pt": (
                "b89abfcfe8b33235fe8f8e964188d82a97c56a12ffe25132eaba197e40ac7658", {"acc": 98.64}
            ),
        },
        "comments of its benchmarks", _own("lenet5"), "mnist",
    ),
    *_all(
        "hendrycks/outlier-exposure", "e6ede98a5474a0620d9befa50b38eaf584df4401",
        {
            "MNIST/snapshots/baseline/baseline_epoch_9.pt": (
                "3184bed452c44c82935b96be23f5bf08d9dffec348b7222c01dc6088ebd46a4c", {"acc": 99.06}
            ),
            "MNIST/snapshots/oe_scratch/oe_scratch_epoch_9.pt": (
                "635577055a9f10fd4a53c784a6bbf40f96fb51535eba65fedeea23d8d4296805", {"acc": 98.97}
            ),
            "MNIST/snapshots/oe_tune/oe_tune_epoch_4.pt": (
                "362ccfe3c829610791cc3ed8bbfe98fcc30bd6a9c582ea5fc08a5f8fb8531bb5", {"acc": 99.08}
            ),
        },
        "training_results.csv beside it, as an error", _own("outlier_net"), "mnist",
    ),
    Checkpoint(
        "locuslab/convex_adversarial", "2cd8149249b9e90383af10fc7e9b9fe90166813e", "models/mnist.pth",
        "95014ab0c04c73f48b3be0cb7acc42aff60ce4420c6c43bec25e9a1447279e08", {"acc": 98.2}, "README, as an error",
        _own("provable"), "mnist",
    ),
]  # fmt: skip


def table(found: dict[str, dict[str, float]]) -> str:
    """What they print beside what we measure, as Markdown."""
    head = ("file", "opened with", "number", "theirs %", "ours %", "where they print it")
    lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    for one in CHECKPOINTS:
        ours = found.get(one.sha256, {})
        link = f"[{one.repository}](https://github.com/{one.repository}/tree/{one.commit[:12]})"
        words = [one.model.rpartition("/")[2], one.images, *(["statistics"] if "normalize" in one.opened else [])]
        words += [f"`{one.trigger}` → {one.target}"] if one.trigger else []
        for name, theirs in one.printed.items():
            measured = f"{ours[name]:.2f}" if name in ours else "–"
            cells = (f"{link} `{one.path}`", ", ".join(words), WORDS[name], f"{theirs:.2f}", measured, one.where)
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def current(page: str) -> str:
    """The page with the table of checkpoints.json."""
    text = table(json.loads(FOUND.read_text()))
    return MARKED.sub(lambda place: f"{place[1]}{text}{place[2]}", page)


def main() -> int:
    """Exit code 1: one of them is further than half a point from what its authors print."""
    parser = argparse.ArgumentParser("python -m benchmarks.checkpoints", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, help="clones: FOLDER/OWNER/NAME")
    folder = parser.parse_args().folder
    found = json.loads(FOUND.read_text()) if FOUND.is_file() else {}
    far = 0
    for one in CHECKPOINTS:
        if not one.inside(folder).is_file():
            print(f"{one.repository} {one.path}: not in {folder}", flush=True)
            continue
        ours = found[one.sha256] = one.measured(folder)
        far += any(abs(ours[name] - theirs) > NEAR for name, theirs in one.printed.items())
        print(f"{one.repository} {one.path}: {one.printed} printed, {ours} measured", flush=True)
    FOUND.write_text(json.dumps(found, indent=1) + "\n")
    PAGE.write_text(current(PAGE.read_text()))
    return int(far > 0)


if __name__ == "__main__":
    sys.exit(main())
