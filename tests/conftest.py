"""Tiny things that many tests share. What a test could change is made anew for each test."""

import sys
import uuid

import fsspec
import pytest
import torch
from hypothesis import settings

from distrust import fit, images, model, rng
from distrust.data import Augment, ImageSet
from distrust.registry import registry

settings.register_profile("shared-machine", deadline=None)  # how long an example takes says nothing here
settings.load_profile("shared-machine")


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory):
    """No test writes to the user's cache; one thread each, because tests run side by side."""
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DISTRUST_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """Registers a method of this source, whose file has this name, for one test."""
    monkeypatch.setattr(registry, "_kinds", {kind: dict(known) for kind, known in registry._kinds.items()})
    monkeypatch.setattr(registry, "files", [])
    places = iter(range(100))

    def add(source, name="mine"):
        file = tmp_path / "plugins" / str(next(places)) / f"{name}.py"
        file.parent.mkdir(parents=True)
        file.write_text(source)
        monkeypatch.setitem(sys.modules, f"distrust_plugin_{name}", None)
        return registry.add(file)

    return add


@pytest.fixture(scope="session")
def s3():
    """A server on this machine that speaks S3; what it speaks to stands in the environment, as a user's would."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    given = dict.fromkeys(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), "testing")
    given |= {"AWS_ENDPOINT_URL_S3": "http://{}:{}".format(*server.get_host_and_port())}
    given |= {"AWS_DEFAULT_REGION": "us-east-1", "AWS_MAX_ATTEMPTS": "1"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in given.items():
            patch.setenv(name, value)
        yield given["AWS_ENDPOINT_URL_S3"]
    server.stop()


@pytest.fixture
def bucket(s3):
    """A new bucket there."""
    import s3fs

    name = f"bucket-{uuid.uuid4().hex}"
    s3fs.S3FileSystem(use_listings_cache=False).mkdir(name)
    return name


@pytest.fixture(params=["directory", "memory", "s3"])
def url(request, tmp_path):
    """An address at which there is no store yet, in each kind of place."""
    if request.param == "directory":
        yield str(tmp_path / "deep" / "store")
    elif request.param == "memory":
        yield f"memory://{uuid.uuid4().hex}"
        fsspec.filesystem("memory").store.clear()
    else:
        yield f"s3://{request.getfixturevalue('bucket')}/deep/store"


@pytest.fixture
def tiny() -> ImageSet:
    """80 noise images 3×8×8 of 4 classes."""
    x = torch.randint(256, (80, 3, 8, 8), generator=rng("tiny"), dtype=torch.uint8)
    return ImageSet(x, torch.arange(80) % 4, ("ant", "bee", "cat", "dog"), name="tiny")


@pytest.fixture
def net(tiny):
    """An untrained WRN-10-1 for `tiny`, in train mode but for one submodule, so that a changed mode shows."""
    built = model("wrn10-1", tiny, rng=rng("net")).train()
    built.block2.eval()
    return built


@pytest.fixture
def encoder(tiny):
    """The same without its head."""
    built = model("wrn10-1", tiny, head=False, rng=rng("bare")).train()
    built.block2.eval()
    return built


@pytest.fixture(scope="session")
def digits():
    """scikit-learn's digits at 16×16: 1347 for training, 450 for the test."""
    return images("digits")


@pytest.fixture(scope="session")
def trained(digits):
    """A WRN-10-1 that reads clean digits, about 97 % right. Shared: never change it."""
    options = {"precision": "fp32", "memory_format": "contiguous", "augment": Augment(flip=False, crop=1)}
    start = model("wrn10-1", digits.train, rng=rng("trained"))
    return fit(start, digits.train, rng=rng("order"), epochs=4, batch_size=64, **options)
