"""Which implementation runs. Nothing falls back in silence: the choice is logged once, and can be required by name."""

from __future__ import annotations

import logging
from functools import cache
from typing import Any

import torch
from torch import Tensor

BACKENDS = ("auto", "triton", "torch", "reference")
PRECISIONS = ("auto", "bf16", "tf32", "fp32")
_MAX_TRITON_WIDTH = 128
_log = logging.getLogger("gdn_kernels")


def choose(name: str, like: Tensor | None = None, width: int = 0, precision: str = "auto") -> str:
    """The implementation for a name and a tensor; "auto" is triton on an NVIDIA GPU where it fits, else torch.

    Args:
        name: One of BACKENDS.
        like: A token tensor; its device and type decide.
        width: The larger of key and value width.
        precision: One of PRECISIONS, for triton; "auto" is bf16 for bfloat16 tokens, else fp32.

    Returns:
        "reference", "torch", or "triton:" and the precision.

    Raises:
        ValueError: Unknown name, or triton required where it cannot run.
    """
    if name not in BACKENDS:
        raise ValueError(f"backend {name!r} is not one of {BACKENDS}")
    if precision not in PRECISIONS:
        raise ValueError(f"precision {precision!r} is not one of {PRECISIONS}")
    if name in ("reference", "torch"):
        return name
    if like is None or (name == "auto" and like.device.type != "cuda"):
        if name == "triton":
            raise ValueError("backend 'triton' is not there for this call; use backend='torch' or 'auto'")
        return "torch"
    reason = _unfit(like.device.type, like.dtype, width)
    if name == "triton" and reason:
        raise ValueError(f"backend 'triton' cannot run: {reason}; use backend='torch' or 'auto'")
    if reason:
        if not torch.compiler.is_compiling():
            _announce(reason)
        return "torch"
    if precision == "auto":
        precision = "bf16" if like.dtype == torch.bfloat16 else "fp32"
    return f"triton:{precision}"


@cache
def _announce(reason: str) -> None:
    _log.warning("gdn_kernels runs on torch instead of triton: %s", reason)


def _unfit(device: str, dtype: torch.dtype, width: int) -> str:
    """Why triton cannot run, or nothing."""
    if width > _MAX_TRITON_WIDTH:
        return f"head width {width} is above {_MAX_TRITON_WIDTH}"
    if dtype not in (torch.float32, torch.bfloat16):
        return f"{dtype} is neither float32 nor bfloat16"
    if not _triton():
        return "triton is not installed"
    if device == "cuda":
        return "" if _capability() >= 80 else f"sm_{_capability()} is older than sm_80"
    return "" if device == "cpu" and _interpreting() else f"tensors are on {device}"


def _triton() -> Any:
    try:
        import triton
    except ImportError:
        return None
    return triton


def _interpreting() -> bool:
    return bool(_triton() and _triton().knobs.runtime.interpret)


def _capability() -> int:
    if torch.version.hip is not None or not torch.cuda.is_available():
        return 0
    major, minor = torch.cuda.get_device_capability()
    return 10 * major + minor


@cache
def phases(name: str) -> Any:
    """What holds a backend's phase functions (those of chunked.py), for a name from choose; logged on first use."""
    _log.info("gdn_kernels runs on the %s backend", name)
    if name == "torch":
        from gdn_kernels.frame_gdn import chunked

        return chunked
    kind, _, precision = name.partition(":")
    if kind == "triton" and precision in PRECISIONS[1:]:
        from gdn_kernels.frame_gdn.fused.launch import Phases

        return Phases(precision)
    raise ValueError(f"backend {name!r} has no phases; choose 'torch', or 'triton:' with one of {PRECISIONS[1:]}")
