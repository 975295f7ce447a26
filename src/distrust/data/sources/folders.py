"""Folders of pictures as people lay them out: which of them are splits, which are classes, and in which order."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ...bounds import bounded
from ...errors import BadInput, notice
from ...pictures import FORMATS
from .parts import TEST, Tables, fixed_parts, reading, train_and_test
from .tables import fingerprint

SPLITS = {  # what people call the folder of a split, in lower case → the split
    "train": "train", "training": "train", "test": "test", "testing": "test", "val": "val", "valid": "valid",
    "validation": "validation", "dev": "validation", "eval": "valid",
}  # fmt: skip
JUNK = {"__MACOSX", "@eaDir", "$RECYCLE.BIN"}  # what systems leave behind, thumbnails in it
LISTS = (".txt", ".csv", ".tsv")
WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+")  # of `seg_train`, `TestImages`, `test1`
NUMBERED = re.compile(r"(\D*)(\d+)(.*)")

Sorted = dict[str, list[str]]  # class → its files, both in order


def find_folder(path: Path) -> Tables:
    """The tables of a folder of class folders, with or without a split.

    Split folders are known whatever their case, `Train` and `testing` too, and as a word of `seg_train`. A folder
    without a picture in any split is no class; those left out are told.
    """
    root = _Root(path)
    with reading(path):
        found = _found(path, root)
    if root.left:
        notice(
            f"{path}: links that leave the folder, or lead round in it, are not followed ({len(root.left)}, such as "
            f"{min(root.left)}). Put what they lead to in their place."
        )
    return found


class _Root:
    """A folder, within which links are followed; and those that were left aside."""

    def __init__(self, path: Path) -> None:
        self.given, self.real, self.left = os.fspath(path), os.path.realpath(path), set[str]()

    def holds(self, entry: os.DirEntry[str]) -> bool:
        """Whether an entry is no link, or one to a file or a folder inside that is not reached through another."""
        if not entry.is_symlink():
            return True
        target, above = os.path.realpath(entry.path), os.path.dirname(entry.path)
        inside = target.startswith(os.path.join(self.real, ""))
        if inside and os.path.isdir(target):
            at = os.path.normpath(os.path.join(self.real, os.path.relpath(above, self.given)))
            inside = at == os.path.realpath(above) and not os.path.join(at, "").startswith(os.path.join(target, ""))
        if not inside and os.path.exists(target):
            self.left.add(entry.path)
        return inside


def _found(path: Path, root: _Root) -> Tables:
    split, beside = "as given", list[str]()
    if named := _splits(path, root):
        train, test, beside = _train_and_test(path, named, root)
        classes = _classes(path, named["train"], [train, test])
        if unknown := [name for name in classes if not train.get(name)]:
            near = next((f" Is it {own}?" for own in train if own.lower() == unknown[0].lower()), "")
            told = f"class {', '.join(unknown)} is in test but not in train.{near}"
            raise BadInput(f"{path}: {told} Add, rename or remove its folder.")
        rows = [[(file, k) for k, name in enumerate(classes) for file in part.get(name, [])] for part in (train, test)]
    else:
        found = _by_class(path, root)
        if not any(found.values()) and (alone := list(_files(path, root))):
            found = {"unlabelled": alone}  # as a defender of an encoder has them
        classes = _classes(path, path, [found])
        rows = [[(file, k) for k, name in enumerate(classes) for file in found[name]]]
        split = "stratified, 20 % to test, sklearn train_test_split(random_state=0) over the sorted files"

    def tables() -> tuple[Any, Any]:
        import datasets

        features = datasets.Features(image=datasets.Image(decode=False), label=datasets.ClassLabel(names=classes))

        def table(part: list[tuple[str, int]]) -> Any:
            cells = [{"path": file, "bytes": None} for file, _ in part]
            return datasets.Dataset.from_dict({"image": cells, "label": [k for _, k in part]}, features=features)

        if len(rows) == 2:
            return table(rows[0]), table(rows[1])
        parts = fixed_parts(np.arange(len(rows[0])), np.array([k for _, k in rows[0]]), 0.2, path)
        return table([rows[0][row] for row in parts[0].x]), table([rows[0][row] for row in parts[1].x])

    files = fingerprint(path, [*(file for part in rows for file, _ in part), *beside])
    return Tables(path.name, [*files, classes], tables, split)  # a class may have no file


def _splits(path: Path, root: _Root) -> dict[str, str]:
    """Which folder is which split, by the names that people give them; {} where there are class folders alone."""
    found: dict[str, str] = {}
    folders = [child for child in _visible(path, root) if child.is_dir()]
    plain = [child for child in folders if child.name.lower() in SPLITS]
    for child in plain or [child for child in folders if not any(map(_picture, _visible(child, root)))]:
        words = {child.name.lower()} if plain else {word.lower() for word in WORD.findall(child.name)}
        for name in {SPLITS[word] for word in words & SPLITS.keys()}:
            if name in found:
                raise BadInput(f"{path}: {os.path.basename(found[name])} and {child.name} are both {name}. Keep one.")
            found[name] = child.path
    return found if plain or ("train" in found and len(found) > 1) else {}


def _train_and_test(path: Path, named: dict[str, str], root: _Root) -> tuple[Sorted, Sorted, list[str]]:
    """Pictures by class of both splits, and the file that lists the classes of the latter, if one does.

    Of several splits that may serve as test the first is taken whose pictures have classes.
    """
    try:
        train_and_test(named, path)
    except BadInput as error:
        if len(named) > 1 or "train" not in named:
            raise
        raise BadInput(f"{error} Or give {named['train']}, of which a part becomes the test.") from None
    train = _by_class(named["train"], root)
    known = {name for name, files in train.items() if files}
    bare = None
    for split in (split for split in TEST if split in named):
        part, files = _by_class(named[split], root), list(_files(named[split], root))
        own = {name for name, pictures in part.items() if pictures}
        listed, where = _listed(path, named[split], files, known, root) if not own & known else ({}, [])
        if (own & known) or listed:
            if bare:
                notice(f"{path}: the pictures in {bare} have no classes; {split} serves as test.")
            return train, listed or part, where
        bare = bare or split
        if (
            own
            and (known or not any(_files(named["train"], root)))
            and len([name for name in TEST if name in named]) == 1
        ):
            return train, part, []
    for split in ("train", str(bare)):
        files = list(_files(named[split], root))
        if files and (split != "train" or not known):
            told = "" if split == "train" else ", or list them in a file beside them: a line PICTURE CLASS for each"
            name = os.path.basename(named[split])
            held = f"{name} holds {len(files)} pictures, but no class folders"
            raise BadInput(f"{path}: {held}. Sort them into one folder a class{told}.")
    return train, {}, []  # which is told as an empty split


def _listed(path: Path, folder: str, files: list[str], known: set[str], root: _Root) -> tuple[Sorted, list[str]]:
    """Pictures by class as a file says that lies beside them or above: `val_0.JPEG n01443537 …`, or a class a line."""
    if not files or not known:
        return {}, []
    stems = [os.path.splitext(os.path.basename(file))[0] for file in files]
    lists = (child for place in (folder, path) for child in _visible(place, root) if child.name.lower().endswith(LISTS))
    for child in lists:
        if not child.is_file():
            continue
        lines = bounded(child.path).decode(errors="replace").splitlines()
        words = [re.split(r"[\s,;]+", line.strip()) for line in lines if line.strip()]
        by_name = {os.path.splitext(os.path.basename(first))[0]: rest[0] for first, *rest in words if rest}
        told = [by_name.get(stem) for stem in stems]
        if len(words) == len(files) and all(len(line) == 1 for line in words):
            told = [line[0] for line in words]
        if known.issuperset(told):  # of None, too
            parts: Sorted = {}
            for file, name in zip(files, told, strict=True):
                parts.setdefault(str(name), []).append(file)
            return parts, [child.path]
    return {}, []


def _classes(path: Path, root: str | Path, parts: list[Sorted]) -> list[str]:
    """The classes in their order: that of a file classes.txt, else of their numbers, else of the alphabet."""
    classes = sorted({name for part in parts for name, files in part.items() if files})
    if not classes:
        raise BadInput(
            f"{path} holds no images that are known here: neither train.parquet and test.parquet, nor IDX files, nor "
            f"folders train/<class>/ and test/<class>/ with images in them, nor images alone.{_instead(path)}"
        )
    if empty := sorted({name for part in parts for name in part} - {*classes}):
        notice(f"{path}: folders without a picture are no classes and are left out: {', '.join(empty)}.")
    _look_below(path, root, parts[0], classes)
    listed = path / "classes.txt"
    if not listed.is_file():
        return _by_number(path, classes)
    order = [line.strip() for line in bounded(listed).decode(errors="replace").splitlines() if line.strip()]
    if sorted(order) != sorted(classes):
        apart = ", ".join(sorted({*order} ^ {*classes})) or "a name stands there twice"
        raise BadInput(f"{listed} does not list the folders of classes: {apart}. Write one name a line.")
    return order


def _by_number(path: Path, classes: list[str]) -> list[str]:
    """In the order of the number that follows the same word in all of them: `class_2` before `class_10`."""
    parts = [match.groups() for name in classes if (match := NUMBERED.fullmatch(name))]
    if len(parts) < len(classes) or len({word for word, _, _ in parts}) > 1:
        return classes
    order = ["".join(part) for part in sorted(parts, key=lambda part: (int(part[1]), part[2]))]
    if order != classes:
        k = next(k for k, pair in enumerate(zip(order, classes, strict=True)) if pair[0] != pair[1])
        notice(
            f"{path}: classes are numbered as {', '.join(order[: k + 1])} …, not as text sorts ({classes[k]} before "
            f"{order[k]}), which is torchvision's order. A file classes.txt there, one name a line, gives another."
        )
    return order


def _look_below(path: Path, root: str | Path, part: Sorted, classes: list[str]) -> None:
    """Refuse what lies a folder too high, and tell where classes are folders of folders."""
    below = {}
    for name in classes:
        top = os.path.join(root, name, "")
        inner = (file[len(top) :].split(os.sep) for file in part.get(name, []) if file.startswith(top))
        below[name] = sorted({parts[0] for parts in inner if len(parts) > 1})
    for name, folders in below.items():
        splits = {SPLITS[one.lower()] for one in folders if one.lower() in SPLITS}
        flat = any(os.path.dirname(file) == os.path.join(root, name) for file in part.get(name, []))
        alone = len(classes) == 1 and root == path and not flat
        if folders and (alone or ("train" in splits and len(splits) > 1)):
            raise BadInput(
                f"{path}: {name} holds folders, {', '.join(folders[:6])}, of its own. Give {Path(root) / name}."
            )
    if all(len(folders) > 1 for folders in below.values()):
        example = " and ".join(f"{classes[0]}/{inner}" for inner in below[classes[0]][:2])
        notice(f"{path}: the classes are {', '.join(classes[:6])}; {example} are one class.")


def _instead(path: Path) -> str:
    """What there is where no picture is, and what to do about it."""
    if (path / "data_batch_1").is_file() or (path / "meta").is_file():
        return " These are CIFAR's pickles, which are programs. Type hub:uoft-cs/cifar10 or hub:uoft-cs/cifar100."
    ends = sorted({os.path.splitext(name)[1] or "no ending" for _, _, names in os.walk(path) for name in names})
    return f" It holds files with {', '.join(ends[:6])}; convert pictures to .png or .jpg." if ends else ""


def _visible(folder: str | os.PathLike[str], root: _Root) -> list[os.DirEntry[str]]:
    """What lies in a folder, in sorted order; entries know what they are, paths would ask the disk again."""
    with os.scandir(folder) as entries:
        kept = (entry for entry in entries if not entry.name.startswith(".") and root.holds(entry))
        return sorted(kept, key=lambda entry: entry.name)


def _by_class(folder: str | Path, root: _Root) -> Sorted:
    """Class name → image files, both in sorted order."""
    # By hand, because `datasets`' imagefolder guesses splits and labels from every folder name on the way:
    # of a class named "train", the test images would be read as training images too.
    return {child.name: list(_files(child.path, root)) for child in _visible(folder, root) if child.is_dir()}


def _files(at: str | Path, root: _Root) -> Iterator[str]:
    for child in _visible(at, root) if os.path.basename(at) not in JUNK else ():
        if child.is_dir():
            yield from _files(child.path, root)
        elif _picture(child):
            yield child.path


def _picture(child: os.DirEntry[str]) -> bool:
    """By its ending, of those that Pillow opens; a link that leads nowhere is none."""
    kind = Image.registered_extensions().get(os.path.splitext(child.name)[1].lower())
    return kind in FORMATS and child.is_file()
