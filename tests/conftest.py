"""What all tests share."""

import os
import sys

# The tests' tensors are small: more threads only wait for each other, most of all where processors are shared.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

from unsmear import cli


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


@pytest.fixture
def unsmear_here(monkeypatch, capsys):
    """Runs the command in this process, which saves the import of PyTorch: exit code, stdout, stderr."""
    monkeypatch.setattr(cli.signal, "signal", lambda *_: None)

    def command(*arguments):
        monkeypatch.setattr(sys, "argv", ["unsmear", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        out, err = capsys.readouterr()
        return caught.value.code or 0, out, err

    return command
