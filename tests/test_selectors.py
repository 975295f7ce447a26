"""Selectors: what is written reads back, lists are axes, and a mistake is found where it is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distrust.errors import BadInput
from distrust.selectors import Selector, Tune, divided, parse, parse_one

names = st.from_regex(r"[a-z][a-z0-9_:./-]{0,12}", fullmatch=True)
plain = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
values = st.recursive(plain, lambda inner: st.lists(inner, min_size=1, max_size=3), max_leaves=5)
tunes = st.lists(values, min_size=1, max_size=3).map(lambda found: Tune(tuple(found)))
options = st.dictionaries(st.from_regex(r"[a-z_][a-z0-9_]{0,8}", fullmatch=True), values | tunes, max_size=4)
selectors = st.builds(Selector, names, options)


@given(selectors)
def test_a_selector_reads_back_from_its_text(selector):
    assert repr(parse(selector.text)) == repr([selector])  # repr, because True == 1 == 1.0
    assert parse_one(selector.text).text == selector.text


@given(st.text('ab1.[]=,"() ', max_size=20) | st.text(max_size=20) | selectors.map(lambda s: s.text[:-1]))
def test_any_text_is_a_selector_or_a_clear_mistake(text):
    try:
        for selector in parse(text):
            assert repr(parse(selector.text)) == repr([selector])
    except BadInput as error:
        assert str(error).startswith(f"selector {text!r}: ")


@pytest.mark.parametrize(
    "text, name, given",
    [
        ("nad", "nad", {}),
        ("nad[]", "nad", {}),
        ("nad[beta=0]", "nad", {"beta": 0}),
        (" nad [ beta = 0 , lr = 0.01 ] ", "nad", {"beta": 0, "lr": 0.01}),
        (
            "a[x=1e-3,y=-2,z=true,w=null,v=after]",
            "a",
            {"x": 0.001, "y": -2, "z": True, "w": None, "v": "after"},
        ),
        ('a[x="1",y="a,b]",z=True]', "a", {"x": "1", "y": "a,b]", "z": "True"}),
        ("badnets[trigger=patch:white:3[inset=1]]", "badnets", {"trigger": "patch:white:3[inset=1]"}),
        (
            "badnets[trigger=patch[size=3,inset=1],rate=0.1]",
            "badnets",
            {"trigger": "patch[size=3,inset=1]", "rate": 0.1},
        ),
        ("patch:white:3", "patch:white:3", {}),
        ("nad[beta=[[500,1000,1000]]]", "nad", {"beta": [500, 1000, 1000]}),
        ("nad[layers=[[block1,block2]]]", "nad", {"layers": ["block1", "block2"]}),
        ("nad[lr=tune(0.1,0.01)]", "nad", {"lr": Tune((0.1, 0.01))}),
        ("nad[beta=tune(0,[5,10,10])]", "nad", {"beta": Tune((0, [5, 10, 10]))}),
    ],
)
def test_one_selector_is_read_as_written(text, name, given):
    assert repr(parse(text)) == repr([Selector(name, given)])


def test_lists_are_axes_and_give_their_product_in_order():
    found = parse("badnets[rate=[0.01,0.1],inset=2,stamp=[before,after]]")
    assert [s.text for s in found] == [
        "badnets[rate=0.01,inset=2,stamp=before]",
        "badnets[rate=0.01,inset=2,stamp=after]",
        "badnets[rate=0.1,inset=2,stamp=before]",
        "badnets[rate=0.1,inset=2,stamp=after]",
    ]
    assert [s.options["beta"] for s in parse("nad[beta=[0,[500,1000,1000]]]")] == [0, [500, 1000, 1000]]
    triggers = parse("badnets[trigger=[patch:white:3[inset=1],sig]]")
    assert [s.options["trigger"] for s in triggers] == ["patch:white:3[inset=1]", "sig"]


def test_tuned_options_are_listed_and_fixed_by_choice():
    selector = parse_one("nad[beta=0,lr=tune(0.1,0.01)]")
    assert selector.tuned == {"lr": (0.1, 0.01)}
    chosen = selector.fixed(lr=0.01)
    assert chosen.text == "nad[beta=0,lr=0.01]" and not chosen.tuned
    assert selector.text == "nad[beta=0,lr=tune(0.1,0.01)]", "the selector itself is unchanged"


@pytest.mark.parametrize(
    "text, wanted",
    [
        ("", "a name at character 1"),
        ("[rate=1]", "a name at character 1"),
        ("nad[beta", "option=value at character 9"),
        ("nad[beta=", "a value at character 10"),
        ("nad[beta=,lr=1]", "a value at character 10"),
        ("nad[beta=0", "',' or ']' at character 11"),
        ("nad[=0]", "option=value at character 5"),
        ("nad[beta=0]x", "the end at character 12"),
        ("nad[beta=[]]", "at least one value at character 12"),
        ("nad[beta=[1,2", "',' or ']' at character 14"),
        ("nad[lr=tune(1,2]", "',' or ')' at character 16"),
        ('nad[x="a]', 'a closing " at character 7'),
        ('nad[x="a"b]', "',' or ']' at character 10"),
    ],
)
def test_a_mistake_is_found_where_it_is(text, wanted):
    with pytest.raises(BadInput) as caught:
        parse(text)
    advice = f"selector {text!r}: expected {wanted}. Write name or name[option=value,option=value]."
    quoted = wanted.startswith(("option=value", "the end"))
    assert str(caught.value) == advice + (f' A path with a bracket stands in quotes: "{text}".' if quoted else "")


def test_an_option_is_given_once():
    with pytest.raises(BadInput, match="option 'lr' is given twice"):
        parse("nad[lr=1,lr=2]")


def test_where_one_is_wanted_an_axis_is_refused():
    with pytest.raises(BadInput, match=r"'badnets\[rate=\[0,1\]\]' stands for 2 selectors; one is wanted here"):
        parse_one("badnets[rate=[0,1]]")


@pytest.mark.parametrize(
    "text, name, parts",
    [
        ('"data[v1]"', '"data[v1]"', ["data[v1]"]),
        ('"data[v1]"[size=8]', '"data[v1]"', ["data[v1]"]),
        ('"a>b">c', '"a>b">c', ["a>b", "c"]),
        ('c > "a[1]/b"', 'c > "a[1]/b"', ["c", "a[1]/b"]),
        ("plain>other", "plain>other", ["plain", "other"]),
        ('" spaced "', '" spaced "', ["spaced"]),
    ],
)
def test_a_path_in_quotes_may_hold_every_sign(text, name, parts):
    (selector,) = parse(text)
    assert selector.name == name and divided(name, ">") == parts
    assert repr(parse(selector.text)) == repr([selector])


@pytest.mark.parametrize("text", ["data[v1]", "a[b]c", "x[1]/y[2]", "blend:a[1].png", "net[1].py:make"])
def test_the_quotes_that_a_mistake_advises_are_right(text):
    with pytest.raises(BadInput) as caught:
        parse(text)
    advised = str(caught.value).partition("quotes: ")[2].removesuffix(".")
    assert divided(parse_one(advised).name) == [text]
    assert divided(parse_one(advised).name, ":") == (["blend", "a[1].png"] if "blend" in text else [text])


def test_a_quote_that_stays_open_is_found():
    with pytest.raises(BadInput, match='expected a closing " at character 2'):
        parse('x"a')
