"""The LTX-2 video autoencoder as a VideoCodec: the codec of the released SANA-WM weights.

The network itself is diffusers' AutoencoderKLLTX2Video; this file adds what SANA-WM means by a latent: the mode of
the posterior (so that encoding is deterministic), normalised per channel with the statistics in the checkpoint.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from sana_wm_core.codecs.chunked import CodecState
from sana_wm_core.codecs.ltx2_causal import decode_causal_chunk

if TYPE_CHECKING:
    from diffusers import AutoencoderKLLTX2Video


class LTX2Codec(nn.Module):
    """LTX-2 video autoencoder, 8 frames x 32 x 32 pixels to a latent cell of 128 channels.

    Reference: LTX-2 (Lightricks); SANA-WM (arXiv 2605.15178), latent space.
    """

    def __init__(self, vae: AutoencoderKLLTX2Video) -> None:
        super().__init__()
        self.vae = vae.eval().requires_grad_(False)
        self.temporal_stride = int(vae.temporal_compression_ratio)
        self.spatial_stride = int(vae.spatial_compression_ratio)

    @property
    def latent_channels(self) -> int:
        """Channels of a latent cell."""
        return int(self.vae.config["latent_channels"])

    @property
    def dtype(self) -> torch.dtype:
        """Data type of the weights."""
        return self.vae.dtype

    def enable_tiling(self) -> None:
        """Encode and decode in overlapping tiles; needed at 704x1280 on most GPUs, changes pixels near seams."""
        self.vae.enable_tiling()

    @torch.no_grad()
    def encode(self, video: Tensor) -> Tensor:
        """Compress video (b, 3, 1 + 8k, H, W) in [-1, 1] to normalised latents (b, c, 1 + k, H/32, W/32)."""
        frames, height, width = video.shape[2:]
        if frames % self.temporal_stride != 1:
            raise ValueError(f"the video must have 1 + {self.temporal_stride}k frames, such as 161; got {frames}")
        if height % self.spatial_stride or width % self.spatial_stride:
            stride = self.spatial_stride
            raise ValueError(f"height and width must be multiples of {stride}, such as 704x1280; got {height}x{width}")
        mode = self.vae.encode(video.to(self._device, self.dtype)).latent_dist.mode()
        mean, std = self._statistics(mode)
        return (mode - mean) * self._scale / std

    def encode_image(self, image: Tensor) -> Tensor:
        """Compress one picture (b, 3, H, W) in [-1, 1] to latent frame 0, (b, c, 1, H/32, W/32)."""
        return self.encode(image.unsqueeze(2))

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Expand normalised latents (b, c, 1 + k, y, x) to video (b, 3, 1 + 8k, 32 y, 32 x), about [-1, 1]."""
        latents = latents.to(self._device, self.dtype)
        mean, std = self._statistics(latents)
        return self.vae.decode(latents / self._scale * std + mean, return_dict=False)[0]

    @property
    def is_causal(self) -> bool:
        """Whether a latent frame's pixels depend on no later latent frame."""
        return bool(self.vae.config["decoder_causal"])

    @torch.no_grad()
    def decode_chunk(self, latents: Tensor, state: CodecState) -> tuple[Tensor, CodecState]:
        """Decode the next chunk of normalised latents; see codecs.chunked.

        Raises:
            ValueError: The decoder looks ahead in time.
        """
        if not self.is_causal:
            raise ValueError(
                "this VAE's decoder looks ahead, so it cannot decode while frames are made; "
                "use the causal one (ltx2_causal_vae of SANA-WM_streaming)"
            )
        latents = latents.to(self._device, self.dtype)
        mean, std = self._statistics(latents)
        return decode_causal_chunk(self.vae.decoder, latents / self._scale * std + mean, state)

    @property
    def _device(self) -> torch.device:
        return self.vae.device

    @property
    def _scale(self) -> float:
        return float(self.vae.config["scaling_factor"])

    def _statistics(self, like: Tensor) -> tuple[Tensor, Tensor]:
        shape = (1, -1, 1, 1, 1)
        return self.vae.latents_mean.view(shape).to(like), self.vae.latents_std.view(shape).to(like)
