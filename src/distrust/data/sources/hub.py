"""The hub: Hugging Face data sets by name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ...errors import BadInput
from .parts import Tables, train_and_test


def find_hub(asked: str) -> Tables:
    """The tables of `hub:owner/name[@revision]`."""
    from datasets import load_dataset

    name, _, revision = asked.removeprefix("hub:").partition("@")
    try:
        with no_bars():
            tables = load_dataset(name, revision=revision or None)
    except Exception as error:  # each layer below (datasets, the hub, its HTTP client) has errors of its own
        raise BadInput(
            f"{asked} could not be loaded ({type(error).__name__}: {error}). Check the name and the network, "
            "or download it and give its folder."
        ) from error
    pair = train_and_test(tables, asked)
    sums = [table.info.download_checksums for table in pair]  # addresses that hold the commit
    return Tables(name, [name, revision, sums] if all(sums) else None, lambda: pair)


@contextmanager
def no_bars() -> Iterator[None]:
    """Keep `datasets` and the hub from drawing progress bars; leave their settings as they were."""
    import datasets
    import huggingface_hub.utils as hub

    shown = [library for library in (datasets, hub) if not library.are_progress_bars_disabled()]
    for library in shown:
        library.disable_progress_bars()
    try:
        yield
    finally:
        for library in shown:
            library.enable_progress_bars()
