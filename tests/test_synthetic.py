"""Synthetic sets: their own file, and those of strangers, each layout written here as its paper's code writes it."""

import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from distrust import BadInput, NotFound, UnsafeFile, load_set, recipe, rng, save_set, scan
from distrust.auditing.check import check
from distrust.data.sources.published import STATISTICS
from distrust.data.synthetic import experiments
from distrust.errors import Notice
from distrust.methods import condensers

MEAN, STD = (torch.tensor(part).view(1, 3, 1, 1) for part in STATISTICS["cifar10"])
Y = torch.arange(4).repeat_interleave(2)


@pytest.fixture
def x():
    """Eight smooth pictures [8,3,8,8] in 0..1."""
    ramp = torch.linspace(0, 1, 8)
    return (ramp.view(1, 1, 1, 8) * torch.rand(8, 3, 8, 1, generator=rng("x"))).contiguous()


def test_a_set_of_ours_comes_back_whole(tiny, tmp_path):
    made = condensers.dm(tiny.replace(taint=("badnets",)), iterations=1, network="convnet2-w4", batch_real=2)
    again = load_set(save_set(made, tmp_path / "dm.safetensors"))
    assert torch.equal(again.x, made.x) and torch.equal(again.y, made.y) and again.off_range
    assert (again.classes, again.name, again.taint) == (made.classes, made.name, ("badnets",))
    assert again.training == made.training and recipe(again).augment == recipe(made).augment
    plain = load_set(save_set(tiny, tmp_path / "plain.safetensors"))
    assert plain.training is None and torch.equal(plain.x, tiny.x)


def test_a_recipe_halves_its_rate_where_the_epochs_say(tiny):
    made = condensers.random(tiny)
    assert recipe(made).milestones == (501,) and recipe(made).plain() == made.training
    assert recipe(made, epochs=100).milestones == (51,) and recipe(made, epochs=100, lr=0.1).lr == 0.1
    assert recipe(made, epochs=100, milestones=()).milestones == ()
    assert recipe(tiny) == recipe() and recipe().epochs == 1000, "the field's own, where a set says nothing"


def written(path, content):
    torch.save(content, path)
    return path


def layouts(x):
    """name → what writes it, and what else is known of it."""
    normal = (x - MEAN) / STD
    several = {"data": [[torch.zeros_like(normal), Y], [normal, Y]], "accs_all_exps": {"ConvNet": [0.3]}}
    return {
        "res_DM_CIFAR10_ConvNet_2ipc.pt": [several],
        "images_best.pt": [normal, {"labels_best.pt": Y}],
        "images_7.pt": [normal, {"labels_7.pt": Y, "lr_7.pt": torch.tensor(0.02)}],
        "image_syn_upda.pt": [normal, {"label_syn_upda.pt": Y.float()}],
        "results.pth": [[(normal[:4], Y[:4], torch.tensor(0.02)), (normal[4:], Y[4:], torch.tensor(0.02))]],
        "pair.pt": [(normal, Y)],
    }


@pytest.mark.parametrize("name", ["res_DM_CIFAR10_ConvNet_2ipc.pt", "images_best.pt", "images_7.pt",
                                  "image_syn_upda.pt", "results.pth", "pair.pt"])  # fmt: skip
def test_published_layouts(name, x, tmp_path):
    content, *beside = layouts(x)[name]
    path = written(tmp_path / name, content)
    for other, value in beside[0].items() if beside else ():
        written(tmp_path / other, value)
    asked = {"experiment": 1} if name.startswith("res_") else {}
    with pytest.raises(BadInput, match=r"not in 0..1\. Neighbouring pixels correlate .* look normalised\. Type units="):
        load_set(path, **asked)
    found = load_set(path, units="normalised", statistics="cifar10", **asked)
    torch.testing.assert_close(found.x, x, atol=1e-5, rtol=0)
    assert torch.equal(found.y, Y) and found.classes == ("0", "1", "2", "3")
    known = name in ("images_7.pt", "results.pth")
    assert (found.training or {}).get("lr") == (pytest.approx(0.02) if known else None)


def test_one_of_several_sets_can_be_asked_for(x, tmp_path):
    path = written(tmp_path / "res.pt", layouts(x)["res_DM_CIFAR10_ConvNet_2ipc.pt"][0])
    first = load_set(path, units="pixels", experiment=0)
    assert not first.x.any()
    with pytest.raises(BadInput, match=r"experiment=2, but .* holds 2 sets"):
        load_set(path, experiment=2)
    with pytest.warns(Notice, match=r"holds 2 sets; this is set 2 of 2\. For another: experiment=0 to 1"):
        last = load_set(path, units="pixels")
    assert torch.equal(last.x, load_set(path, units="pixels", experiment=1).x) and experiments(path) == 2


def test_the_steps_of_one_set_are_joined_whatever_their_rates(x, tmp_path):
    steps = [(x[:4], Y[:4], torch.tensor(0.1)), (x[4:], Y[4:], torch.tensor(0.02))]
    path = written(tmp_path / "results.pth", 3 * steps)  # three times through
    with pytest.warns(Notice, match=r"in 6 steps, each with a rate of its own, 0\.02 to 0\.1; their images are joined"):
        found = load_set(path)
    assert torch.equal(found.x, x) and torch.equal(found.y, Y) and found.training is None and experiments(path) == 1
    said = check(path)
    assert said["images"] == 8 and "trained on in 6 steps" in said["text"]


def test_every_set_of_a_file_is_shown_and_none_is_scanned_unless_chosen(x, tmp_path):
    path = written(tmp_path / "res.pt", {"data": [[x, Y], [x[::2], Y[::2]], [x, Y]]})
    said = check(path)
    assert [one["images"] for one in said["sets"]] == [8, 4, 8]
    assert "3 synthetic sets (--experiment 0 to 2): 0: 8 images" in said["text"] and "--experiment 0" in said["next"]
    assert check(path, experiment=1)["images"] == 4
    with pytest.raises(BadInput, match="holds 3 synthetic sets.* --experiment 0 to --experiment 2"):
        scan(path)


def test_a_set_that_was_read_stays_when_its_file_is_written_anew(x, tmp_path):
    found = load_set(written(tmp_path / "pair.pt", (x, Y)))
    written(tmp_path / "pair.pt", (torch.zeros(2, 3, 8, 8), Y[:2]))
    assert torch.equal(found.x, x)


def test_kernel_methods_npz_with_centred_labels(x, tmp_path):
    centred = torch.eye(4)[Y] - 0.25
    np.savez(tmp_path / "kip.npz", images=x.permute(0, 2, 3, 1).numpy(), labels=centred.numpy())
    found = load_set(tmp_path / "kip.npz")
    torch.testing.assert_close(found.x, x)
    torch.testing.assert_close(found.y, torch.eye(4)[Y])
    logits = 5 * torch.eye(4)[Y]
    np.savez(tmp_path / "soft.npz", images=x.numpy(), labels=logits.numpy())
    with pytest.raises(BadInput, match="no probabilities. Type labels='logits'"):
        load_set(tmp_path / "soft.npz")
    torch.testing.assert_close(load_set(tmp_path / "soft.npz", labels="logits").y, logits.softmax(1))


def test_the_statistics_under_which_most_is_legal_come_first(x, tmp_path):
    path = written(tmp_path / "pair.pt", ((x - MEAN) / STD, Y))
    with pytest.raises(BadInput, match=r"so much would leave 0\.\.1: cifar10 \(0\.0 %\)"):
        load_set(path)
    with pytest.raises(NotFound, match="no statistics 'cifar'. Did you mean 'cifar10'"):
        load_set(path, units="normalised", statistics="cifar")
    with pytest.raises(BadInput, match="3 channels, but statistics for 1"):
        load_set(path, units="normalised", statistics="mnist")
    assert load_set(path, units="pixels").off_range


def test_whitened_images_are_called_so(tmp_path):
    white = torch.randn(8, 3, 8, 8, generator=rng("white"))
    with pytest.raises(BadInput, match=r"hardly correlate .* look whitened \(ZCA\), which cannot be undone"):
        load_set(written(tmp_path / "pair.pt", (white, Y)))
    with pytest.raises(BadInput, match=r"look like 0\.\.255: divide them by 255"):
        load_set(written(tmp_path / "pair.pt", (white.abs() * 90, Y)))


def bad(x):
    nan = x.clone()
    nan[2, 0, 0, 0] = torch.nan
    return {
        "1 of 8 images hold values that are not finite": (nan, Y),
        r"8 images, but labels are \[7\]": (x, Y[:7]),
        "has no image of class d": (x, Y.clamp(max=2), 4),
        "has labels for 4 classes, but 2 are named": (x, Y, 2),
        "are no class numbers": (x, Y + 0.5),
        r"must be \[N,C,H,W\] or \[N,H,W,C\] with 1 or 3 channels; got \[8, 192\]": (x.flatten(1), Y),
        "holds weight, and no images with labels": {"weight": x},
        "holds a int, and no images with labels": 3,
        "is no pair of images and labels": {"data": [x, Y]},
    }


@pytest.mark.parametrize("case", range(9))
def test_what_is_no_set_is_refused_in_one_sentence(case, x, tmp_path):
    message, content = list(bad(x).items())[case]
    names = None
    if isinstance(content, tuple) and len(content) == 3:
        *content, count = content
        names = "abcd"[:count]
    with pytest.raises(BadInput, match=message):
        load_set(written(tmp_path / "set.pt", content), classes=names)


def test_missing_files_are_named(x, tmp_path):
    with pytest.raises(NotFound, match="no synthetic set .*nothing.pt"):
        load_set(tmp_path / "nothing.pt")
    with pytest.raises(NotFound, match="no synthetic set .*nothing.safetensors"):
        load_set(tmp_path / "nothing.safetensors")
    with pytest.raises(NotFound, match="images alone, and no file with their labels .*labels_best.pt"):
        load_set(written(tmp_path / "images_best.pt", x))


def test_a_pickle_is_not_opened(x, tmp_path):
    class Evil:
        def __reduce__(self):
            return print, ("opened",)

    (tmp_path / "idm.pkl").write_bytes(pickle.dumps((x.numpy(), Evil())))
    with pytest.raises(UnsafeFile, match="Not loaded"):
        load_set(tmp_path / "idm.pkl")


def test_check_says_what_a_set_is(x, tmp_path, tiny):
    said = check(str(written(tmp_path / "pair.pt", ((x - MEAN) / STD, Y))))
    assert said["is"] == "synthetic set" and said["images"] == 8 and "look normalised" in said["text"]
    assert "pixels 0..1" in check(str(written(tmp_path / "pixels.pt", (x, Y))))["text"]
    own = save_set(condensers.random(tiny.replace(taint=("badnets",))), tmp_path / "own.safetensors")
    assert "TAINTED by badnets" in check(str(own))["text"] and check(str(own))["training"]
    with pytest.raises(BadInput, match="holds no weights"):
        check(str(written(tmp_path / "number.pt", 3)))


def test_what_cannot_be_written_is_refused(tiny, tmp_path):
    from distrust.methods import attacks

    late = attacks.badnets(tiny, stamp="after").images
    with pytest.raises(BadInput, match="stamped after augmentation"):
        save_set(late, tmp_path / "late.safetensors")
    (tmp_path / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(BadInput, match="is damaged, or no checkpoint"):
        load_set(tmp_path / "model.safetensors")
    save_file({"weight": torch.zeros(2, 2)}, tmp_path / "model.safetensors")
    with pytest.raises(BadInput, match="holds weight, and no images with labels"):
        load_set(tmp_path / "model.safetensors")
