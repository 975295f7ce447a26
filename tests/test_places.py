"""Stores at a URL keep what stores in a folder promise, on a server that speaks S3; what is wrong with one is said."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import urllib.request
import warnings
from pathlib import Path

import boto3
import pytest
import s3fs
from tests.cli.said import STUDY, Said
from tests.study_fixture import plan
from tests.test_durable import FAULTS

from distrust.cli import app
from distrust.errors import Notice, StoreError
from distrust.study import Store, run, score_cells
from distrust.study.records import Damaged

CARRY = {"attack": "badnets", "distiller": "kd"}


def numbers(made, store, outcome):
    return [{k: v for k, v in c.items() if k not in ("seconds", "env")} for c in score_cells(made, store, outcome)]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A plan, the folder of its store, and its cells."""
    made, folder = plan(**CARRY), tmp_path_factory.mktemp("finished")
    return made, folder, numbers(made, Store(folder), run(made, Store(folder)))


@pytest.fixture
def fresh():
    """Clients are made anew for this test, from what is in the environment by then."""
    s3fs.S3FileSystem.clear_instance_cache()
    yield
    s3fs.S3FileSystem.clear_instance_cache()


def test_a_study_on_s3_is_stopped_and_goes_on_and_gives_the_same_cells(finished, bucket):
    made, _, cells = finished
    store, done = Store(f"s3://{bucket}/runs"), []

    def stop(event, stage, record):
        done.append(event == "done")
        if sum(done) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(made, store, tell=stop)
    assert len(store.keys()) == 3 and not store.place.names(".lease-")
    outcome = run(made, store)
    assert (outcome.ran, outcome.cached) == (len(made.stages) - 3, 3)
    assert numbers(made, store, outcome) == cells
    assert store.status(verify=True)["damaged"] == {} and run(made, store).ran == 0


def flip(draw, data, others):
    at = draw.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << draw.randrange(8)]) + data[at + 1 :]


DAMAGES = (
    flip,
    lambda draw, data, others: data[: draw.randrange(len(data))],
    lambda draw, data, others: data + draw.choice([b"\0", b"{}"]),
    lambda draw, data, others: draw.choice([one for one in others if one != data]),
    lambda draw, data, others: draw.choice([b"{}", b"null", b'{"state": "done"}', b"[1]"]),
    lambda draw, data, others: None,
)


@pytest.mark.parametrize("seed", range(max(FAULTS // 40, 1)))
def test_of_many_damages_at_a_url_all_are_noticed_and_none_is_used(finished, url, seed):
    made, whole, cells = finished
    store, draw = Store(url), random.Random(seed)
    files = {str(path.relative_to(whole)): path.read_bytes() for path in whole.rglob("*") if path.is_file()}
    keys = draw.sample(sorted(made.stages), 6)
    for key, damage in zip(keys, DAMAGES, strict=True):
        names = [name for name in files if name.startswith(key) and (damage is not DAMAGES[-1] or "stage" not in name)]
        name = draw.choice(sorted(names))
        files[name] = damage(draw, files[name], [data for other, data in files.items() if other != name])
    for name, data in files.items():
        store.place.make(name.partition("/")[0] if "/" in name else "")
        if data is not None:
            store.place.put(name, data)
    assert sorted(store.status(verify=True)["damaged"]) == sorted(keys)
    for key in keys:
        with pytest.raises(Damaged):
            store.load(key)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", Notice)
        outcome = run(made, store)
    assert numbers(made, store, outcome) == cells
    aside = {name.split("-")[1] for name in store.status()["set_aside"]}
    assert aside <= set(keys) and len(said) == len(aside) == outcome.ran and outcome.failed == 0
    assert set(store.status(verify=True)["damaged"]) == set(keys) - aside, "of what nobody read, nothing was used"


def test_many_records_are_read_at_once_as_each_by_itself(finished, url, monkeypatch):
    made, whole, _ = finished
    store = Store(url)
    for key in list(made.stages)[:4]:
        store.save(key, *Store(whole).load(key))
    store.place.put(f"{key}/stage.json", b"{}")
    monkeypatch.setattr("distrust.study.store.AT_ONCE", 3)
    found = dict(store.records([*made.stages]))
    assert list(found) == list(made.stages) and isinstance(found.pop(key), Damaged)
    assert found == {key: store.record(key) for key in found} and sum(map(bool, found.values())) == 3
    first, second = list(made.stages)[:2]
    (facts, *_) = store.record(first)["files"].values()
    store.place.put(f"{first}/{facts['file']}", b"something else")
    asked = dict(store.records([first, second], whole={first}))
    assert isinstance(asked[first], Damaged) and asked[second] == store.record(second)
    assert dict(store.records([first]))[first] == store.record(first), "of others no file is read"


def test_a_server_that_goes_away_stops_the_run_and_what_was_finished_stays(finished, fresh, monkeypatch):
    from moto.server import ThreadedMotoServer

    def serve(port=0):
        server = ThreadedMotoServer("127.0.0.1", port, verbose=False)
        server.start()
        return server, server.get_host_and_port()[1]

    server, port = serve()
    given = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_DEFAULT_REGION": "us-east-1"}
    given |= {"AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{port}", "AWS_MAX_ATTEMPTS": "1"}
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem(use_listings_cache=False).mkdir("goes-away")
    made, store, done = finished[0], Store("s3://goes-away/runs"), []

    def stop(event, stage, record):
        if event == "done":
            done.append(stage.key)
            if len(done) == 3:
                server.stop()

    try:
        with pytest.raises(StoreError, match="^store s3://goes-away/runs cannot be read .*onnect.*finished is lost"):
            run(made, store, tell=stop)
    finally:
        server.stop()
    server, _ = serve(port)
    try:
        outcome = run(made, store)
        assert outcome.cached == 3 and numbers(made, store, outcome) == finished[2]
        assert not store.place.names(".lease-")
    finally:
        server.stop()


# what the command line says


@pytest.fixture
def distrust(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("trial.toml").write_text(STUDY)

    def call(*words):
        capsys.readouterr()
        code = app([*map(str, words)], standalone_mode=False)
        return Said(code, *capsys.readouterr())

    return call


def refused(said, *parts):
    """One sentence on stderr, nothing on stdout, exit code 2."""
    assert said.code == 2 and said.out == "" and said.err.startswith("StoreError: store ")
    assert said.err.count("\n") == 1 and all(part in said.err for part in parts), said.err


@pytest.mark.parametrize("words", ["status", "run trial.toml --quiet", "why abc", "run trial.toml --dry-run --quiet"])
def test_a_place_that_cannot_be_is_refused_in_a_sentence(distrust, s3, words):
    for url, part in (
        ("s3://", "names no bucket. Give one: s3://BUCKET/FOLDER"),
        ("s3:///runs", "names no bucket. Give one: s3://BUCKET/FOLDER"),
        ("nothing://here", "Give a directory or an fsspec URL"),
        ("s3://no-such-bucket/runs", "bucket does not exist). See that its address is right"),
        ("gcs://bucket/runs", "Type: pip install gcsfs"),
    ):
        refused(distrust(*words.split(), "--store", url), url, part)


def test_a_package_that_is_missing_is_named():
    code = "import sys; sys.modules['s3fs'] = None; from distrust.study import Store; Store('s3://bucket/runs')"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    last = said.stderr.splitlines()[-1]
    assert last.startswith("distrust.errors.StoreError: store 's3://bucket/runs' cannot be opened")
    assert last.endswith("Type: pip install s3fs")


@pytest.fixture
def strict(s3, bucket, fresh):
    """The server asks who it is: keys of somebody who may read a bucket that has a store, and no more."""
    store = Store(f"s3://{bucket}/runs")
    store.save("a" * 32, ROW)
    iam = boto3.client("iam", endpoint_url=s3)
    name = bucket[-12:]
    iam.create_user(UserName=name)
    may = {"Effect": "Allow", "Action": ["s3:GetObject", "s3:ListBucket"], "Resource": "*"}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [may]})
    iam.put_user_policy(UserName=name, PolicyName="reads", PolicyDocument=policy)
    keys = iam.create_access_key(UserName=name)["AccessKey"]

    def asks(after):
        form = urllib.request.Request(f"{s3}/moto-api/reset-auth", after, {"Content-Type": "text/plain"})
        urllib.request.urlopen(form).close()

    s3fs.S3FileSystem.clear_instance_cache()
    asks(b"0")
    yield f"s3://{bucket}/runs", keys["AccessKeyId"], keys["SecretAccessKey"]
    asks(b"inf")


ROW = {
    "state": "done", "kind": "teacher", "label": "a teacher", "recipe": {"method": "teacher", "options": {}},
    "parents": [], "flags": [], "seconds": 0.5,
}  # fmt: skip


def test_wrong_credentials_and_a_place_that_may_only_be_read_are_said(distrust, strict, monkeypatch):
    url, key, secret = strict
    for words in ("status", "run trial.toml --quiet"):
        refused(distrust(*words.split(), "--store", url), "cannot be read", "Give credentials in your environment")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)
    s3fs.S3FileSystem.clear_instance_cache()
    said = distrust("status", "--store", url)
    assert said.code == 0 and "1 stages" in said.out
    said = distrust("run", "trial.toml", "--quiet", "--store", url)
    refused(said, "cannot be written", "Denied", "still there; give credentials", "--store")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "nowhere")
    s3fs.S3FileSystem.clear_instance_cache()
    refused(distrust("status", "--store", url), "cannot be read", "credentials", "Give credentials in your environment")
