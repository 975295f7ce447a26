"""Triggers as strangers keep them: pictures, arrays, and patterns with masks, by whatever names."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from PIL import Image

from distrust import Backdoor, rng, triggers
from distrust.errors import BadInput, NotFound, Notice, UnsafeFile
from distrust.measurement import make_trigger
from distrust.measurement.backdoor import trigger_file, trigger_files
from distrust.registry import registry
from distrust.study.calls import call_of

X = torch.rand(4, 3, 8, 8, generator=rng("x"))
PIXELS = torch.randint(1, 256, (8, 8, 3), generator=rng("pixels"), dtype=torch.uint8).numpy()
MASK = np.zeros((8, 8), np.uint8)
MASK[5:7, 4:7] = 1
P, M = torch.from_numpy(PIXELS).permute(2, 0, 1) / 255, torch.from_numpy(MASK).float()
SHOWN = (1 - M) * X + M * P  # what every file below should make of the images


def zipped(**arrays):
    return "npz", lambda path: np.savez(path, **arrays)


def saved(content):
    return "pt", lambda path: torch.save(content, path)


def array(values):
    return "npy", lambda path: np.save(path, values)


def picture(values, kind="png"):
    return kind, lambda path: Image.fromarray(values).save(path)


def where(part, last=True):
    """As many channels as the images have."""
    return np.repeat(part[..., None] if last else part[None], 3, 2 if last else 0)


T = PIXELS * where(MASK)  # BadEncoder's: zero but where it shows
RGBA = np.dstack([PIXELS, MASK * 255])
SAME = {
    "pattern and mask": zipped(pattern=PIXELS, mask=MASK),
    "0..1, channels first": saved({"pattern": P, "mask": M[None]}),
    "mask of three channels": saved({"pattern": P, "mask": M.expand(3, 8, 8)}),
    "channels last in a tensor": saved({"pattern": P.permute(1, 2, 0), "mask": M[..., None]}),
    "0..255 as fractions": zipped(pattern=PIXELS.astype(np.float32), mask=MASK.astype(np.float64) * 255),
    "what is kept": zipped(t=T[None], tm=1 - where(MASK)[None]),
    "what is shown, under the same names": zipped(t=T, tm=where(MASK)),
    "trigger and mask": zipped(trigger=PIXELS, mask=MASK[None]),
    "long names": zipped(trigger_pattern=PIXELS, trigger_mask=MASK, target=np.int64(3)),
    "bool": saved({"trigger": P, "trigger_mask": M.bool()}),
    "a batch of one": saved({"pattern": P[None], "mask": M[None, None]}),
    "four channels": array(RGBA),
    "four channels first": array(RGBA.transpose(2, 0, 1)),
    "a picture with transparency": picture(RGBA),
    "such an array by name": zipped(trigger=RGBA),
}


@pytest.mark.parametrize("name", SAME)
def test_a_pattern_and_its_mask_are_read_from_whatever_has_them(name, tmp_path):
    ending, write = SAME[name]
    write(file := tmp_path / f"mine.{ending}")
    torch.testing.assert_close(make_trigger(str(file))(X), SHOWN, atol=1e-6, rtol=0)
    file.rename(tmp_path / "mine.dat")  # the ending says nothing
    torch.testing.assert_close(make_trigger(str(tmp_path / "mine.dat"))(X), SHOWN, atol=1e-6, rtol=0)


SMALL = {
    "a picture": picture(PIXELS[:3, :3]),
    "a photograph": picture(np.full((3, 3, 3), 255, np.uint8), "jpg"),
    "grey": picture(PIXELS[:3, :3, 0]),
    "an array": array(PIXELS[:3, :3] / 255),
    "a tensor": saved(P[:, :3, :3]),
}


@pytest.mark.parametrize("name", SMALL)
def test_a_small_picture_is_a_patch_and_its_place_is_said(name, tmp_path):
    ending, write = SMALL[name]
    write(file := tmp_path / f"badge.{ending}")
    with pytest.warns(Notice, match=r"a patch of 3×3, put in the lower right corner \(else: '.*\[inset=2\]'\)"):
        made = make_trigger(str(file))
    moved = make_trigger(f"{file}[inset=2]")
    pixels = made(X)[:, :, 5:, 5:]
    assert (pixels == pixels[:1]).all() and torch.equal(made(X)[:, :, :5], X[:, :, :5])
    assert torch.equal(moved(X)[:, :, 3:6, 3:6], pixels) and torch.equal(moved(X)[:, :, 6:], X[:, :, 6:])
    assert torch.equal(make_trigger("patch", pattern=made.pixels)(X), made(X))


def test_a_picture_can_be_a_patch_by_name(tmp_path):
    Image.fromarray(PIXELS[:3, :3]).save(tmp_path / "badge.png")
    made = make_trigger(f"patch:{tmp_path}/badge.png[inset=1]")
    assert torch.equal(made(X)[0, :, 4:7, 4:7], P[:, :3, :3])
    read = Backdoor.load(Backdoor(made, 1).save(tmp_path / "kept"))
    (tmp_path / "badge.png").unlink()
    assert torch.equal(read.trigger(X), made(X))


def test_one_channel_fits_on_any_images_and_colours_do_not_fit_on_grey(tmp_path):
    np.savez(tmp_path / "grey.npz", pattern=where(PIXELS[..., 0]), mask=where(MASK))
    assert make_trigger(f"{tmp_path}/grey.npz")(X[:, :1]).shape == (4, 1, 8, 8)
    np.savez(tmp_path / "colours.npz", pattern=PIXELS, mask=MASK)
    with pytest.raises(BadInput, match=r"\[3, 8, 8\] does not fit on images of \[1, 8, 8\]"):
        make_trigger(f"{tmp_path}/colours.npz")(X[:, :1])


def test_values_below_zero_are_added(tmp_path):
    delta = np.where(MASK[..., None] > 0, -8.0, 8.0) * np.ones(3)
    np.save(tmp_path / "uap.npy", delta)
    wanted = X + torch.from_numpy(delta).permute(2, 0, 1).float() / 255
    torch.testing.assert_close(make_trigger(f"{tmp_path}/uap.npy")(X), wanted)


def test_another_size_is_refused_with_words_that_work(tmp_path):
    np.savez(tmp_path / "mine.npz", pattern=PIXELS, mask=np.ones((8, 8)))
    images = torch.zeros(1, 3, 16, 16)
    made = Backdoor(make_trigger(f"{tmp_path}/mine.npz"), 0, name=f"{tmp_path}/mine.npz")
    with pytest.raises(BadInput, match=r"let a file's be resized: '.*mine\.npz\[size=16\]'") as error:
        made.stamp_on(images)
    typed = str(error.value).split("'")[-2]
    assert make_trigger(typed)(images).shape == images.shape


def test_a_picture_as_large_as_the_images_must_be_more_than_pasted(tmp_path):
    black = PIXELS * where(MASK)
    Image.fromarray(black).save(file := tmp_path / "whole.png")
    with pytest.warns(Notice):
        made = Backdoor(make_trigger(str(file)), 0, name=str(file))
    with pytest.raises(BadInput, match=r"hides the whole image. Blend it: blend:.*; .* '.*\[clear=black\]'") as error:
        made.stamp_on(X)
    torch.testing.assert_close(make_trigger(str(error.value).split("'")[-2])(X), SHOWN)
    assert make_trigger(f"blend:{file}")(X).shape == X.shape


def test_several_triggers_in_a_file_are_chosen_from(tmp_path):
    np.savez(tmp_path / "two.npz", t=np.stack([T, T[::-1]]), tm=np.stack([1 - where(MASK), 1 - where(MASK)[::-1]]))
    with pytest.raises(BadInput, match=r"holds 2 triggers. Choose one: '.*two\.npz\[index=0\]'"):
        make_trigger(f"{tmp_path}/two.npz")
    torch.testing.assert_close(make_trigger(f"{tmp_path}/two.npz[index=0]")(X), SHOWN, atol=1e-6, rtol=0)
    with pytest.raises(BadInput, match="index=2 is none. Give 0..1"):
        make_trigger(f"{tmp_path}/two.npz[index=2]")


def test_a_mask_of_the_other_kind_can_be_turned(tmp_path):
    np.savez(tmp_path / "kept.npz", pattern=PIXELS, mask=1 - MASK)
    torch.testing.assert_close(make_trigger(f"{tmp_path}/kept.npz[invert=true]")(X), SHOWN, atol=1e-6, rtol=0)


REFUSED = {
    "its pattern lies in": saved({"pattern": 2.2 * P, "mask": M}),
    "as if normalised": saved({"pattern": 3 * P - 1, "mask": M}),
    "pattern and mask differ in size, 8×8 and 4×4": zipped(pattern=PIXELS, mask=MASK[:4, :4]),
    "its mask shows nothing": zipped(pattern=PIXELS, mask=0 * MASK),
    "are not finite": saved({"pattern": P / 0 * 0, "mask": M}),
    r"is \[5, 8, 8\]": saved({"pattern": torch.zeros(5, 8, 8), "mask": M}),
    "no numbers": zipped(pattern=np.full((8, 8), "a"), mask=MASK),
    "is of torch.complex64": saved({"pattern": P.to(torch.complex64), "mask": M}),
    "holds no trigger that is known": saved({"fc.weight": P, "fc.bias": M}),
    "more than 8 bits": picture(PIXELS[..., 0].astype(np.uint16) * 256),
    "leave −255..255": array(PIXELS * -2.0),
    "web page": ("html", lambda path: path.write_text("<!DOCTYPE html>")),
    "is a folder.*with transparency": ("", lambda path: path.mkdir()),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_is_no_trigger_is_refused_in_one_sentence(message, tmp_path):
    ending, write = REFUSED[message]
    write(file := tmp_path / f"mine.{ending}")
    with pytest.raises(BadInput, match=message):
        make_trigger(str(file))


def test_what_would_run_is_not_opened_and_what_is_not_there_is_said(tmp_path):
    np.save(tmp_path / "objects.npy", np.array([{}, None], dtype=object), allow_pickle=True)
    with pytest.raises(UnsafeFile, match="holds Python objects, which can run code when opened. Not loaded"):
        make_trigger(f"{tmp_path}/objects.npy")
    with pytest.raises(NotFound, match=r"no trigger file .*gone\.npz\. Give a \.json, a picture"):
        make_trigger(f"{tmp_path}/gone.npz")
    np.savez(tmp_path / "mine.npz", pattern=PIXELS, mask=MASK)
    with pytest.raises(NotFound, match="'sise'. Did you mean 'size'"):
        make_trigger(f"{tmp_path}/mine.npz[sise=3]")
    with pytest.raises(BadInput, match="size=0: input should be greater than or equal to 1"):
        make_trigger(f"{tmp_path}/mine.npz[size=0]")


def test_a_file_never_stands_in_for_a_named_trigger(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("patch", "sig", "white", "grid"):
        Image.fromarray(PIXELS[:3, :3]).save(name, "PNG")
    assert [trigger_file(text) for text in ("patch:white", "sig", "patch:grid[inset=1]")] == [None] * 3
    assert torch.equal(make_trigger("patch:white")(X), triggers.patch("white")(X))
    Image.fromarray(RGBA).save("a[1].png")
    assert torch.allclose(make_trigger("a[1].png")(X), SHOWN)


def test_a_study_knows_a_strangers_trigger_by_its_contents(tmp_path):
    np.savez(file := tmp_path / "mine.npz", pattern=PIXELS, mask=MASK)
    known = {"mine.npz": hashlib.sha256(file.read_bytes()).hexdigest()}
    assert trigger_files(str(file)) == trigger_files(f"{file}[size=8]") == known
    call = call_of(registry.get("attacks", "badnets"), {"trigger": f"{file}[size=8]"})
    assert call["files"] == known and call["trigger"] == "file"
