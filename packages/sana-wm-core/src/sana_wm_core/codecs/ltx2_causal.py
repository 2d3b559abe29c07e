"""The causal LTX-2 decoder, a chunk of latent frames at a time.

Every temporal convolution pads with the last frames of its own earlier input instead of repeating the first frame, and
temporal upsamplers drop their first output frame only once. Any cutting of the latents gives the same video.
Reference: streaming 7; inference 5.1 and 7.5. The network is diffusers'.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from sana_wm_core.codecs.chunked import CodecState


@torch.no_grad()
def decode_causal_chunk(decoder: nn.Module, latents: Tensor, state: CodecState) -> tuple[Tensor, CodecState]:
    """Decode the next latents (b, c, n, y, x), not normalised; `state` is empty for the first chunk and only read.

    Returns:
        Video (b, 3, f, H, W) and the state after it: the last input frames of every temporal convolution.
    """
    after: CodecState = {}
    with _carrying(decoder, state, after):
        video = decoder(latents, None, causal=True)
    return video, after


@contextmanager
def _carrying(decoder: nn.Module, state: CodecState, after: CodecState) -> Iterator[None]:
    changed = []
    for name, module in decoder.named_modules():
        kind = type(module).__name__
        if kind == "LTX2VideoCausalConv3d":
            forward: Any = partial(_convolve, module, name, state, after)
        elif kind == "LTX2VideoUpsampler3d":
            forward = partial(_upsample, module, not state)
        else:
            continue
        module.__dict__["forward"] = forward
        changed.append(module)
    try:
        yield
    finally:
        for module in changed:
            del module.__dict__["forward"]


def _convolve(
    module: Any, name: str, state: CodecState, after: CodecState, hidden_states: Tensor, causal: bool = True
) -> Tensor:
    reach = module.kernel_size[0] - 1
    if not reach:
        return module.conv(hidden_states)
    tail = state.get(name)
    if tail is None:
        tail = hidden_states[:, :, :1].expand(-1, -1, reach, -1, -1)
    whole = torch.cat([tail.to(hidden_states), hidden_states], dim=2)
    after[name] = whole[:, :, -reach:].clone()
    return module.conv(whole)


def _upsample(module: Any, first: bool, hidden_states: Tensor, causal: bool = True) -> Tensor:
    stride = module.stride
    out = _channels_to_space(module.conv(hidden_states), stride)
    if module.residual:
        repeats = stride[0] * stride[1] * stride[2] // module.upscale_factor
        out = out + _channels_to_space(hidden_states, stride).repeat(1, repeats, 1, 1, 1)
    return out[:, :, stride[0] - 1 :] if first else out


def _channels_to_space(x: Tensor, stride: tuple[int, int, int]) -> Tensor:
    parts = x.unflatten(1, (-1, *stride))  # (b, c, st, sh, sw, t, y, x)
    return parts.permute(0, 1, 5, 2, 6, 3, 7, 4).flatten(6, 7).flatten(4, 5).flatten(2, 3)
