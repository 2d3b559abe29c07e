"""Memory on a CPU: large results on huge pages or at least populated at once, buffers that stay.

The system hands out fresh memory when it is first touched, 4 kB at a time: 9.3 ms for the answers of 14,080 tokens in
four heads, a quarter of what it takes to find them. Linux gives 2 MB at a time where it is asked to: 2.9 ms. Not so in
a virtual machine whose host takes free memory back: there every huge page may have to come from the host again, and a
call of 100 ms takes 320. Small pages that are asked for all at once take two thirds of the time.
"""

from __future__ import annotations

import ctypes
import math
import sys
import threading
from pathlib import Path

import torch
from torch import Tensor

_LEAST = 8 << 20  # bytes, four huge pages; results of 6 MB were slower for it
_PAGE = 4096
_KEPT = 64 << 20  # bytes a thread may keep; fresh ones cost a clip of a million elements a tenth or more
_LINE = 16  # elements: no two buffers share a cache line
_MADV_HUGEPAGE, _MADV_POPULATE_WRITE = 14, 23  # Linux, the second from 5.14
_HUGE_ORDER = 9  # 2 MB are 2^9 pages
_REPORTED = Path("/sys/module/page_reporting/parameters/page_reporting_order")  # -1 as long as nothing is reported


def empty(*shape: int, dtype: torch.dtype) -> Tensor:
    """torch.empty on a CPU, which asks for huge pages where they are worth it and the system has them."""
    x = torch.empty(shape, dtype=dtype)
    if _HUGE:
        _advise(x, _MADV_HUGEPAGE)
    return x


def populate(x: Tensor) -> None:
    """Have the pages of a fresh, contiguous tensor now, where the system can; its values stay as they are.

    For the thread that frees such tensors: the system gives a processor back the pages that it freed itself, and those
    are warm, while a helper may have to wait for pages that a host took back.
    """
    _advise(x, _MADV_POPULATE_WRITE)


def _advise(x: Tensor, advice: int) -> None:
    """About the whole pages of a large tensor."""
    if _madvise is None or x.nbytes < _LEAST:
        return
    start = -(-x.data_ptr() // _PAGE) * _PAGE
    whole = (x.data_ptr() + x.nbytes - start) // _PAGE * _PAGE
    # Advice that is not taken changes nothing, so nobody asks for the answer.
    _madvise(ctypes.c_void_p(start), ctypes.c_size_t(whole), advice)


def workspace(*shapes: tuple[int, ...], dtype: torch.dtype) -> list[Tensor]:
    """Buffers side by side in one piece of memory, each of which would be too small for a page of its own.

    They stay with the thread up to a limit: what a call gets is its own until the thread's next call.
    """
    sizes = [-(-math.prod(shape) // _LINE) * _LINE for shape in shapes]
    size = sum(sizes)
    whole = _kept(size * dtype.itemsize).view(dtype) if size * dtype.itemsize <= _KEPT else empty(size, dtype=dtype)
    parts = whole.split(sizes)
    return [part[: math.prod(shape)].view(shape) for part, shape in zip(parts, shapes, strict=True)]


def _kept(size: int) -> Tensor:
    held: Tensor | None = getattr(_of_thread, "bytes", None)
    if held is None or held.numel() < size:
        held = _of_thread.bytes = torch.empty(size, dtype=torch.uint8)
    return held[:size]


def _asks(reported: Path = _REPORTED) -> bool:
    """Whether huge pages are worth asking for: unless Linux reports free ones to a host that takes them back."""
    try:
        return not 0 <= int(reported.read_text()) <= _HUGE_ORDER
    except (OSError, ValueError):
        return True


_of_thread = threading.local()
_madvise = getattr(ctypes.CDLL(None), "madvise", None) if sys.platform == "linux" else None
_HUGE = _asks()
