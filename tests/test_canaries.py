"""What every method and every part of the core computes on tiny data is what its version is recorded to compute."""

import pytest

from tests import canaries

NOW = canaries.versions()


@pytest.mark.parametrize("name", NOW)
def test_it_computes_what_its_version_computed(name):
    assert (wrong := canaries.complaint(name, NOW[name], canaries.compute(name), canaries.load().get(name))) is None, wrong


def test_no_canary_has_outlived_what_it_watches():
    gone = sorted(canaries.load().keys() - NOW.keys())
    assert not gone, f"{', '.join(gone)} are no more: run `python -m tests.canaries`"
