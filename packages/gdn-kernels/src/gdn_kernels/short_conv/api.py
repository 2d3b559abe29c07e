"""The public call of the short temporal filter."""

from __future__ import annotations

from torch import Tensor

from gdn_kernels.backend import choose
from gdn_kernels.short_conv import chunked, reference


def short_conv(
    x: Tensor, weight: Tensor, frames: int, *, chunk_starts: Tensor | None = None, backend: str = "auto"
) -> Tensor:
    """Filter tokens over time with a symmetric window of 2K - 1 latent frames.

    Args:
        x: (b, n, c) tokens, n = frames * s, frame-major.
        weight: (c, 1, K) or (c, K); the last tap is the current frame.
        frames: Latent frames t.
        chunk_starts: (t,) bool; frames of a later chunk are not seen, earlier ones are. None = all are.
        backend: "auto", "torch" or "reference".

    Returns:
        (b, n, c).

    Raises:
        ValueError: Shapes that do not fit, named.

    Reference: SANA-WM architecture specification, 4.3 and 10.2.
    """
    if x.ndim != 3 or frames < 1 or x.shape[1] % frames:
        raise ValueError(f"x has shape {tuple(x.shape)}; expected (b, n, c) with n a multiple of frames = {frames}")
    taps = weight.flatten(1)
    if taps.shape[0] != x.shape[-1]:
        raise ValueError(f"weight has shape {tuple(weight.shape)}; expected ({x.shape[-1]}, 1, K)")
    if chunk_starts is not None and chunk_starts.shape != (frames,):
        raise ValueError(f"chunk_starts has shape {tuple(chunk_starts.shape)}; expected ({frames},)")
    form = reference if choose(backend) == "reference" else chunked
    return form.short_conv(x.unflatten(1, (frames, -1)), taps.to(x.dtype), chunk_starts).flatten(1, 2)
