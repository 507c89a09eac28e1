"""What all tests share."""

import os

# The tests' tensors are small: more threads only wait for each other, most of all where processors are shared.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _environment():
    """The command line sets variables for its own process, which here is that of all tests."""
    before = dict(os.environ)
    yield
    for name in os.environ.keys() - before.keys():
        del os.environ[name]
    os.environ.update(before)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty folder that relative names are of."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
