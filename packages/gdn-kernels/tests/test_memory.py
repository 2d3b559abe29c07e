"""Buffers of the CPU path: shapes, room between them, and what happens where the system takes no advice."""

from __future__ import annotations

import ctypes
from typing import Any

import pytest
import torch
from gdn_kernels.frame_gdn import memory
from hypothesis import given
from hypothesis import strategies as st

LARGE = 3 << 20  # elements: 12 MB of float32


@given(st.lists(st.lists(st.integers(0, 9), max_size=4).map(tuple), min_size=1, max_size=6))
def test_buffers_side_by_side_share_nothing_and_start_where_any_type_may(shapes: list[tuple[int, ...]]) -> None:
    """Each has its shape and keeps its values while the others are written."""
    buffers = memory.workspace(*shapes, dtype=torch.float32)
    for number, buffer in enumerate(buffers):
        buffer.fill_(number)
    for number, (shape, buffer) in enumerate(zip(shapes, buffers, strict=True)):
        assert buffer.shape == shape and buffer.is_contiguous() and not buffer.storage_offset() % 16
        assert bool((buffer == number).all())


def test_advice_stays_inside_the_tensor_and_small_ones_get_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole pages only: a neighbour's memory is not ours to advise on."""
    asked: list[tuple[int, int, int]] = []

    def madvise(start: ctypes.c_void_p, size: ctypes.c_size_t, advice: int) -> int:
        asked.append((start.value or 0, size.value, advice))
        return -1  # a system that refuses

    monkeypatch.setattr(memory, "_madvise", madvise)
    assert memory.empty(1000, dtype=torch.float32).shape == (1000,)
    assert not asked
    x = memory.empty(3, LARGE // 3, dtype=torch.float32).fill_(1)
    [(start, size, advice)] = asked
    assert not start % 4096 and not size % 4096 and advice == 14
    end = x.data_ptr() + x.nbytes
    assert x.data_ptr() <= start < x.data_ptr() + 4096 and end - 4096 < start + size <= end
    assert float(x.sum()) == LARGE


@pytest.mark.parametrize("madvise", [None, memory._madvise])
def test_large_tensors_are_ordinary_ones(madvise: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the system's own call, and where there is none."""
    monkeypatch.setattr(memory, "_madvise", madvise)
    x = memory.empty(LARGE, dtype=torch.float32).copy_(torch.arange(LARGE))
    assert torch.equal(x, torch.arange(LARGE, dtype=torch.float32))
