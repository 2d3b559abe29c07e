"""Video codecs: pictures and clips to latents and back, behind one small protocol."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor


class VideoCodec(Protocol):
    """What the sampler and the pipeline need of a video autoencoder.

    A clip has 1 + temporal_stride k frames and becomes 1 + k latent frames, so a single picture is a clip too. Latents
    are normalised: about zero mean and unit variance per channel over natural clips.
    """

    temporal_stride: int
    spatial_stride: int

    @property
    def latent_channels(self) -> int:
        """Channels of one latent cell."""

    @property
    def dtype(self) -> torch.dtype:
        """Data type of the weights; encode and decode cast to it."""

    def encode(self, video: Tensor) -> Tensor:
        """Compress a clip (b, 3, f, H, W) in [-1, 1] to normalised latents (b, c, t, y, x)."""

    def encode_image(self, image: Tensor) -> Tensor:
        """Compress a picture (b, 3, H, W) in [-1, 1] to one latent frame (b, c, 1, y, x)."""

    def decode(self, latents: Tensor) -> Tensor:
        """Expand normalised latents (b, c, t, y, x) to a clip (b, 3, f, H, W) in about [-1, 1]."""

    def to(self, *args: Any, **kwargs: Any) -> Any:
        """Move the codec to a device or data type, as torch modules do."""
