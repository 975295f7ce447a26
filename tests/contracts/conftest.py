"""The products that methods are given, by the names that their signatures have for them."""

import pytest
import torch

from distrust import rng
from distrust.data import ImageSet
from distrust.methods import condensers
from distrust.registry import Method

from . import PRODUCTS, SUSPECTS, quick


@pytest.fixture(autouse=True)
def leaves_no_trace():
    """After every contract test the global random numbers and the grad mode are as before."""
    before = torch.get_rng_state()
    yield
    assert torch.equal(torch.get_rng_state(), before), "the global random state moved"
    assert torch.is_grad_enabled(), "the grad mode changed"


@pytest.fixture
def small(tiny):
    """A synthetic set: two images of every class, which know how networks are trained on them."""
    return condensers.random(tiny, images_per_class=2, rng=rng(0))


@pytest.fixture
def signs():
    """A downstream set: 12 smooth images 3×8×8 of 3 classes, one colour each."""
    x = torch.randint(40, (12, 3, 8, 8), generator=rng("signs"), dtype=torch.uint8)
    y = torch.arange(12) % 3
    x[torch.arange(12), y] += 200
    return ImageSet(x, y, ("stop", "go", "yield"), name="signs")


@pytest.fixture
def references(signs):
    """Its images of class 2."""
    return signs[signs.y == 2]


@pytest.fixture
def products(request):
    """Method → its products by name, each made anew for a test but the same within it."""

    def products(method: Method) -> dict:
        suspect = {"suspect": SUSPECTS[method.mark.on]} if "suspect" in method.inputs else {}
        named = PRODUCTS | suspect
        return {name: request.getfixturevalue(named[name]) for name in method.inputs}

    return products


@pytest.fixture
def call(products):
    """Run a method on its products, with quick options; products and options may be given by name."""

    def call(method: Method, /, rng: torch.Generator | None = None, **given):
        inputs = products(method)
        inputs |= {name: given.pop(name) for name in method.inputs if name in given}
        return method.made(quick(method) | given)(*inputs.values(), rng=rng)

    return call
