"""Fixtures for all tests."""

import sys
from pathlib import Path

import pytest
import torch

from utils import console, launch

sys.path.insert(0, str(Path(__file__).parent))

# Autograd prepares itself at a process's first backward pass. After some modules of PyTorch are loaded that starts
# threads, and then nothing forked may compute gradients (tests/interrupted.py trains in forks): so do it here, first.
torch.zeros(1, requires_grad=True).sum().backward()


@pytest.fixture(autouse=True)
def fresh_start(monkeypatch):
    """Start every test from the same random state, as the main process, with no training under way."""
    torch.manual_seed(0)
    monkeypatch.setattr(launch, "_started", False)
    monkeypatch.setattr(console, "_rank", 0)
