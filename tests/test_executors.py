"""Where stages are carried out on this machine."""

from __future__ import annotations

import os
import time

import pytest
import torch

from distrust.study.executors import automatic_jobs, cards, executor


@pytest.fixture
def gpus(monkeypatch):
    """A machine with four GPUs, as far as anybody counts them."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def seen():
    time.sleep(2)  # so that no process takes two
    return os.environ.get("CUDA_VISIBLE_DEVICES")


@pytest.mark.slow
def test_each_process_sees_a_gpu_of_its_own(gpus, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,GPU-7f2")
    with executor(3, "cuda", timed=True) as pool:
        found = [pool.submit(seen) for _ in range(3)]
    assert sorted(one.result() for one in found) in (["5", "5", "GPU-7f2"], ["5", "GPU-7f2", "GPU-7f2"])
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "5,GPU-7f2"


def test_there_are_as_many_processes_as_gpus(gpus):
    assert automatic_jobs("cuda") == 4 and cards("cuda") == ["0", "1", "2", "3"]


@pytest.mark.parametrize("device", ["cpu", "cuda:1", "mps", None])
def test_other_devices_are_not_shared_out(gpus, device):
    assert cards(device) == []
    assert device != "cuda:1" or automatic_jobs(device) == 1


def test_a_machine_without_a_gpu_has_one_process(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert automatic_jobs("cuda") == 1 and cards("cuda") == []
