"""The launch table: tile, warps and pipeline stages of every kernel, by architecture and precision.

Chosen so that no entry spills registers on sm_90 (tests/test_gdn_triton.py compiles them all); not yet tuned on a GPU.
There is no search at run time: launches are the same every time and can be captured in a CUDA graph.
"""

from __future__ import annotations

from typing import NamedTuple


class Launch(NamedTuple):
    """How one kernel is launched; tile counts tokens, or columns of the memory for the scans."""

    tile: int
    warps: int
    stages: int


KERNELS = ("summary", "scan", "readout", "readout_backward", "scan_backward", "summary_backward")

_SM80 = {
    "bf16": {
        "summary": Launch(32, 8, 2),
        "scan": Launch(32, 4, 2),
        "readout": Launch(64, 8, 2),
        "readout_backward": Launch(32, 8, 2),
        "scan_backward": Launch(32, 4, 2),
        "summary_backward": Launch(32, 8, 2),
    },
    "fp32": {
        "summary": Launch(16, 8, 1),
        "scan": Launch(16, 8, 1),
        "readout": Launch(16, 8, 1),
        "readout_backward": Launch(16, 8, 1),
        "scan_backward": Launch(16, 8, 1),
        "summary_backward": Launch(16, 8, 1),
    },
}
_SM80["tf32"] = _SM80["fp32"]

# Tiles of 64 tokens feed the larger tensor-core instructions straight from shared memory.
_SM90 = _SM80 | {
    "bf16": _SM80["bf16"] | {"readout_backward": Launch(64, 8, 2), "summary_backward": Launch(64, 8, 2)},
}

# sm_120 multiplies as sm_80 does: larger tiles only spill there.
TABLE = {80: _SM80, 90: _SM90, 120: _SM80}


def entries(capability: int, precision: str) -> dict[str, Launch]:
    """Entries by kernel, for the newest architecture at or below the device's."""
    known = max((c for c in TABLE if c <= capability), default=min(TABLE))
    return TABLE[known][precision]


def launch(kernel: str, capability: int, precision: str) -> Launch:
    """The entry of one kernel."""
    return entries(capability, precision)[kernel]


def split_sums(precision: str) -> bool:
    """Whether operands are too wide for two d x d matrices at once: P and A apart, gradients block by block."""
    return precision != "bf16"
