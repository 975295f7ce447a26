"""The pixels that a network gets are those that a viewer shows; what no viewer shows is refused by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import distrust as dt
from distrust.errors import Notice

from .bring import refused, typed
from .test_folders import NET, split

WHITE, GREY = 255, 90


def picture(pixels, folder="set", end=".png", **save):
    """A set of this one picture."""
    for part in ("train", "test"):
        (Path(folder) / part / "a").mkdir(parents=True, exist_ok=True)
        pixels.save(Path(folder) / part / "a" / f"0{end}", **save)


def shown(folder="set"):
    """uint8 [C,H,W] of what a network gets."""
    return dt.images(folder).train.x[0]


def photo():
    """A white band at the top, a grey one at the left."""
    seen = np.zeros((8, 8, 3), np.uint8)
    seen[:, 0], seen[0] = GREY, WHITE
    return seen


TURNS = Image.Transpose
HELD = {  # EXIF orientation → how the camera's own rows lie
    1: None, 2: TURNS.FLIP_LEFT_RIGHT, 3: TURNS.ROTATE_180, 4: TURNS.FLIP_TOP_BOTTOM, 5: TURNS.TRANSPOSE,
    6: TURNS.ROTATE_90, 7: TURNS.TRANSVERSE, 8: TURNS.ROTATE_270,
}  # fmt: skip


@pytest.mark.parametrize("orientation", HELD)
@pytest.mark.parametrize("end, within", [(".png", 0), (".jpg", 60), (".webp", 60)])
def test_a_photo_stands_as_its_camera_was_held(orientation, end, within, distrust):
    raw = Image.fromarray(photo())
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture(raw if HELD[orientation] is None else raw.transpose(HELD[orientation]), end=end, exif=exif)
    difference = (shown().short() - torch.from_numpy(photo()).permute(2, 0, 1).short()).abs()
    assert difference.float().mean() <= within / 3 and difference.max() <= 2 * within


def palette(hidden):
    flat = Image.new("P", (8, 8), 1)
    flat.putpalette([GREY] * 3 + [hidden] * 3)
    flat.paste(0, (0, 0, 4, 8))
    return flat


def half(mode, hidden):
    whole = Image.new("RGBA", (8, 8), (hidden, hidden, hidden, 0))
    whole.paste((GREY, GREY, GREY, 255), (0, 0, 4, 8))
    return whole.convert(mode)


CLEAR = {  # a picture whose right half is transparent, of any colour beneath
    "RGBA": lambda hidden: (half("RGBA", hidden), ".png", {}),
    "grey with alpha": lambda hidden: (half("LA", hidden), ".png", {}),
    "palette": lambda hidden: (palette(hidden), ".png", {"transparency": 1}),
    "GIF": lambda hidden: (palette(hidden), ".gif", {"transparency": 1}),
    "WebP": lambda hidden: (half("RGBA", hidden), ".webp", {"lossless": True, "exact": True}),
}


@pytest.mark.parametrize("kind", CLEAR)
@pytest.mark.parametrize("hidden", [0, 200])
def test_what_is_transparent_is_white_whatever_lies_beneath(kind, hidden, distrust):
    pixels, end, save = CLEAR[kind](hidden)
    picture(pixels, end=end, **save)
    assert (shown()[:, :, :4] == GREY).all() and (shown()[:, :, 4:] == WHITE).all()


PLAIN = {  # a picture of one shade, in each form → that shade
    "grey": (Image.new("L", (8, 8), GREY), ".png", GREY),
    "colour": (Image.new("RGB", (8, 8), (GREY,) * 3), ".png", GREY),
    "two colours": (Image.new("1", (8, 8), 1), ".png", WHITE),
    "CMYK black": (Image.new("CMYK", (8, 8), (0, 0, 0, 255)), ".jpg", 0),
    "CMYK white": (Image.new("CMYK", (8, 8), (0, 0, 0, 0)), ".tif", WHITE),
    "YCbCr": (Image.new("YCbCr", (8, 8), (GREY, 128, 128)), ".jpg", GREY),
    "capital ending": (Image.new("L", (8, 8), GREY), ".PNG", GREY),
    "JPEG in capitals": (Image.new("L", (8, 8), GREY), ".JPG", GREY),
    "BMP": (Image.new("RGB", (8, 8), (GREY,) * 3), ".bmp", GREY),
    "TIFF": (Image.new("L", (8, 8), GREY), ".tiff", GREY),
    "WebP": (Image.new("RGB", (8, 8), (GREY,) * 3), ".webp", GREY),
    "PPM": (Image.new("RGB", (8, 8), (GREY,) * 3), ".ppm", GREY),
}


@pytest.mark.parametrize("kind", PLAIN)
def test_every_usual_form_of_a_picture_is_read(kind, distrust):
    pixels, end, shade = PLAIN[kind]
    picture(pixels, end=end)
    assert (shown().short() - shade).abs().max() <= 1


@pytest.mark.parametrize("name, kind", [("0.jfif", "JPEG"), ("0.jpg", "PNG"), ("0.png", "JPEG"), ("0.jpe", "JPEG")])
def test_a_picture_is_read_whatever_its_ending_promises(name, kind, distrust):
    for part in ("train", "test"):
        Path(f"set/{part}/a").mkdir(parents=True)
        Image.new("L", (8, 8), GREY).save(f"set/{part}/a/{name}", format=kind)
    assert (shown() == GREY).all()


@pytest.mark.parametrize("end", [".gif", ".png", ".webp", ".tif"])
def test_of_several_frames_the_first_is_taken_and_told(end, distrust):
    frames = [Image.new("RGB", (8, 8), (shade,) * 3) for shade in (GREY, 200)]
    picture(
        frames[0], end=end, save_all=True, append_images=frames[1:], **({"lossless": True} if end == ".webp" else {})
    )
    said = distrust("check", "set")
    assert said.code == 0 and "with several frames the first is taken" in said.err and f"0{end}" in said.err
    assert (shown() == GREY).all()


def test_still_pictures_say_nothing(distrust):
    picture(Image.new("L", (8, 8)), end=".gif")
    assert distrust("check", "set").err == ""


DEEP = {
    "16-bit PNG": (np.full((8, 8), 30000, np.uint16), ".png"),
    "16-bit TIFF": (np.full((8, 8), 30000, np.uint16), ".tif"),
    "32-bit TIFF": (np.full((8, 8), 30000, np.int32), ".tif"),
    "float TIFF": (np.full((8, 8), 0.5, np.float32), ".tif"),
}


@pytest.mark.parametrize("kind", DEEP)
def test_more_than_8_bits_are_refused_by_name(kind, distrust):
    pixels, end = DEEP[kind]
    picture(Image.fromarray(pixels), end=end)
    refused(distrust("check", "set"), f"a/0{end}", "more than 8 bits per channel", "convert it to 8 bits")


BROKEN = {  # a file called .png → why it is none
    "empty": (b"", "it is empty"),
    "cut": (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "cannot be read"),
    "a web page": (b"<!DOCTYPE html>", "it is a web page"),
    "a Git LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
    "noise": (bytes(range(200)), "cannot be read"),
}


@pytest.mark.parametrize("situation", BROKEN)
def test_a_file_that_is_no_picture_is_named(situation, distrust):
    split("pets", ["ant", "bee"])
    data, why = BROKEN[situation]
    Path("pets/test/bee/1.png").write_bytes(data)
    refused(distrust("check", "pets"), "test image 4", "pets/test/bee/1.png", why, "Replace or remove it")
    Path("pets/test/bee/1.png").unlink()
    assert distrust("check", "pets").code == 0


UNEQUAL = {  # a picture among grey ones of 8×8 → the option that makes them equal
    "another size": (lambda: Image.new("L", (9, 8)), "--size", 8),
    "colour beside grey": (lambda: Image.new("RGB", (8, 8)), "--channels", 1),
    "grey with alpha beside grey": (lambda: Image.new("LA", (8, 8), (0, 255)), "--channels", 1),
    "palette beside grey": (lambda: Image.new("P", (8, 8)), "--channels", 3),
}


@pytest.mark.parametrize("situation", UNEQUAL)
def test_pictures_that_differ_are_named_with_the_option_that_helps(situation, distrust):
    make, option, value = UNEQUAL[situation]
    split("pets", ["ant", "bee"])
    make().save("pets/train/bee/4.png")
    Path("net.py").write_text(NET)
    words = ["measure", "--model", "net.py:Shade", "--images", "pets", "--trigger", "patch:white:1", "--target", 1]
    message = refused(distrust(*words), "bee/4.png", option)
    assert option in typed(message, "--size or") and "size=" not in message
    assert distrust(*words, option, value, "--json").facts["acc"] == 1.0
    with pytest.raises(dt.BadInput, match=r"pass size= or channels="):
        dt.images("pets")


def test_a_folder_of_pictures_is_told_once_with_what_is_left_out(distrust):
    split("pets", ["ant"])
    Path("pets/train/empty").mkdir()
    with pytest.warns(Notice, match="left out: empty"):
        dt.images("pets")
