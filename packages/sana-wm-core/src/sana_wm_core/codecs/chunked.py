"""Decoding a clip chunk by chunk, with what the decoder must remember of the past as a value."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

CodecState = dict[str, Tensor]
ChunkDecoder = Callable[[Tensor, CodecState], tuple[Tensor, CodecState]]


def chunk_decoder(codec: Any) -> ChunkDecoder:
    """How a codec decodes chunk after chunk.

    The result takes latents (b, c, n, y, x) and a state, empty for the first chunk, and returns the video of the chunk
    (b, 3, f, H, W), f = 1 + stride (n - 1) for the first chunk and stride n later, with the state after it.

    A codec with a method `decode_chunk` does it itself. Another one must say in `decode_context` how many earlier
    latent frames the pixels of one depend on; those are decoded again with every chunk.

    Raises:
        ValueError: The codec can do neither.
    """
    own = getattr(codec, "decode_chunk", None)
    if own is not None:
        return own
    context = getattr(codec, "decode_context", None)
    if context is None:
        raise ValueError(
            f"{type(codec).__name__} cannot decode chunk by chunk; use a codec with decode_chunk, such as LTX2Codec"
        )
    return _Windowed(codec, int(context))


class _Windowed:
    """Decodes each chunk together with the latent frames it depends on, and drops their pixels."""

    def __init__(self, codec: Any, context: int) -> None:
        self.codec, self.context = codec, context

    @torch.no_grad()
    def __call__(self, latents: Tensor, state: CodecState) -> tuple[Tensor, CodecState]:
        past = state.get("latents")
        whole = latents if past is None else torch.cat([past, latents], dim=2)
        video = self.codec.decode(whole)
        if past is not None:
            video = video[:, :, -latents.shape[2] * self.codec.temporal_stride :]
        # At least one frame is kept: it tells a later chunk from the first.
        keep = max(self.context, 1)
        return video, {"latents": whole[:, :, -keep:].clone()}
