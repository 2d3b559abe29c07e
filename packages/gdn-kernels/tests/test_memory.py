"""Buffers of the CPU path: shapes, room between them, and what happens where the system takes no advice."""

from __future__ import annotations

import ctypes
import importlib
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import gdn_cases as cases
import pytest
import torch
from gdn_kernels import frame_gdn
from gdn_kernels.frame_gdn import by_tile, memory, workers
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
    monkeypatch.setattr(memory, "_HUGE", True)
    small = memory.empty(1000, dtype=torch.float32)
    memory.populate(small)
    assert small.shape == (1000,) and not asked
    x = memory.empty(3, LARGE // 3, dtype=torch.float32).fill_(1)
    memory.populate(x)
    assert [advice for _, _, advice in asked] == [14, 23] and asked[0][:2] == asked[1][:2]
    (start, size, _), end = asked[0], x.data_ptr() + x.nbytes
    assert not start % 4096 and not size % 4096
    assert x.data_ptr() <= start < x.data_ptr() + 4096 and end - 4096 < start + size <= end
    assert float(x.sum()) == LARGE


@pytest.mark.parametrize("huge", [False, True])
@pytest.mark.parametrize("madvise", [None, memory._madvise])
def test_large_tensors_are_ordinary_ones(madvise: Any, huge: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the system's own call, and where there is none; asked for once more when they have values."""
    monkeypatch.setattr(memory, "_madvise", madvise)
    monkeypatch.setattr(memory, "_HUGE", huge)
    x = memory.empty(LARGE, dtype=torch.float32)
    memory.populate(x)
    x.copy_(torch.arange(LARGE))
    memory.populate(x)
    assert torch.equal(x, torch.arange(LARGE, dtype=torch.float32))


def test_populated_memory_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Writing to a tensor too large for the heap finds its pages missing, or there if they were asked for."""
    if memory._madvise is None or memory._madvise(None, ctypes.c_size_t(0), 23):
        pytest.skip("the system does not know this advice: it is Linux' from 5.14")
    resource = importlib.import_module("resource")  # not on Windows
    monkeypatch.setattr(memory, "_HUGE", False)

    def faults(populate: bool) -> int:
        x = memory.empty(10 * LARGE, dtype=torch.float32)
        if populate:
            memory.populate(x)
        before = resource.getrusage(resource.RUSAGE_THREAD).ru_minflt
        ctypes.memset(x.data_ptr(), 1, x.nbytes)
        return resource.getrusage(resource.RUSAGE_THREAD).ru_minflt - before

    if faults(populate=False) < 1000:
        pytest.skip("the system gives huge pages unasked")
    assert faults(populate=True) < 100


@pytest.mark.parametrize(
    ("order", "asks"),
    [("9\n", False), ("0\n", False), ("10\n", True), ("4294967295\n", True), ("-1\n", True), ("x", True)],
)
def test_no_huge_pages_where_the_host_takes_them_back(order: str, asks: bool, tmp_path: Path) -> None:
    """Linux names the smallest blocks it reports as free, as a power of two of pages."""
    (tmp_path / "order").write_text(order)
    assert memory._asks(tmp_path / "order") is asks
    assert memory._asks(tmp_path / "nothing here")


@pytest.fixture
def helper_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every clip goes to threads of our own, and one that has only the defaults of a thread takes all tiles."""

    class Helper:
        @staticmethod
        def submit(work: Callable[[int], None], index: int) -> Future[None]:
            done: Future[None] = Future()
            thread = threading.Thread(target=lambda: done.set_result(work(index)))
            thread.start()
            thread.join()
            return done

    monkeypatch.setattr(by_tile, "LARGE", 0)
    monkeypatch.setattr(workers, "SHARED", 0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(workers, "_helpers", lambda process, count: Helper)
    monkeypatch.setattr(memory, "_of_thread", threading.local())


@pytest.mark.usefixtures("helper_first")
def test_results_are_their_own_and_buffers_serve_any_mode() -> None:
    """The kept buffers are overwritten by the next call, and may have come up in inference mode."""
    first, second = (cases.inputs(1, 2, 3, 5, 8, seed=seed) for seed in (0, 1))
    with torch.inference_mode():
        out, state = frame_gdn(**first, output_final_state=True)
        kept = out.clone(), state.clone()
    frame_gdn(**second)
    assert torch.equal(out, kept[0]) and torch.equal(state.kv, kept[1].kv) and torch.equal(state.z, kept[1].z)
    leaves = [x.clone().requires_grad_() for x in first.values()]
    torch.autograd.grad(frame_gdn(*leaves).sum(), leaves)


def test_threads_have_buffers_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Callers side by side get what they get alone."""
    monkeypatch.setattr(by_tile, "LARGE", 0)
    clips = [cases.inputs(1, 4, 6, 40, 16, seed=seed) for seed in range(8)]
    alone = [frame_gdn(**x) for x in clips]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            assert all(map(torch.equal, pool.map(lambda x: frame_gdn(**x), clips), alone))


def test_nobody_works_on_after_an_error() -> None:
    """Buffers may go to the next call: helpers have ended their pieces, and begin no others."""
    done: list[int] = []

    def do(piece: int, worker: int) -> None:
        if not worker:
            raise ValueError("the caller's own piece")
        time.sleep(0.05)
        done.append(piece)

    with pytest.raises(ValueError, match="own piece"):
        workers.Workers(2).each(range(100), do)
    count = len(done)
    assert count < 50
    time.sleep(0.2)
    assert len(done) == count


@pytest.mark.parametrize("count", [1, 2])
def test_the_caller_begins_with_what_is_its_own(count: int) -> None:
    """Before any piece of its own, once, and on its own thread."""
    done: list[tuple[int, str]] = []
    workers.Workers(count).each(
        range(4),
        lambda piece, worker: done.append((threading.get_ident(), "piece")),
        first=lambda: done.append((threading.get_ident(), "first")),
    )
    assert [what for thread, what in done if thread == threading.get_ident()][:1] == ["first"]
    assert sorted(what for _, what in done) == ["first", *4 * ["piece"]]


def test_no_more_than_the_limit_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """A larger workspace is fresh; a smaller one is part of the kept one."""
    monkeypatch.setattr(memory, "_KEPT", 4 * LARGE)
    monkeypatch.setattr(memory, "_of_thread", threading.local())
    memory.workspace((LARGE + 1,), dtype=torch.float32)
    assert not hasattr(memory._of_thread, "bytes")
    [large] = memory.workspace((LARGE,), dtype=torch.float32)
    [small] = memory.workspace((10,), dtype=torch.float64)
    assert small.data_ptr() == large.data_ptr() and memory._of_thread.bytes.numel() == 4 * LARGE
