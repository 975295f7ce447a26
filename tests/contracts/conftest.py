import pytest
import torch


@pytest.fixture(autouse=True)
def leaves_no_trace():
    """After every contract test the global random numbers and the grad mode are as before."""
    before = torch.get_rng_state()
    yield
    assert torch.equal(torch.get_rng_state(), before), "the global random state moved"
    assert torch.is_grad_enabled(), "the grad mode changed"
