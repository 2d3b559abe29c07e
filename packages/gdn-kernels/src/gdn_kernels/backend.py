"""Which implementation runs. Nothing falls back in silence: an unknown name is an error."""

from __future__ import annotations

BACKENDS = ("auto", "torch", "reference")


def choose(name: str) -> str:
    """The implementation for a name; "auto" is the torch form until fused kernels land.

    Raises:
        ValueError: Unknown name.
    """
    if name not in BACKENDS:
        raise ValueError(f"backend {name!r} is not one of {BACKENDS}")
    return "torch" if name == "auto" else name
