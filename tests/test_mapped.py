"""Images on disk: what is chosen, changed and joined without a copy is what an ordinary tensor would hold."""

import copy
import pickle

import pytest
import torch
from safetensors.torch import save

from distrust.data import Augment, ImageSet, mapped, roles
from distrust.data.images import changed
from distrust.data.mapped import Mapped, collected, rows_within, tensor_of
from distrust.errors import BadInput, StoreError
from distrust.methods.attacks import _poison
from distrust.methods.attacks._teacher import both
from distrust.models import Normalize
from distrust.seeds import rng
from distrust.study.codecs import _change, _changed, pack

N, ITEM = 40, 2 * 6 * 5


@pytest.fixture(autouse=True)
def small(monkeypatch, tmp_path):
    """Ten images are many here."""
    monkeypatch.setattr(mapped, "LIMIT", 10 * ITEM)
    monkeypatch.setenv("DISTRUST_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def taken(monkeypatch):
    """How many rows each reading took."""
    counts, real = [], Mapped._taken
    monkeypatch.setattr(Mapped, "_taken", lambda self, rows: counts.append(rows.numel()) or real(self, rows))
    return counts


def plain() -> torch.Tensor:
    return torch.randint(256, (N, 2, 6, 5), generator=rng("mapped"), dtype=torch.uint8)


def on_disk() -> Mapped:
    array = plain().numpy()
    array.flags.writeable = False  # as a file is mapped
    x = tensor_of(array)
    assert isinstance(x, Mapped)
    return x


def image_set(x: torch.Tensor) -> ImageSet:
    return ImageSet(x, torch.arange(len(x)) % 4, tuple("abcd"), "tiny")


def same(got: torch.Tensor, expected: torch.Tensor) -> None:
    assert got.shape == expected.shape and got.dtype == expected.dtype
    got = got.whole() if isinstance(got, Mapped) else got
    assert torch.equal(got, expected) and (got.stride() == expected.stride() or not len(got))


MASK = torch.arange(N) % 3 == 0
INDICES = [
    slice(3, 9), slice(None), slice(None, None, 7), 5, -1, [2, 5, 5], MASK, MASK.numpy(), torch.tensor([7, -1]),
    torch.arange(N).flip(0), torch.tensor(4), torch.tensor([[1, 2, 3], [3, 2, 1]]), (slice(2, 4), 1), (MASK, 0, 2),
    (5, 1), (slice(None), 1, slice(-3, None)), (torch.tensor([[1, 2]]), 0), (..., 2),
    (torch.tensor([1, 2]), torch.tensor([0, 1])),
    torch.zeros(0, dtype=torch.int64),
]  # fmt: skip


@pytest.mark.parametrize("index", INDICES, ids=str)
def test_an_index_takes_what_it_takes_of_a_tensor(index):
    same(on_disk()[index].clone(), plain()[index].clone(memory_format=torch.contiguous_format))


def test_few_rows_are_a_tensor_and_many_stay_on_disk(taken):
    x = on_disk()
    assert type(x[:10]) is torch.Tensor and taken == [10]
    many = x[MASK][torch.arange(13)]
    assert isinstance(many, Mapped) and isinstance(x.clone(), Mapped) and isinstance(copy.deepcopy(x), Mapped)
    assert (x.shape, x.dtype, x.ndim, len(x), x.numel()) == ((N, 2, 6, 5), torch.uint8, 4, N, N * ITEM)
    assert x.device == torch.device("cpu") and isinstance(x, torch.Tensor) and "Mapped([40, 2, 6, 5]" in repr(x)
    assert taken == [10], "nothing else was read"


VALUES = [7, *(v.byte() for v in (torch.tensor(7), torch.arange(5), torch.arange(2 * 6 * 5).view(2, 6, 5)))]


@pytest.mark.parametrize("value", VALUES, ids=["number", "scalar", "row", "image"])
@pytest.mark.parametrize("index", [i for i in INDICES if not isinstance(i, tuple)], ids=str)
def test_rows_are_replaced_as_in_a_tensor_and_nowhere_else(index, value):
    before, x, expected = on_disk(), on_disk(), plain()
    shown = x[5:30]
    other = x.clone()
    x[index] = value
    expected[index] = value
    same(x, expected)
    same(other, plain())
    same(shown, plain()[5:30])
    same(before, plain())


def test_replaced_rows_are_replaced_again_chosen_and_joined(taken):
    x, expected = on_disk(), plain()
    new = torch.full((13, 2, 6, 5), 3, dtype=torch.uint8)
    for tensor in (x, expected):
        tensor[20:33] = new
        tensor[30] = 9
    new.zero_()  # as of a tensor, the values were copied
    x[:15], expected[:15] = on_disk()[25:], plain()[25:]
    assert taken == []
    same(x, expected)
    same(torch.cat([x, on_disk()[:2], x[10:35]]), torch.cat([expected, plain()[:2], expected[10:35]]))
    assert isinstance(torch.cat([x, x]), Mapped) and isinstance(torch.cat([plain(), x], 0), Mapped)
    same(torch.cat([x, x], 1), torch.cat([expected, expected], 1))


def test_parts_are_read_when_they_are_used(taken):
    parts = on_disk().split(16)
    assert [len(part) for part in parts] == [16, 16, 8] and taken == []
    assert torch.equal(parts[1].float(), plain()[16:32].float()) and taken == [16]
    for got, expected in zip(on_disk().split([30, 10]), plain().split([30, 10]), strict=True):
        same(got, expected)
    same(on_disk().split(3, 3)[1], plain().split(3, 3)[1])


@pytest.mark.parametrize(
    "use",
    [
        lambda x: x / 255, lambda x: x.float().mean(), lambda x: x == plain(), lambda x: plain() != x,
        lambda x: x[:, 0] + 1, lambda x: torch.stack([x, x]), lambda x: x.permute(0, 2, 3, 1), lambda x: x.unique(),
        lambda x: x.flatten(1).any(1),
        lambda x: torch.from_numpy(x.numpy()), lambda x: torch.tensor(x.tolist()), lambda x: list(x)[3],
        lambda x: x.contiguous(memory_format=torch.channels_last), lambda x: torch.empty(x.shape).copy_(x),
        lambda x: pickle.loads(pickle.dumps(x)),
    ],
)  # fmt: skip
def test_all_else_is_done_on_a_copy(use):
    got, expected = use(on_disk()), use(plain())
    assert type(got) is torch.Tensor
    same(got, expected)
    assert torch.equal(on_disk(), plain())


@pytest.mark.parametrize("index", [(slice(None, None, 3), slice(None), slice(-3, None)), (MASK, 1), (7, 0, 2)], ids=str)
def test_pixels_of_rows_are_changed_as_in_a_tensor(index):
    x, expected = on_disk(), plain()
    x[index] = expected[index] = 255
    same(x, expected)
    x[index] += 3
    expected[index] += 3
    same(x, expected)


@pytest.mark.parametrize(
    "change",
    [lambda x: x.zero_(), lambda x: x.add_(1), lambda x: x.__setitem__((..., 1), 3), lambda x: x.mul_(2), save],
)
def test_what_cannot_be_done_is_refused_and_not_lost(change):
    with pytest.raises(BadInput, match=r"x\.whole\(\)"):
        change({"x": on_disk()} if change is save else on_disk())


def test_a_move_to_an_accelerator_is_whole_up_to_a_limit_and_by_batches_above_it(monkeypatch):
    whole = on_disk().to("meta")  # a device that every machine has
    assert type(whole) is torch.Tensor and whole.device.type == "meta"
    monkeypatch.setattr(mapped, "RESIDENT", 20 * ITEM)
    moved = on_disk().to("meta")
    assert isinstance(moved, Mapped) and moved.device.type == "meta" and moved[:3].device.type == "meta"
    same(moved.cpu(), plain())


# --- sets --------------------------------------------------------------------------------------------------


def test_batches_are_bit_for_bit_those_of_a_tensor():
    for augment in (Augment(), Augment(flip=False, crop=0)):
        pairs = zip(
            image_set(on_disk()).batches(8, rng("b"), augment), image_set(plain()).batches(8, rng("b"), augment),
            strict=True,
        )  # fmt: skip
        for (x, y), (expected, labels) in pairs:
            same(x, expected)
            assert torch.equal(y, labels)


def test_roles_and_poisons_copy_no_image_but_those_that_change(taken):
    cut = roles(image_set(on_disk()), clean=0.1, validation=0.1)
    assert taken == [4, 4] and isinstance(cut.train.x, Mapped)
    expected = roles(image_set(plain()), clean=0.1, validation=0.1)
    options = {"trigger": "patch:white:2", "target": 0, "rate": 0.25, "stamp": "before"}
    poisoned, _ = _poison.plant("badnets", cut.train, **options, rng=rng("p"))
    assert sum(taken) == 8 + 8 and isinstance(poisoned.x, Mapped), "a quarter of 32 was read"
    ordinary, _ = _poison.plant("badnets", expected.train, **options, rng=rng("p"))
    same(poisoned.x, ordinary.x)
    same(cut.train.x, expected.train.x)
    same(both(cut.train, poisoned).x, both(expected.train, ordinary).x)


@pytest.mark.parametrize("chunk", [1, 3 * ITEM, 2**24])
def test_a_change_is_written_down_and_made_again(monkeypatch, chunk):
    monkeypatch.setattr("distrust.data.images.CHUNK", chunk)
    before, after = image_set(on_disk()), image_set(on_disk())
    after.x[torch.tensor([3, 17, 39])] = 1
    after = after[torch.arange(N).flip(0)]
    assert changed(before, after).nonzero().flatten().tolist() == [0, 22, 36]
    tensors = _change(before, after)
    assert tensors["x"].shape[0] == 3 and len(pack(tensors)) < 20 * ITEM
    again = _changed(before, tensors, ("blend",))
    assert isinstance(again.x, Mapped) and again.taint == ("blend",)
    same(again.x, after.x.whole())


@pytest.mark.parametrize("chunk", [1, 7 * ITEM, 2**24])
def test_stamping_in_parts_stamps_the_same(monkeypatch, chunk):
    expected, _ = _poison.plant(
        "blended", image_set(plain()), trigger="sig", target=1, rate=0.5, stamp="before", rng=None
    )
    monkeypatch.setattr(_poison, "CHUNK", chunk)
    got, _ = _poison.plant("blended", image_set(plain()), trigger="sig", target=1, rate=0.5, stamp="before", rng=None)
    same(got.x, expected.x)


def test_statistics_are_those_of_a_sum_in_float64(monkeypatch):
    x = plain()
    x[:, 1] //= 7
    for chunk in (1, 2**24):
        monkeypatch.setattr("distrust.models.normalize.CHUNK", chunk)
        found = Normalize.of(image_set(x))
        exact = x.float().div(255).double()
        mean = exact.mean((0, 2, 3))
        assert torch.equal(found.mean.flatten(), mean.float())
        assert torch.equal(found.std.flatten(), (exact.square().mean((0, 2, 3)) - mean.square()).sqrt().float())


# --- files of their own ------------------------------------------------------------------------------------


def test_what_is_made_in_parts_goes_into_a_file_when_it_is_much(tmp_path):
    few = collected(plain()[:6].split(4))
    assert type(few) is torch.Tensor and torch.equal(few, plain()[:6])
    much = collected(plain().split(4))
    assert isinstance(much, Mapped)
    same(much, plain())
    assert list((tmp_path / "cache").iterdir()) == [], "a file without a name goes with the last who uses it"
    floats = collected(plain().double().float().split(9))
    same(floats, plain().float())


def test_a_full_disk_is_one_clear_error(monkeypatch):
    class Full:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

        def write(self, data):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(mapped, "_scratch", Full)
    with pytest.raises(StoreError, match="No space left on device"):
        collected(plain().split(4))


def test_rows_within_a_size():
    assert rows_within(plain(), 5 * ITEM + 1) == 5 and rows_within(plain().float(), 8 * ITEM) == 2
    assert rows_within(plain(), 0) == 1 and rows_within(torch.zeros(4, 0, 3), 9) == 9
