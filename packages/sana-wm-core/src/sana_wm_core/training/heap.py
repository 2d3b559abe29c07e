"""How a process on Linux gets the memory of its next step: from what the last one freed, not from the kernel."""

from __future__ import annotations

import ctypes
import sys

# Numbers of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def keep_freed_memory() -> bool:
    """Let this process keep the memory that it frees, and use it again; False where the C library has no such switch.

    Every step of training on a processor takes and frees the same hundreds of megabytes. glibc gives large pieces back
    to the kernel, which hands them out anew page by page, zeroed: 5 to 10 % of a step of the pocket world (bench/
    train_step.py). The peak stays what it was.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return all(mallopt(option, 2**31 - 1) == 1 for option in (_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD))
