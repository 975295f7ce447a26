"""What a notebook shows: pictures of images and triggers, scores, an audit's page; names are escaped."""

from __future__ import annotations

import io
import re
from base64 import b64decode
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import distrust as dt
from distrust.auditing.shelf import Compared
from distrust.measurement import Backdoor, Finding, Measurement, make_trigger
from distrust.pictures import sheet

EVIL = "<script>alert(1)</script>"


def drawn(html):
    """The pixels [H,W,C] or [H,W] of the picture in it, and its words."""
    (data,) = re.findall(r'src="data:image/png;base64,([^"]+)"', html)
    words = re.sub(r"<img[^>]*>", "", html)
    return torch.from_numpy(np.array(Image.open(io.BytesIO(b64decode(data))))), words


def test_a_sheet_shows_every_image_in_its_place_enlarged_by_a_whole_number():
    rows = [torch.full((2, 1, 4, 3), v) for v in (0.0, 0.4)]
    picture = Image.open(io.BytesIO(sheet(rows, least=10)))
    assert picture.size == (2 * 4 * 3, 2 * 5 * 3), "3 times, and a line of a pixel right of each and below it"
    assert picture.getpixel((0, 0)) == 0 and picture.getpixel((0, 15)) == 102 and picture.getpixel((9, 0)) == 255


def test_images_are_shown_class_by_class(digits):
    html = digits.train.replace(classes=(EVIL, *map(str, range(1, 10))))._repr_html_()
    pixels, words = drawn(html)
    assert pixels.shape == (10 * 17 * 3, 10 * 17 * 3, 3), "ten of each of ten classes, enlarged three times"
    assert "<script" not in html and f"Rows: {EVIL.replace('<', '&lt;').replace('>', '&gt;')}, 1, 2" in words
    none = digits.train[digits.train.hard != 3][:50]
    assert "Rows, 9 of the classes: 0, 1, 2, 4" in none._repr_html_()


def test_a_backdoor_is_shown_clean_triggered_and_as_the_difference(digits):
    backdoor = Backdoor(make_trigger("patch:white:3"), 5, name=EVIL)
    html = backdoor.shown(digits.test)
    pixels, words = drawn(html)
    assert "&lt;script&gt;" in words and "<script" not in html and "→ class 5" in words
    assert pixels.shape == (3 * 17 * 3, 8 * 17 * 3, 3)
    clean, stamped, difference = pixels.unflatten(0, (3, 51))[:, :48, :48]
    assert (stamped[39:, 39:] == 255).all() and (clean[:39] == stamped[:39]).all()
    assert ((difference == 128) == (clean == stamped)).all()
    (gray, _) = drawn(backdoor._repr_html_())
    assert gray.shape == (3 * 33 * 2, 33 * 2, 3), "without images, on a grey ramp of 32 pixels"
    with pytest.raises(dt.BadInput, match="Give another|does not fit"):
        Backdoor(make_trigger("patch:white:30"), 5).shown(digits.test)


def test_a_learnt_trigger_is_shown_on_a_ramp_of_its_own_size():
    made = dt.triggers.masked(pattern=torch.ones(1, 8, 8), mask=torch.eye(8)[None])
    pixels, _ = drawn(Backdoor(made, 0)._repr_html_())
    assert pixels.shape == (3 * 9 * 6, 9 * 6)


def test_a_finding_lists_classes_and_shows_the_trigger_that_it_found():
    found = Finding.of(EVIL, torch.tensor([0.1, 3.0, 0.2]))
    html = found._repr_html_()
    assert "<script" not in html and html.index("<td>1</td><td>3</td>") < html.index("<td>2</td><td>0.2</td>")
    assert "<img" not in html
    one = replace(found, trigger={"pattern": torch.ones(3, 6, 6), "mask": torch.ones(1, 6, 6)})
    assert "<img" in one._repr_html_()
    assert "<table" not in Finding("decree", 0.5, (0.5,), 0)._repr_html_(), "an encoder has no classes"


def test_a_measurement_is_escaped():
    assert "<script" not in Measurement({"acc": 0.5, "by": EVIL}, ())._repr_html_()


def test_an_audit_is_its_page_in_a_frame(digits):
    said = dt.Audit(
        "suspicious", EVIL, EVIL, "classifier", (Finding.of("twins", torch.tensor([0.0, 1.0])),),
        Compared(0, 19, "twins", "clean models"), images=digits.test,
    )  # fmt: skip
    html = said._repr_html_()
    assert html.startswith('<iframe title="audit"') and "<script" not in html and "&lt;!doctype html" in html.lower()
