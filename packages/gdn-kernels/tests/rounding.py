"""Makes Triton's interpreter multiply and round as tensor cores do, so that error budgets mean something without a GPU.

As it comes, it multiplies the raw bits of bfloat16, cuts bfloat16 off where hardware rounds, and ignores the precision
asked of a float32 product. Facts about hardware: bfloat16 and tf32 operands, exact products, float32 sums.
"""

from typing import Any

import numpy as np
import pytest
import triton.language as tl
from gdn_kernels.frame_gdn.fused.launch import Phases
from triton.runtime import interpreter


def rounded(x: np.ndarray, kept_bits: int) -> np.ndarray:
    """float32 with the mantissa rounded to the nearest, ties to even."""
    lost = 23 - kept_bits
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    bits = bits + ((bits >> lost) & 1) + np.uint32((1 << (lost - 1)) - 1)
    return (bits >> lost << lost).view(np.float32)


def cut(x: np.ndarray, kept_bits: int) -> np.ndarray:
    """float32 with the rest of the mantissa dropped, as a tensor core does with operands of a tf32 product."""
    lost = 23 - kept_bits
    return (np.ascontiguousarray(x, np.float32).view(np.uint32) >> lost << lost).view(np.float32)


def like_hardware(monkeypatch: pytest.MonkeyPatch, precision: str) -> None:
    """Patch the interpreter for one test."""
    handle, builder, options = interpreter.TensorHandle, interpreter.InterpreterBuilder, Phases._options
    cast = builder.cast_impl

    def rounding_cast(self: Any, src: Any, to: Any) -> Any:
        if src.dtype.scalar == tl.float32 and to.scalar == tl.bfloat16:
            return handle((rounded(src.data, 7).view(np.uint32) >> 16).astype(np.uint16), to.scalar)
        return cast(self, src, to)

    def dot(self: Any, a: Any, b: Any, d: Any, input_precision: Any, limit: Any) -> Any:
        sides = []
        for x in (a, b):
            if x.dtype.scalar == tl.bfloat16:
                sides.append((x.data.astype(np.uint32) << 16).view(np.float32))
            else:
                sides.append(cut(x.data, 10) if precision == "tf32" else x.data)
        return handle(np.matmul(*sides, dtype=d.data.dtype) + d.data, d.dtype.scalar)

    def narrow(self: Phases, how: Any) -> dict[str, Any]:
        return options(self, how) | {"DOT": tl.bfloat16 if precision == "bf16" else tl.float32}

    monkeypatch.setattr(builder, "cast_impl", rounding_cast)
    monkeypatch.setattr(builder, "create_fp_trunc", rounding_cast)
    monkeypatch.setattr(builder, "create_dot", dot)
    monkeypatch.setattr(Phases, "_options", narrow)
