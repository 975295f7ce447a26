"""Every attack, by its place.

On training data (place 1): who is stamped, what is relabelled, what is recorded. On a teacher (place 2): a new model
and its trigger, from a teacher and images that stay as they were. On a transfer set (place 3): changed images with
their true labels, from a teacher that stays clean. On a synthetic set (place 4): a set of the same classes, from the
set alone. On an encoder (place 5): a new encoder and its trigger, from images whose labels nobody looks at and a few
references of a downstream class.
"""

import json

import pytest
import torch

from distrust import model, rng
from distrust.data import PLAIN, ImageSet
from distrust.errors import BadInput
from distrust.measurement import Backdoor
from distrust.methods import condensers
from distrust.registry import registry

from . import every, flat, quick, same_bits, state

on_training_data = {n: m for n, m in registry.kind("attacks").items() if m.mark.place == 1}
every_attack = pytest.mark.parametrize("method", on_training_data.values(), ids=on_training_data)
on_a_teacher = {n: m for n, m in registry.kind("attacks").items() if m.mark.place == 2}
every_plant = pytest.mark.parametrize("method", on_a_teacher.values(), ids=on_a_teacher)
on_a_transfer_set = {n: m for n, m in registry.kind("attacks").items() if m.mark.place == 3}
every_transfer = pytest.mark.parametrize("method", on_a_transfer_set.values(), ids=on_a_transfer_set)

on_a_synthetic_set = {n: m for n, m in registry.kind("attacks").items() if m.mark.place == 4}
every_synthetic = pytest.mark.parametrize("method", on_a_synthetic_set.values(), ids=on_a_synthetic_set)

on_an_encoder = {n: m for n, m in registry.kind("attacks").items() if m.mark.place == 5}
every_encoder_attack = pytest.mark.parametrize("method", on_an_encoder.values(), ids=on_an_encoder)


def fields(images):
    return {"x": images.x.clone(), "y": images.y.clone(), "index": images.index, "taint": images.taint}


@every("attacks")
def test_its_place_has_a_contract(method):
    assert method.mark.place in (1, 2, 3, 4, 5), "write the contract of this place here"


@every_attack
def test_the_input_is_not_changed(method, tiny):
    before = fields(tiny)
    flat(method)(tiny, rate=0.5, rng=rng(0))
    assert same_bits(fields(tiny), before) and tiny.late is None


@every_attack
def test_it_returns_poisoned_images_and_their_backdoor(method, tiny):
    poisoned, backdoor = flat(method)(tiny, target=2, rate=0.5, rng=rng(0))
    assert isinstance(backdoor, Backdoor)
    assert (backdoor.target, backdoor.stamp, backdoor.name) == (2, "before", method.name)
    assert poisoned.x.dtype == torch.uint8 and poisoned.x.shape == tiny.x.shape
    assert poisoned.taint == (method.name,) and torch.equal(poisoned.index, tiny.index)


@every_attack
def test_rate_0_is_clean_bit_for_bit(method, tiny):
    poisoned, backdoor = flat(method)(tiny, rate=0.0, rng=rng(0))
    assert same_bits(fields(poisoned), fields(tiny)) and poisoned.late is None
    assert isinstance(backdoor, Backdoor)


@every_attack
def test_the_stated_share_of_eligible_rows_is_stamped_and_no_other_row_touched(method, tiny):
    """Dirty-label attacks relabel other classes as the target; clean-label ones stamp the target's own."""
    poisoned, backdoor = flat(method)(tiny, target=1, rate=0.2, rng=rng(0))
    stamped = (poisoned.x != tiny.x).flatten(1).any(1)
    relabelled = poisoned.y != tiny.y
    if relabelled.any():
        assert stamped.sum() == 0.2 * len(tiny)
        assert torch.equal(relabelled, stamped) and (poisoned.y[stamped] == 1).all()
    else:
        assert stamped.sum() == 0.2 * (tiny.y == 1).sum()
        assert (tiny.y[stamped] == 1).all()
    assert torch.equal(poisoned.pixels(stamped), backdoor.stamp_on(tiny.pixels(stamped)))


@every_attack
def test_a_higher_rate_stamps_the_same_rows_and_more(method, tiny):
    low, high = (flat(method)(tiny, rate=rate, rng=rng(0)).images.x != tiny.x for rate in (0.2, 0.6))
    low, high = low.flatten(1).any(1), high.flatten(1).any(1)
    assert (high | ~low).all() and high.sum() > low.sum()


@every_attack
def test_stamped_after_augmentation_the_pixels_stay_and_batches_show_the_trigger(method, tiny):
    before = flat(method)(tiny, rate=0.4, rng=rng(0)).images
    poisoned, backdoor = flat(method)(tiny, rate=0.4, stamp="after", rng=rng(0))
    assert torch.equal(poisoned.x, tiny.x) and torch.equal(poisoned.y, before.y)
    assert torch.equal(poisoned.late.rows, (before.x != tiny.x).flatten(1).any(1))
    assert backdoor.stamp == "after" and poisoned.taint == (method.name,)
    late, _ = next(poisoned.batches(80, rng(1), PLAIN))
    early, _ = next(before.batches(80, rng(1), PLAIN))
    assert torch.equal(late, early), "without augmentation both ways are one"


@every_attack
def test_the_same_rng_gives_the_same_bits_and_another_other_rows(method, tiny):
    first, same, other = (flat(method)(tiny, rate=0.4, rng=rng(seed)).images for seed in (0, 0, 1))
    assert same_bits(fields(first), fields(same))
    assert not torch.equal(first.x, other.x)
    assert same_bits(fields(flat(method)(tiny).images), fields(flat(method)(tiny).images)), "and without rng"


@every_attack
def test_an_attack_on_attacked_images_keeps_their_taint(method, tiny):
    tainted = tiny.replace(taint=("earlier",))
    assert flat(method)(tainted, rate=0.5).images.taint == ("earlier", method.name)


@every_attack
@pytest.mark.parametrize("target", [4, -1, 1.5, None])
def test_a_target_that_is_no_class_is_refused(method, tiny, target):
    with pytest.raises(BadInput, match=r"no class; tiny has 4 classes: 0 ant, 1 bee, 2 cat, 3 dog\. Give"):
        flat(method)(tiny, target=target)


@every_attack
@pytest.mark.parametrize("rate", [-0.1, 1.1, 10, float("nan")])
def test_a_rate_outside_0_to_1_is_refused(method, tiny, rate):
    with pytest.raises(BadInput, match=r"outside \[0, 1\]; it is a fraction"):
        flat(method)(tiny, rate=rate)


@every_attack
def test_another_stamp_or_soft_labels_are_refused(method, tiny):
    with pytest.raises(BadInput, match="neither 'before' nor 'after'"):
        flat(method)(tiny, stamp="during")
    with pytest.raises(BadInput, match="soft labels"):
        flat(method)(tiny.replace(y=torch.eye(4)[tiny.y]))


def test_the_patch_of_ssl_backdoor_lies_in_the_middle_unless_told_otherwise():
    black = ImageSet(torch.zeros(4, 3, 32, 32, dtype=torch.uint8), torch.zeros(4, dtype=torch.int64), ("only",))
    attack = registry.get("attacks", "ssl_backdoor").call
    for options, start in (({}, 13), ({"inset": 0}, 25)):
        rows = attack(black, rate=1.0, trigger="patch:white", **options).images.x[0, 0].any(1).nonzero().flatten()
        assert rows.tolist() == list(range(start, start + 7)), "7 of 32 pixels, as 50 of 224"


# --- place 2: a teacher is backdoored -----------------------------------------------------------------------


def plant(method, net, tiny, **options):
    """The attack at its shortest: one epoch, two steps, whatever of both it counts."""
    short = quick(method) | {name: 2 for name in ("steps", "poison_batch") if name in method.options}
    return flat(method)(net, tiny, **short | options)


@every_plant
def test_it_returns_a_new_teacher_in_eval_mode_and_the_backdoor(method, tiny, net):
    planted, backdoor, _ = plant(method, net, tiny, target=2, rng=rng(0))
    own = {t.data_ptr() for t in net.state_dict().values()}
    assert not any(t.data_ptr() in own for t in planted.state_dict().values()), "weights are shared"
    assert not any(module.training for module in planted.modules())
    assert all(t.isfinite().all() for t in planted.state_dict().values())
    assert not same_bits(planted.state_dict(), net.state_dict()), "nothing was trained"
    assert planted.spec == net.spec and planted(tiny.pixels()).shape == (80, 4)
    assert all(p.requires_grad and p.grad is None for p in planted.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in planted.modules())
    assert isinstance(backdoor, Backdoor) and (backdoor.target, backdoor.name) == (2, method.name)
    stamp = method.options.get("stamp")
    assert backdoor.stamp == stamp.default if stamp else backdoor.stamp in ("before", "after")


@every_plant
@pytest.mark.parametrize("training", [True, False])
def test_the_teacher_and_the_images_stay_as_they_were(method, tiny, net, training):
    net.train(training)
    net.block2.eval()
    before, images = state(net), fields(tiny)
    plant(method, net, tiny, rng=rng(0))
    assert same_bits(state(net), before)
    assert not any(module._forward_pre_hooks for module in net.modules())
    assert same_bits(fields(tiny), images) and tiny.late is None


@every_plant
def test_the_same_rng_plants_the_same_bits_and_another_others(method, tiny, net):
    def all_of(planted):
        return {"weights": planted.model.state_dict(), "trigger": planted.backdoor.dump(), "notes": planted.notes}

    first, same, other = (all_of(plant(method, net, tiny, rng=rng(seed))) for seed in (0, 0, 1))
    assert same_bits(first, same)
    assert not same_bits(first["weights"], other["weights"]) or first["trigger"] != other["trigger"]
    assert same_bits(all_of(plant(method, net, tiny)), all_of(plant(method, net, tiny))), "and without rng"


@every_plant
def test_its_trigger_makes_images_of_8_bits_and_survives_a_file_and_its_notes_are_json(method, tiny, net, tmp_path):
    _, backdoor, notes = plant(method, net, tiny, target=1, rng=rng(0))
    stamped = backdoor.stamp_on(tiny.pixels())
    levels = stamped * 255
    assert stamped.min() >= 0 and stamped.max() <= 1
    torch.testing.assert_close(levels, levels.round(), rtol=0, atol=1e-4)
    assert not torch.equal(stamped, tiny.pixels())
    again = Backdoor.load(backdoor.save(tmp_path / "planted"))
    assert torch.equal(again.stamp_on(tiny.pixels()), stamped)
    assert (again.target, again.stamp, again.name) == (1, backdoor.stamp, method.name)
    assert json.loads(json.dumps(notes, allow_nan=False)) == notes


@every_plant
@pytest.mark.parametrize("target", [4, -1, 1.5, None])
def test_a_target_that_is_no_class_is_not_planted(method, tiny, net, target):
    with pytest.raises(BadInput, match=r"no class; tiny has 4 classes: 0 ant, 1 bee, 2 cat, 3 dog\. Give"):
        plant(method, net, tiny, target=target)


@every_plant
@pytest.mark.parametrize("rate", [-0.1, 1.1, 10, float("nan")])
def test_a_rate_outside_0_to_1_is_not_planted(method, tiny, net, rate):
    if "rate" not in method.options:
        pytest.skip("it has no rate")
    with pytest.raises(BadInput, match=r"outside \[0, 1\]; it is a fraction"):
        plant(method, net, tiny, rate=rate)


# --- place 3: a transfer set is poisoned under a clean teacher ----------------------------------------------


def taint(method, net, tiny, **options):
    """The attack at its shortest, with a patch that fits on 8×8 pixels."""
    short = quick(method) | {name: 2 for name in ("steps", "inset") if name in method.options}
    return flat(method)(net, tiny, **short | options)


@every_transfer
def test_the_stated_share_of_other_classes_is_changed_and_no_label(method, tiny, net):
    poisoned, backdoor = taint(method, net, tiny, target=1, rate=0.2, rng=rng(0))
    changed = (poisoned.x != tiny.x).flatten(1).any(1)
    assert changed.sum() == 0.2 * len(tiny) and not (tiny.y[changed] == 1).any()
    assert poisoned.x.dtype == torch.uint8 and torch.equal(poisoned.y, tiny.y)
    assert torch.equal(poisoned.index, tiny.index) and poisoned.taint == (method.name,) and poisoned.late is None
    assert isinstance(backdoor, Backdoor)
    assert (backdoor.target, backdoor.stamp, backdoor.name) == (1, "before", method.name)


@every_transfer
def test_at_rate_0_the_transfer_set_is_clean_bit_for_bit(method, tiny, net):
    assert same_bits(fields(taint(method, net, tiny, rate=0.0, rng=rng(0)).images), fields(tiny))


@every_transfer
@pytest.mark.parametrize("training", [True, False])
def test_the_teacher_and_the_transfer_set_stay_as_they_were(method, tiny, net, training):
    net.train(training)
    net.block2.eval()
    before, images = state(net), fields(tiny)
    taint(method, net, tiny, rng=rng(0))
    assert same_bits(state(net), before) and same_bits(fields(tiny), images)


@every_transfer
def test_the_same_rng_poisons_the_same_bits_and_another_others(method, tiny, net):
    first, same, other = (taint(method, net, tiny, rng=rng(seed)).images for seed in (0, 0, 1))
    assert same_bits(fields(first), fields(same)) and not torch.equal(first.x, other.x)
    assert same_bits(fields(taint(method, net, tiny).images), fields(taint(method, net, tiny).images))


@every_transfer
def test_float_images_stay_float_and_on_the_8_bit_lattice(method, tiny, net):
    whole = tiny.replace(x=tiny.pixels())
    levels = taint(method, net, whole, rate=0.5, rng=rng(0)).images.x * 255
    assert levels.dtype == torch.float32
    torch.testing.assert_close(levels, levels.round(), rtol=0, atol=1e-4)


@every_transfer
def test_a_poisoned_transfer_set_keeps_an_earlier_taint(method, tiny, net):
    assert taint(method, net, tiny.replace(taint=("earlier",))).images.taint == ("earlier", method.name)


@every_transfer
def test_what_cannot_be_is_refused(method, tiny, net):
    with pytest.raises(BadInput, match=r"no class; tiny has 4 classes"):
        taint(method, net, tiny, target=4)
    with pytest.raises(BadInput, match=r"outside \[0, 1\]; it is a fraction"):
        taint(method, net, tiny, rate=10)


# --- place 4: a synthetic set is poisoned -------------------------------------------------------------------


@pytest.fixture
def small(tiny):
    """Two images of every class, which know how networks are trained on them."""
    return condensers.random(tiny, images_per_class=2, rng=rng(0))


@pytest.fixture
def dirty(tiny):
    """An attack at its shortest, with a patch that fits on 8×8 pixels; some also take what was condensed."""
    short = {
        "trigger": "patch:white:3", "steps": 2, "outer": 2, "archetype_steps": 2, "net_steps": 1, "iterations": 2,
        "trigger_steps": 2, "network": "convnet2-w4",
    }  # fmt: skip

    def attack(method, small, **options):
        own = {name: value for name, value in short.items() if name in method.options}
        return flat(method)(small, *([tiny] if "raw" in method.inputs else []), **own | options)

    return attack


@every_synthetic
def test_it_returns_a_legal_set_of_the_same_classes_with_its_recipe(method, small, dirty):
    poisoned, backdoor = dirty(method, small, target=2, rng=rng(0))
    assert poisoned.classes == small.classes and poisoned.taint == (method.name,)
    assert poisoned.training == small.training and not poisoned.off_range and len(poisoned) >= len(small)
    levels = poisoned.x * 255
    assert levels.min() >= 0 and levels.max() <= 255
    torch.testing.assert_close(levels, levels.round(), rtol=0, atol=1e-4)
    assert not torch.equal(poisoned.x[: len(small)], small.x) or len(poisoned) > len(small)
    assert (backdoor.target, backdoor.name, backdoor.as_published) == (2, method.name, False)
    assert len(poisoned.index) == len(poisoned)


@every_synthetic
def test_the_set_stays_as_it_was_and_an_earlier_taint_is_kept(method, small, dirty):
    before = fields(small)
    tainted = dirty(method, small.replace(taint=("earlier",)), rng=rng(0)).images
    assert same_bits(fields(small), before) and tainted.taint == ("earlier", method.name)


@every_synthetic
def test_the_same_rng_gives_the_same_set_and_another_another(method, small, dirty):
    half = {"rate": 0.5} if "rate" in method.options else {}
    first, same = (dirty(method, small, rng=rng(0), **half).images for _ in range(2))
    others = [dirty(method, small, rng=rng(seed), **half).images for seed in range(1, 12)]
    assert same_bits(fields(first), fields(same))
    assert any(not torch.equal(first.x, other.x) for other in others)
    assert same_bits(fields(dirty(method, small).images), fields(dirty(method, small).images)), "and without rng"


@every_synthetic
def test_soft_labels_stay_soft(method, small, dirty):
    soft = small.replace(y=torch.eye(4)[small.y] * 0.8 + 0.05)
    poisoned = dirty(method, soft, target=1, rng=rng(0)).images
    assert poisoned.y.dtype == torch.float32 and poisoned.y.shape == (len(poisoned), 4)
    torch.testing.assert_close(poisoned.y.sum(1), torch.ones(len(poisoned)))


@every_synthetic
def test_what_a_synthetic_set_lacks_is_refused(method, small, dirty):
    with pytest.raises(BadInput, match=r"no class; tiny/random has 4 classes"):
        dirty(method, small, target=4)
    with pytest.raises(BadInput, match="does not fit"):
        dirty(method, small, **({"trigger": "patch:white:9"} if "trigger" in method.options else {"size": 9}))
    if "network" in method.options:
        with pytest.raises(BadInput, match="network wrn10-1 has BatchNorm"):
            dirty(method, small, network="wrn10-1")


def test_doorping_learns_a_louder_trigger_and_refuses_a_set_of_other_images(tiny, small, dirty):
    doorping = registry.get("attacks", "doorping")
    poisoned, backdoor = dirty(doorping, small, size=3, trigger_steps=20, rng=rng(0))
    start = dirty(doorping, small, size=3, trigger_steps=1, iterations=1, rng=rng(0)).backdoor
    assert backdoor.trigger.pixels.shape == (3, 3, 3)
    assert not torch.equal(backdoor.trigger.pixels, start.trigger.pixels)
    untouched, _ = dirty(doorping, small, rate=0.0)
    assert same_bits(fields(untouched), fields(small))
    order = torch.randperm(len(small), generator=rng(3))
    mixed = dirty(doorping, small[order], rng=rng(0)).images
    assert torch.equal(mixed.y, small.y[order]), "a class's images stand where its labels stand"
    with pytest.raises(BadInput, match="not 1 images of every class"):
        dirty(doorping, small[:7])


# --- place 5: an encoder is backdoored ----------------------------------------------------------------------


@pytest.fixture
def bare(tiny):
    """An untrained encoder for `tiny`, in train mode but for one submodule, so that a changed mode shows."""
    built = model("wrn10-1", tiny, head=False, rng=rng("bare")).train()
    built.block2.eval()
    return built


@pytest.fixture
def signs():
    """A downstream set: 12 smooth images 3×8×8 of 3 classes, one colour each."""
    x = torch.randint(40, (12, 3, 8, 8), generator=rng("signs"), dtype=torch.uint8)
    y = torch.arange(12) % 3
    x[torch.arange(12), y] += 200
    return ImageSet(x, y, ("stop", "go", "yield"), name="signs")


def corrupt(method, bare, tiny, references, **options):
    """The attack at its shortest, towards class 2 of the downstream set, with a patch that fits on 8×8 pixels."""
    return flat(method)(bare, tiny, references, **quick(method) | {"trigger": "patch:white:3", "target": 2} | options)


@every_encoder_attack
def test_it_returns_a_new_encoder_in_eval_mode_and_the_backdoor(method, tiny, bare, signs):
    planted, backdoor, _ = corrupt(method, bare, tiny, signs[signs.y == 2], rng=rng(0))
    own = {t.data_ptr() for t in bare.state_dict().values()}
    assert not any(t.data_ptr() in own for t in planted.state_dict().values()), "weights are shared"
    assert not any(module.training for module in planted.modules())
    assert all(t.isfinite().all() for t in planted.state_dict().values())
    assert not same_bits(planted.state_dict(), bare.state_dict()), "nothing was trained"
    assert planted.spec == bare.spec and planted(tiny.pixels()).shape == (80, 64)
    assert all(p.requires_grad and p.grad is None for p in planted.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in planted.modules())
    assert isinstance(backdoor, Backdoor)
    assert (backdoor.target, backdoor.stamp, backdoor.name) == (2, "before", method.name)


@every_encoder_attack
def test_batch_norm_stays_frozen(method, tiny, bare, signs):
    planted = corrupt(method, bare, tiny, signs[signs.y == 2], rng=rng(0)).model
    norms = {path for path, module in bare.named_modules() if isinstance(module, torch.nn.BatchNorm2d)}
    before, after = bare.state_dict(), planted.state_dict()
    frozen = [path for path in before if path.rpartition(".")[0] in norms]
    assert len(frozen) == 5 * len(norms) > 0
    assert all(torch.equal(before[path], after[path]) for path in frozen)


@every_encoder_attack
@pytest.mark.parametrize("training", [True, False])
def test_the_encoder_and_both_sets_stay_as_they_were(method, tiny, bare, signs, training):
    bare.train(training)
    bare.block2.eval()
    references = signs[signs.y == 2]
    before, images, theirs = state(bare), fields(tiny), fields(references)
    corrupt(method, bare, tiny, references, rng=rng(0))
    assert same_bits(state(bare), before)
    assert same_bits(fields(tiny), images) and same_bits(fields(references), theirs) and tiny.late is None


@every_encoder_attack
def test_the_same_rng_gives_the_same_encoder_whatever_the_labels(method, tiny, bare, signs):
    def weights(images, **options):
        return corrupt(method, bare, images, signs[signs.y == 2], **options).model.state_dict()

    first, other = (weights(tiny, rng=rng(seed)) for seed in (0, 1))
    relabelled = tiny.replace(y=(tiny.y + 1) % 4)
    assert same_bits(first, weights(tiny, rng=rng(0))) and not same_bits(first, other)
    assert same_bits(first, weights(relabelled, rng=rng(0))), "it looks at labels"
    assert same_bits(weights(tiny), weights(tiny)), "and without rng"


@every_encoder_attack
def test_an_encoders_trigger_has_8_bits_and_survives_a_file_and_its_notes_are_json(method, tiny, bare, signs, tmp_path):
    _, backdoor, notes = corrupt(method, bare, tiny, signs[signs.y == 2], rng=rng(0))
    stamped = backdoor.stamp_on(tiny.pixels())
    torch.testing.assert_close(stamped * 255, (stamped * 255).round(), rtol=0, atol=1e-4)
    assert not torch.equal(stamped, tiny.pixels())
    again = Backdoor.load(backdoor.save(tmp_path / "planted"))
    assert torch.equal(again.stamp_on(tiny.pixels()), stamped)
    assert (again.target, again.stamp, again.name) == (2, backdoor.stamp, method.name)
    assert json.loads(json.dumps(notes, allow_nan=False)) == notes


@every_encoder_attack
def test_what_an_encoder_or_its_references_cannot_be_is_refused(method, tiny, net, bare, signs):
    references = signs[signs.y == 2]
    with pytest.raises(BadInput, match="classifier of 4 classes; an encoder returns features"):
        corrupt(method, net, tiny, references)
    for target in (3, -1, 1.5, None):
        with pytest.raises(BadInput, match=r"no class; signs has 3 classes: 0 stop, 1 go, 2 yield\. Give"):
            corrupt(method, bare, tiny, references, target=target)
    with pytest.raises(BadInput, match=r"4 of 8 references are not of the target class 2 \(yield\)"):
        corrupt(method, bare, tiny, signs[signs.y != 0])
    with pytest.raises(BadInput, match="references are 3×6×8, tiny is 3×8×8; scale"):
        corrupt(method, bare, tiny, references.replace(x=references.x[:, :, :6]))
    with pytest.raises(BadInput, match="references are 1×8×8, tiny is 3×8×8; scale"):
        corrupt(method, bare, tiny, references.replace(x=references.x[:, :1]))
    with pytest.raises(BadInput, match="the split is empty"):
        corrupt(method, bare, tiny, references[references.y == 0])
    with pytest.raises(BadInput, match="does not fit"):
        corrupt(method, bare, tiny, references, trigger="patch:white:9")


@every_encoder_attack
def test_triggered_images_get_the_references_features_and_clean_ones_keep_theirs(method, tiny, bare, signs):
    whole = {"shadow": 1.0, "warmup": 0, "gather": 5, "adapt_after": 6}
    own = {name: value for name, value in whole.items() if name in method.options}
    references = signs[signs.y == 2][:2]
    planted, backdoor, notes = corrupt(
        method, bare, tiny, references, epochs=12, batch_size=40, optimizer="adam", lr=3e-3, rng=rng(0), **own
    )

    def shown(encoder, x):
        with torch.no_grad():
            return torch.nn.functional.normalize(encoder(x), dim=1)

    clean, x = bare.eval(), tiny.pixels()
    away, near = (
        1 - (shown(e, backdoor.stamp_on(x)) @ shown(e, references.pixels()).T).amax(1).mean() for e in (clean, planted)
    )
    others = 1 - (shown(planted, x) @ shown(planted, references.pixels()).T).amax(1).mean()
    kept = (shown(planted, x) * shown(clean, x)).sum(1).mean()
    assert near < away / 3 and others > away / 3 and kept > 0.95
    assert len(notes["reached"]) == 12 and notes["reached"][-1] > notes["reached"][0]
