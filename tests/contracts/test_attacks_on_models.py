"""Every attack on a model: a teacher (place 2) or an encoder (place 5).

A new model and its trigger come out; what came in stays. An attack on an encoder looks at no labels but those of a few
references of a downstream class.
"""

import json

import pytest
import torch

from distrust import rng
from distrust.errors import BadInput
from distrust.measurement import Backdoor

from . import every, same_bits, traces

every_plant = every("attacks", lambda mark: mark.place in (2, 5))
every_teacher_attack = every("attacks", lambda mark: mark.place == 2)
every_encoder_attack = every("attacks", lambda mark: mark.place == 5)


@every("attacks")
def test_its_place_has_a_contract(method):
    assert method.mark.place in (1, 2, 3, 4, 5), "write the contract of this place"


@pytest.fixture
def plant(call):
    """The attack at its shortest, towards class 2: of the training images, or of the downstream set."""
    return lambda method, **given: call(method, **{"target": 2} | given)


@every_plant
def test_it_returns_a_new_model_in_eval_mode_and_the_backdoor(method, plant, products, tiny):
    planted, backdoor, _ = plant(method, rng=rng(0))
    clean, *_ = products(method).values()
    own = {t.data_ptr() for t in clean.state_dict().values()}
    assert not any(t.data_ptr() in own for t in planted.state_dict().values()), "weights are shared"
    assert not any(module.training for module in planted.modules())
    assert all(t.isfinite().all() for t in planted.state_dict().values())
    assert not same_bits(planted.state_dict(), clean.state_dict()), "nothing was trained"
    assert planted.spec == clean.spec and planted(tiny.pixels()).shape == clean(tiny.pixels()).shape
    assert all(p.requires_grad and p.grad is None for p in planted.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in planted.modules())
    assert isinstance(backdoor, Backdoor) and (backdoor.target, backdoor.name) == (2, method.name)
    stamp = method.options.get("stamp")
    usual = ("before",) if method.mark.place == 5 else ("before", "after")
    assert backdoor.stamp == stamp.default if stamp else backdoor.stamp in usual


@every_plant
@pytest.mark.parametrize("training", [True, False])
def test_the_model_and_the_images_stay_as_they_were(method, plant, products, tiny, training):
    given = products(method)
    clean, *_ = given.values()
    clean.train(training)
    clean.block2.eval()
    before = [traces(product) for product in given.values()]
    plant(method, rng=rng(0))
    assert all(same_bits(traces(product), was) for product, was in zip(given.values(), before, strict=True))
    assert tiny.late is None


@every_plant
def test_the_same_rng_plants_the_same_bits_and_another_others(method, plant):
    def all_of(planted):
        return {"weights": planted.model.state_dict(), "trigger": planted.backdoor.dump(), "notes": planted.notes}

    first, same, other = (all_of(plant(method, rng=rng(seed))) for seed in (0, 0, 1))
    assert same_bits(first, same)
    assert not same_bits(first["weights"], other["weights"]) or first["trigger"] != other["trigger"]
    assert same_bits(all_of(plant(method)), all_of(plant(method))), "and without rng"


@every_plant
def test_its_trigger_makes_images_of_8_bits_and_survives_a_file_and_its_notes_are_json(method, plant, tiny, tmp_path):
    _, backdoor, notes = plant(method, rng=rng(0))
    stamped = backdoor.stamp_on(tiny.pixels())
    levels = stamped * 255
    assert stamped.min() >= 0 and stamped.max() <= 1
    torch.testing.assert_close(levels, levels.round(), rtol=0, atol=1e-4)
    assert not torch.equal(stamped, tiny.pixels())
    again = Backdoor.load(backdoor.save(tmp_path / "planted"))
    assert torch.equal(again.stamp_on(tiny.pixels()), stamped)
    assert (again.target, again.stamp, again.name) == (2, backdoor.stamp, method.name)
    assert json.loads(json.dumps(notes, allow_nan=False)) == notes


@every_plant
@pytest.mark.parametrize("target", [4, -1, 1.5, None])
def test_a_target_that_is_no_class_is_not_planted(method, plant, target):
    tiny, signs = "tiny has 4 classes: 0 ant, 1 bee, 2 cat, 3 dog", "signs has 3 classes: 0 stop, 1 go, 2 yield"
    with pytest.raises(BadInput, match=rf"no class; {tiny if method.mark.place == 2 else signs}\. Give"):
        plant(method, target=target)


@every_teacher_attack
@pytest.mark.parametrize("rate", [-0.1, 1.1, 10, float("nan")])
def test_a_rate_outside_0_to_1_is_not_planted(method, plant, rate):
    if "rate" not in method.options:
        pytest.skip("it has no rate")
    with pytest.raises(BadInput, match=r"outside \[0, 1\]; it is a fraction"):
        plant(method, rate=rate)


# --- an encoder ---------------------------------------------------------------------------------------------


@every_encoder_attack
def test_batch_norm_stays_frozen(method, plant, encoder):
    planted = plant(method, rng=rng(0)).model
    norms = {path for path, module in encoder.named_modules() if isinstance(module, torch.nn.BatchNorm2d)}
    before, after = encoder.state_dict(), planted.state_dict()
    frozen = [path for path in before if path.rpartition(".")[0] in norms]
    assert len(frozen) == 5 * len(norms) > 0
    assert all(torch.equal(before[path], after[path]) for path in frozen)


@every_encoder_attack
def test_the_same_rng_gives_the_same_encoder_whatever_the_labels(method, plant, tiny):
    def weights(images, **options):
        return plant(method, train=images, **options).model.state_dict()

    first, other = (weights(tiny, rng=rng(seed)) for seed in (0, 1))
    relabelled = tiny.replace(y=(tiny.y + 1) % 4)
    assert same_bits(first, weights(tiny, rng=rng(0))) and not same_bits(first, other)
    assert same_bits(first, weights(relabelled, rng=rng(0))), "it looks at labels"
    assert same_bits(weights(tiny), weights(tiny)), "and without rng"


@every_encoder_attack
def test_what_an_encoder_or_its_references_cannot_be_is_refused(method, plant, net, signs, references):
    with pytest.raises(BadInput, match="classifier of 4 classes; an encoder returns features"):
        plant(method, encoder=net)
    with pytest.raises(BadInput, match=r"no class; signs has 3 classes"):
        plant(method, target=3)
    with pytest.raises(BadInput, match=r"4 of 8 references are not of the target class 2 \(yield\)"):
        plant(method, references=signs[signs.y != 0])
    with pytest.raises(BadInput, match="references are 3×6×8, tiny is 3×8×8; scale"):
        plant(method, references=references.replace(x=references.x[:, :, :6]))
    with pytest.raises(BadInput, match="references are 1×8×8, tiny is 3×8×8; scale"):
        plant(method, references=references.replace(x=references.x[:, :1]))
    with pytest.raises(BadInput, match="the split is empty"):
        plant(method, references=references[references.y == 0])
    with pytest.raises(BadInput, match="does not fit"):
        plant(method, trigger="patch:white:9")


@every_encoder_attack
def test_triggered_images_get_the_references_features_and_others_keep_theirs(method, plant, tiny, encoder, references):
    whole = {"shadow": 1.0, "warmup": 0, "gather": 5, "adapt_after": 6}
    own = {name: value for name, value in whole.items() if name in method.options}
    references = references[:2]
    planted, backdoor, notes = plant(
        method, references=references, epochs=12, batch_size=40, optimizer="adam", lr=3e-3, rng=rng(0), **own
    )

    def shown(encoder, x):
        with torch.no_grad():
            return torch.nn.functional.normalize(encoder(x), dim=1)

    clean, x = encoder.eval(), tiny.pixels()
    away, near = (
        1 - (shown(e, backdoor.stamp_on(x)) @ shown(e, references.pixels()).T).amax(1).mean() for e in (clean, planted)
    )
    others = 1 - (shown(planted, x) @ shown(planted, references.pixels()).T).amax(1).mean()
    kept = (shown(planted, x) * shown(clean, x)).sum(1).mean()
    assert near < away / 3 and others > away / 3 and kept > 0.95
    assert len(notes["reached"]) == 12 and notes["reached"][-1] > notes["reached"][0]
