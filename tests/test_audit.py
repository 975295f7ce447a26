"""Audits: the exact rule, the four verdicts, what a person reads, and the faces for machines."""

import json
from fractions import Fraction

import numpy as np
import pytest
import torch

import distrust as dt
from distrust import Shelf, audit, model, open_suspect, rng
from distrust.auditing.audit import _names
from distrust.auditing.panel import looked, shown
from distrust.auditing.shelf import Compared, Judged, Look
from distrust.errors import BadInput, NotFound, Skip
from distrust.measurement import Finding
from distrust.methods import condensers

PROBE = "patch_probe[network=convnet2-w4,networks=1,epochs=2,size=3,stride=6,images=8{}]"
QUICK = "twins[steps=2,images=8,epochs=1,batch_size=32]"


def look(a, b=0.0, attack="", seed=0, **like):
    return Look({"one": a, "two": b}, {"one": 3, "two": 4}, like, attack=attack, seed=seed)


def shelf(*looks, **about):
    return Shelf("test", looks, about)


def test_p_is_how_many_clean_models_stand_out_as_far():
    """By hand: z of five numbers, the suspect's among them, by median and 1.4826 · MAD; what is above 0, summed."""
    clean = [look(1, 10), look(2, 30), look(3, 20), look(4, 25)]
    suspect = look(9, 22)

    def z(values):
        middle = np.median(values)
        return (np.array(values) - middle) / (1.4826 * np.median(abs(np.array(values) - middle)))

    def together(one, two):
        return np.maximum(z(one), 0) + np.maximum(z(two), 0)

    far = together([9, 1, 2, 3, 4], [22, 10, 30, 20, 25])
    found = shelf(*clean, look(99, attack="badnets")).compared(suspect)
    assert (found.far, found.of, found.by) == (int((far[1:] >= far[0]).sum()), 4, "one") == (0, 4, "one")
    assert Fraction(found.p).limit_denominator(99) == Fraction(1, 5) == Fraction(found.least).limit_denominator(99)
    tied = shelf(*clean, look(9, 22)).compared(suspect)
    assert found.stands == pytest.approx(far[0])
    far = together([9, 1, 2, 3, 4, 9], [22, 10, 30, 20, 25, 22])
    assert (tied.far, tied.of) == ((far[1:] >= far[0]).sum(), 5) == (2, 5) and tied.p == pytest.approx(3 / 6)
    assert shelf(*clean).compared(look(3, 90)).by == "two"


@pytest.mark.parametrize(("p", "clean"), [(0.1, 0.385), (0.05, 0.289), (0.01, 0.111), (0.005, 0.067), (0.001, 0.0184)])
def test_what_p_makes_of_even_odds_is_as_published(p, clean):
    """Sellke, Bayarri and Berger (2001), Table 1: the least probability of the null hypothesis."""
    compared = Compared(round(p * 1000) - 1, 999, "one", "")
    assert compared.p == pytest.approx(p) and 1 - compared.believed == pytest.approx(clean, abs=5e-4)
    assert Compared(500, 999, "one", "").believed == 0.5


def test_briers_error_is_of_what_is_believed_and_of_who_is_unlike_nothing_is():
    compared = Compared(9, 999, "one", "")
    wrong = [Judged(look(1, attack=a), compared, unlike, True).wrong for a in ("", "x") for unlike in (False, True)]
    assert wrong == pytest.approx([0.889**2, 0.25, 0.111**2, 0.25], abs=2e-3)


def test_models_that_do_not_differ_say_nothing():
    assert shelf(*[look(1, 1) for _ in range(4)]).compared(look(1, 1)).p == 1
    assert shelf(look(0), look(0), look(0), look(1)).compared(look(2)).far == 0, "a median distance of 0 is no spread"


def test_p_is_exact_where_the_suspect_is_one_of_them():
    """Each of N + 1 models in turn is the suspect: no share of them has a p below itself."""
    values = torch.randn(12, 2, generator=rng("exact"), dtype=torch.float64).exp().tolist()
    looks = [look(*row) for row in values]
    ps = [shelf(*looks[:i], *looks[i + 1 :]).compared(looks[i]).p for i in range(12)]
    for k in range(1, 13):
        assert sum(p <= k / 12 + 1e-9 for p in ps) <= k
    assert min(ps) == pytest.approx(1 / 12)


def test_a_shelf_that_lacks_something_is_named():
    with pytest.raises(BadInput, match="test has no clean model"):
        shelf(look(1, attack="badnets")).compared(look(2))
    with pytest.raises(BadInput, match="test does not know other"):
        shelf(look(1)).compared(Look({"other": 1.0}))


def test_each_model_is_judged_by_the_clean_ones_of_other_seeds():
    clean = [look(float(seed % 20), seed=seed) for seed in range(40)]
    attacked = [look(99.0 if seed < 3 else 5.0, attack="badnets[rate=0.1]", seed=seed) for seed in range(4)]
    rates = shelf(*clean, *attacked).rates()
    assert rates["badnets"] == (3, 4) and rates[""].of == 40
    other = shelf(*[look(1.0, seed=i, acc=i / 100) for i in range(4)], look(9.0, attack="sig", acc=0.9)).rates()
    assert other["sig"] == (0, 1), "who is unlike them is not called"
    for seed, called in (
        (1, False),
        (19, True),
    ):  # two of 39 stand out as far as 18.5, or one, as 19's own does not count
        assert shelf(*clean, look(18.5, attack="sig", seed=seed)).rates()["sig"] == (called, 1)
    two = shelf(*clean, Look({"one": 99.0, "two": -9.0}, {"one": 3, "two": 4}, attack="sig", target=3)).judged()[-1]
    assert two.called and two.named and two.compared.by == "one"


def test_who_teaches_nobody_is_compared_with_the_shelfs_models_alone():
    taught = Look(
        {"one": 1.0, "one@kd": 9.0}, {"one": 1, "one@kd": 2}, {"acc": 0.9, "acc@kd": 0.8}, inherited={"kd": 1.0}
    )
    alone = shelf(taught, students=["kd"]).alone.looks[0]
    assert (alone.scores, alone.named, alone.like) == ({"one": 1.0}, {"one": 1}, {"acc": 0.9})


def test_a_suspect_that_is_unlike_the_shelf_is_told():
    known = shelf(look(1, acc=0.8), look(2, acc=0.9), look(3, acc=0.2, attack="badnets"))
    assert known.unlike(look(1, acc=0.99)) == [] == known.unlike(look(1))
    assert known.unlike(look(1, acc=0.69)) == ["acc is 0.69, and 0.8 to 0.9 on the shelf test"]
    assert known.unlike(look(1, acc=1.01))


def test_a_shelf_is_read_as_it_was_written(tmp_path):
    made = shelf(look(1.5, acc=0.5), look(2, attack="sig", seed=3), panel=["random"])
    (tmp_path / "shelf.json").write_text(json.dumps(made.record()))
    assert Shelf.read(tmp_path / "shelf.json") == made
    (tmp_path / "broken.json").write_text("{}")
    with pytest.raises(BadInput, match="broken.json is no shelf"):
        Shelf.read(tmp_path / "broken.json")
    with pytest.raises(NotFound, match="no shelf nowhere"):
        Shelf.read("nowhere")


@pytest.fixture
def suspect(trained, digits, tmp_path):
    dt.save(trained, tmp_path / "stranger.safetensors")
    return open_suspect(tmp_path / "stranger.safetensors", (digits.train, digits.test))


def known(suspect, count, *, score, **about):
    """A shelf of so many clean models like the suspect, all of whose scores are about this one."""
    like = looked(suspect, shown(suspect, 0), ["random"], 0, lambda line: None).look.like
    looks = [Look({"random": score + i / 1e6}, like=like, seed=i) for i in range(count)]
    return Shelf("test", tuple(looks), {"panel": ["random"], **about})


@pytest.mark.parametrize(
    ("count", "score", "verdict", "code", "words"),
    [
        (19, 9.0, "clean-looking", 0, "19 of 19 clean models of test stand out as far (p = 1), which does not mean"),
        (19, -9.0, "suspicious", 1, "none of 19 clean models of test stands out as far (p = 0.05)."),
        (5, -9.0, "inconclusive", 3, "so few cannot resolve a p below 0.17"),
    ],
)
def test_the_verdict_follows_from_p_and_from_what_the_shelf_can_resolve(suspect, count, score, verdict, code, words):
    said = audit(suspect, shelf=known(suspect, count, score=score))
    assert (said.verdict, said.code) == (verdict, code) and words in said.why
    assert str(said).startswith(f"{verdict}: {said.why}\nwithout a trigger: ACC ")
    assert said.record()["verdict"] == verdict and said.record()["of"] == count
    assert any(word in said.next[0] for word in {0: ("distill",), 1: ("purify",), 3: ("--shelf DIR",)}[code])


def test_a_model_that_is_unlike_the_shelf_or_has_none_is_not_cleared(suspect, monkeypatch):
    far = known(suspect, 19, score=9.0)
    far = Shelf("test", tuple(Look(one.scores, like={**one.like, "weights": 99.0}) for one in far.looks), far.about)
    said = audit(suspect, shelf=far)
    assert said.verdict == "inconclusive" and "weights is" in said.why and "99 on the shelf test" in said.why
    assert said.compared is None and "p" not in said.record()
    along = audit(suspect, panel=["l2_tac"])
    assert along.verdict == "inconclusive" and "confidence is" in along.why and along.shelf.name == "digits-wrn10-1"
    monkeypatch.setattr("distrust.auditing.audit.alike", lambda *_: None)
    none = audit(suspect, panel=["random"])
    assert none.verdict == "inconclusive" and none.why == "there are no known models like it to compare it with."


def test_a_trigger_that_moves_the_suspect_and_not_its_copy_makes_it_backdoored(digits, tmp_path):
    """A model that calls whatever is bright in one corner a 5, by a channel that no clean image needs."""
    poisoned = dt.attacks.badnets(digits.train, trigger="patch:white:3", target=5, rate=0.1, rng=rng("attack"))
    options = {"epochs": 4, "batch_size": 64, "augment": dt.Augment(flip=False, crop=1)}
    made = dt.fit(model("wrn10-1", digits.train, rng=rng("bad")), poisoned.images, rng=rng("bad"), **options)
    dt.save(made, tmp_path / "bad.safetensors")
    bad = open_suspect(tmp_path / "bad.safetensors", (digits.train, digits.test))
    panel = ["twins[steps=12,images=16,flip=false,crop=1,cutout=0,batch_size=32,reach=0.2]"]
    like = looked(bad, shown(bad, 0), ["random"], 0, lambda line: None).look.like
    clean = Shelf("test", tuple(Look({"twins": 0.1 + i / 1e3}, like=like) for i in range(19)), {"panel": panel})
    said = audit(bad, shelf=clean)
    assert (said.verdict, said.code, said.named) == ("backdoored", 1, (5, "5"))
    assert said.effect.asr > said.effect.base + 0.1 and said.found.target == 5
    assert "sends" in said.told_of_trigger and "class '5'" in said.told_of_trigger
    page = said.save(tmp_path / "out")
    assert sorted(p.name for p in page.parent.iterdir()) == [
        "audit.html", "audit.json", "found.json", "found.png", "found.safetensors",
    ]  # fmt: skip
    again = bad.measure(str(page.parent / "found.json"))
    assert again.asr == said.effect.asr, "what was written down is what was measured"


def test_out_of_time_is_inconclusive_and_says_what_to_type(suspect):
    said = audit(suspect, shelf=known(suspect, 19, score=9.0), panel=["random", QUICK], minutes=0)
    assert said.verdict == "inconclusive" and said.why == "no detector of the panel said anything."
    assert "Type --minutes 2." in said.skipped["random"] and QUICK in said.skipped


def test_nothing_is_cleared_by_a_part_of_the_panel(suspect):
    few = "twins[batch_size=9999]"
    said = audit(suspect, shelf=known(suspect, 19, score=9.0), panel=["random", few])
    assert said.verdict == "inconclusive" and said.why.startswith(
        "nothing is cleared before this: twins[batch_size=9999]"
    )
    found = audit(suspect, shelf=known(suspect, 19, score=-9.0), panel=["random", few])
    assert found.verdict == "suspicious", "what was found stays"


def test_trusted_models_in_a_folder_are_a_shelf(suspect, digits, tmp_path):
    folder = tmp_path / "trusted"
    folder.mkdir()
    with pytest.raises(BadInput, match="no weights lie in"):
        audit(suspect, shelf=folder)
    for i in range(2):
        dt.save(model("wrn10-1", digits.train, rng=rng("trusted", i)), folder / f"{i}.safetensors")
    told = []
    said = audit(suspect, shelf=folder, panel=["random"], tell=told.append)
    assert said.verdict == "inconclusive" and "acc is" in said.why, "they are untrained"
    assert [line for line in told if "which you trust" in line] == [
        f"{i}.safetensors, which you trust, {i + 1} of 2" for i in range(2)
    ]


def test_a_set_is_judged_by_its_twins_with_permuted_labels(digits):
    made = condensers.random(digits.train, images_per_class=2, rng=rng(0))
    said = audit(made, panel=[PROBE.format(",permutations=2")])
    assert said.verdict == "inconclusive" and "of 2 copies with permuted labels" in said.why
    assert said.kind == "synthetic" and said.compared.least == pytest.approx(1 / 3)
    none = audit(made, panel=[PROBE.format("")])
    assert none.verdict == "inconclusive" and "made no twins" in none.why


LESSON = "kd[epochs=1,batch_size=32,flip=false,crop=0]"


def test_students_are_judged_beside_those_of_the_shelf(suspect):
    """Scores of `random` are luck, so the shelf says who stands out: here the student, there the suspect."""
    found = looked(suspect, shown(suspect, 0), ["random"], 0, lambda line: None, students=[LESSON])
    assert [one.detector for one in found.findings] == ["random", "random@kd"] == [*found.look.scores]
    student = found.students["kd"].model
    assert any(a.ne(b).any() for a, b in zip(student.parameters(), suspect.model.parameters(), strict=True))
    assert found.look.like["acc@kd"] == pytest.approx(dt.measure(student, suspect.test).acc)
    scores = found.look.scores

    def among(own, his):
        looks = [Look({"random": own + i / 1e3, "random@kd": his + i / 1e3}, like=found.look.like) for i in range(19)]
        return Shelf("test", tuple(looks), {"panel": ["random"], "students": [LESSON]})

    his = audit(suspect, shelf=among(scores["random"], -9.0), students=["kd"])
    assert his.verdict == "suspicious" and "stands out as far as its student by kd (p = 0.05)" in his.why
    assert [step.split()[:3] for step in his.next] == [["distrust", "purify", "ibau"]], "who distils, inherits"
    assert his.compared.by == "random@kd" and his.named[0] == his.findings[1].target
    own = audit(suspect, shelf=among(-9.0, scores["random@kd"]), students=[LESSON])
    assert own.verdict == "suspicious" and "student" not in own.why and len(own.next) == 2
    assert audit(suspect, shelf=among(-9.0, 9.0)).compared.by == "random", "no student was asked for"


def test_students_that_a_shelf_does_not_know_or_that_nobody_can_teach_are_refused(suspect, digits, tmp_path):
    with pytest.raises(BadInput, match="test knows no students by kd; known: none. Give --shelf a folder"):
        audit(suspect, shelf=known(suspect, 19, score=9.0), students=["kd"])
    other = known(suspect, 19, score=9.0, students=[LESSON])
    with pytest.raises(BadInput, match=r"by kd\[epochs=2\]; known: kd\[epochs=1"):
        audit(suspect, shelf=other, students=["kd[epochs=2]"])
    made = condensers.random(digits.train, images_per_class=1, rng=rng(0))
    with pytest.raises(BadInput, match="only a classifier teaches students"):
        audit(made, students=["kd"])
    dt.save(model("convnet2-w4", digits.train, head=False), tmp_path / "encoder.safetensors")
    with pytest.raises(BadInput, match="only a classifier teaches students"):
        audit(tmp_path / "encoder.safetensors", (digits.train, digits.test), students=["kd"])


def test_the_trigger_of_a_student_is_put_on_the_student(suspect):
    panel = ["twins[steps=4,images=8,epochs=1,batch_size=32]"]
    found = looked(suspect, shown(suspect, 0), panel, 0, lambda line: None, students=[LESSON])
    looks = [Look({"twins": 9.0, "twins@kd": -9.0 + i / 1e3}, like=found.look.like) for i in range(19)]
    assert found.findings[0].scores != found.findings[1].scores, "the same draws, another model"
    said = audit(suspect, shelf=Shelf("test", tuple(looks), {"panel": panel, "students": [LESSON]}), students=["kd"])
    assert (
        said.found.name == "twins@kd"
        and said.effect.asr == dt.measure(found.students["kd"].model, suspect.test, said.found).asr
    )
    assert "in its student by kd, and" in said.told_of_trigger and "that student's own" in said.told_of_trigger


def test_without_time_no_student_is_taught_and_nobody_is_cleared(suspect):
    late = looked(suspect, shown(suspect, 0), ["random"], 0, lambda line: None, until=0.0, students=[LESSON])
    assert not late.findings and not late.students and set(late.skipped) == {"random", "a student by kd"}


def test_an_encoder_is_shown_to_decree(digits, tmp_path):
    dt.save(model("convnet2-w4", digits.train, head=False), tmp_path / "encoder.safetensors")
    given = (digits.train, digits.test)
    said = audit(tmp_path / "encoder.safetensors", given, panel=["decree[steps=2]"])
    assert (said.kind, said.verdict, said.named) == ("encoder", "inconclusive", None)
    few = Shelf("test", tuple(Look({"decree": 9.0 + i}) for i in range(19)), {"panel": ["decree[steps=2]"]})
    assert audit(tmp_path / "encoder.safetensors", given, shelf=few).verdict == "clean-looking"


def test_fewer_images_than_classes_judge_nothing(trained, digits, tmp_path):
    dt.save(trained, tmp_path / "stranger.safetensors")
    few = digits.train[torch.arange(6)]
    with pytest.raises(Skip, match="6 images are fewer than the 10 classes"):
        audit(tmp_path / "stranger.safetensors", (few, digits.test), panel=["random"])


def test_the_page_says_it_in_one_file_and_runs_nothing_of_a_stranger(suspect):
    bad = "<script>alert(1)</script>"
    told = known(suspect, 19, score=-9.0)
    told = Shelf(bad, told.looks, told.about)
    said = audit(suspect, shelf=told)
    page = said.files()["audit.html"].decode()
    assert bad not in page and "&lt;script&gt;alert(1)" in page
    assert "http" not in page.replace("http-equiv", "") and page.count("<script") == 1
    data = page.partition('id="audit">')[2].partition("</script>")[0]
    assert json.loads(data)["why"] == said.why


def test_the_trigger_shown_is_of_the_class_that_stands_out():
    one, two = Finding("one", 1.0, (0.0, 1.0), 1), Finding("two", 2.0, (2.0, 0.0), 0)
    compared = shelf(look(1), look(2), look(3)).compared(look(9))
    assert compared.by == "one" and _names(one, (one, two), compared) and not _names(two, (one, two), compared)
    assert _names(two, (one, two), None)
