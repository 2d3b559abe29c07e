"""Lets the test files of this package import gdn_cases, which importmode=importlib leaves off the path."""

import sys
from pathlib import Path

import pytest
import torch
from gdn_kernels.frame_gdn import by_head_backward, by_tile, chunked, memory

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(params=["whole", "tiles", "cpu"])
def schedule(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Send small tensors down each schedule of the torch backend; memory that nobody wrote shows as NaN."""
    ours = request.param == "cpu"
    monkeypatch.setattr(chunked, "_WHOLE_BELOW", 1 << 60 if request.param == "whole" else 0)
    monkeypatch.setattr(by_tile, "LARGE", 0 if ours else 1 << 60)
    monkeypatch.setattr(by_tile, "TILE", 14 * 16)  # two frames or so
    for module, name in ((chunked, "_TILE_TOKENS"), (by_head_backward, "TILE_TOKENS")):
        monkeypatch.setattr(module, name, 14)
    monkeypatch.setattr(memory, "_KEPT", 0)
    empty, empty_like, new_empty = torch.empty, torch.empty_like, torch.Tensor.new_empty
    monkeypatch.setattr(torch, "empty", lambda *a, **k: empty(*a, **k).fill_(float("nan")))
    monkeypatch.setattr(torch, "empty_like", lambda *a, **k: empty_like(*a, **k).fill_(float("nan")))
    monkeypatch.setattr(torch.Tensor, "new_empty", lambda *a, **k: new_empty(*a, **k).fill_(float("nan")))
    return request.param
