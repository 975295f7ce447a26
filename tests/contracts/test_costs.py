"""Every method that trains or searches says what that costs, so that a study's estimate is honest."""

import pytest

from distrust.registry import registry

WORK = (
    "epochs", "steps", "iterations", "experts", "outer", "networks", "permutations", "restarts", "archetypes_per_class",
    "batch_real", "trigger_batch",
)  # fmt: skip
CHARGED = {
    f"{kind}/{name}": method
    for kind in ("attacks", "condensers", "defenses", "detectors")
    for name, method in registry.kind(kind).items()
    if not (kind == "attacks" and method.mark.place == 1 and not method.mark.cost)
    and f"{kind}/{name}" not in ("defenses/none", "detectors/random")
}
charged = pytest.mark.parametrize("method", CHARGED.values(), ids=CHARGED)


def work(method):
    """Options that say how often something is done; 0 means never, None as often as others say."""
    return [name for name in method.options if name.endswith(WORK) and name in method.check({})]


@charged
def test_it_declares_a_cost_or_counts_epochs(method):
    assert method.mark.cost or any(name.endswith("epochs") for name in method.options)


@charged
def test_costs_are_numbers_that_grow_with_the_work_and_never_with_less(method):
    defaults = method.check({})
    plain = method.cost(defaults, 1000)
    assert 0 <= plain < float("inf") and plain <= method.cost(defaults, 2000)
    options = work(method)
    most = defaults | dict.fromkeys(options, 30)
    if "surrogate" in most:
        most["surrogate"] = "wrn10-1"  # or its epochs are none
    for name in options:
        assert method.cost(most | {name: 15}, 1000) < method.cost(most, 1000), f"{name} costs nothing"


@charged
def test_it_is_free_only_where_nothing_is_trained_or_searched(method):
    assert (method.cost(method.check({}), 1000) > 0) == bool(work(method) or looks(method))


def looks(method):
    """Whether it asks a model, which costs something too."""
    sifts = method.mark.kind == "defenses" and method.mark.on == "transfer" and method.name != "strong_augment"
    return sifts or method.name in ("bnp", "l2_tac", "strip")


def cost(kind, name, n=1000, **options):
    method = registry.get(kind, name)
    return method.cost(method.check(options), n)


def test_costs_by_hand():
    """What the estimate once took for nothing, at 1000 images."""
    assert (
        cost("condensers", "mtt", experts=2, max_start=1, span=3, iterations=5, steps=7)
        == 2 * 4 * 1000 + 2 * 5 * 7 * 10
    )
    assert cost("condensers", "dm", iterations=3, batch_real=50, images_per_class=2) == 3 * 10 * (20 + 2)
    assert cost("condensers", "dc", iterations=2, outer=3, inner=4, batch_real=8) == 2 * 10 * (3 * (8 + 2) + 2 * 4)
    assert cost("attacks", "latent_backdoor", steps=10, trigger_batch=4, epochs=2) == 40 + 4000
    assert cost("attacks", "cheatkd", steps=0, epochs=2) == 2000
    assert cost("attacks", "doorping", 20, iterations=3, net_steps=4, batch_real=5, trigger_steps=6) == 3 * (
        100 + 20 + 6
    )
    assert cost("attacks", "transfer_poison", rate=0.1, steps=10, restarts=1, through="both") == 100 * 20 * 3
    assert cost("attacks", "transfer_poison", crafter="none") == 0
    assert cost("defenses", "finetune_ssl", epochs=3) == 6000
    assert cost("defenses", "ft_sam", epochs=3) == 6000
    assert cost("defenses", "anp", epochs=3, steps=2) == 9000
    assert cost("defenses", "rnp", epochs=3, unlearn_epochs=2) == cost("defenses", "mcr", epochs=3, teacher_epochs=2)
    assert cost("defenses", "mimic", epochs=1, mine_epochs=5) == pytest.approx(7400)
    assert cost("detectors", "neural_cleanse", steps=2, batch_size=8) == 160
