"""Fixtures for all tests."""

import sys
from pathlib import Path

import pytest
import torch

from utils import console, launch

sys.path.insert(0, str(Path(__file__).parent))

import miniature
import noise

# Autograd prepares itself at a process's first backward pass. After some modules of PyTorch are loaded that starts
# threads, and then nothing forked may compute gradients (tests/interrupted.py trains in forks): so do it here, first.
torch.zeros(1, requires_grad=True).sum().backward()


@pytest.fixture(autouse=True)
def fresh_start(monkeypatch):
    """Start every test from the same random state, as the main process, with no training under way."""
    torch.manual_seed(0)
    monkeypatch.setattr(launch, "_started", False)
    monkeypatch.setattr(console, "_rank", 0)


@pytest.fixture
def on_noise(monkeypatch, tmp_path):
    """A small network, datasets of noise, and an empty working directory."""
    noise.install(monkeypatch.setattr)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def small_network(monkeypatch):
    """Put a network that is built and learns in a moment in place of S3D."""
    noise.install_network(monkeypatch.setattr)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a miniature UCF101, 18 training and 6 test videos, which the tests of a module share."""
    folder = tmp_path_factory.mktemp("videos")
    miniature.make(folder, classes=3, groups=8, clips=1, seed=1)
    return folder


@pytest.fixture
def in_place(place, small_network, monkeypatch):
    """Work in that folder, with a small network."""
    monkeypatch.chdir(place)
