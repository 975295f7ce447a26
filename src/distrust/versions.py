"""Versions of the core: raised by whoever changes what the core computes, so that no stored result is mixed with it.

A key holds a method's version (`marks.Mark`) and these, but for those that only score what is stored.
tests/canaries.json pins what each of them computes: a refactoring leaves it alone, and a change that raises no version
fails a test.
"""

from __future__ import annotations

CORE = {
    "seeds": 1,
    "images": 1,  # ImageSet: batches, fraction, late triggers; as_8_bit
    "roles": 1,  # and split
    "augment": 1,
    "siamese": 1,
    "views": 1,
    "recipe": 1,  # of a synthetic set
    "model": 1,  # every family and its first weights; encoders
    "layers": 1,  # resolve, group_ends, norm_at, taps
    "heads": 1,  # the modules that heads are made of
    "loop": 1,  # and fit
    "distill": 1,
    "pretrain": 1,  # and NeighbourMonitor
    "probing": 1,  # fit_head, features, typical
    "trigger": 1,  # make_trigger, Backdoor
    "predict": 1,
    "measure": 2,
    "over_seeds": 2,
}
