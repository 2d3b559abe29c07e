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

# Latent frames decoded together when tiling, and how many of them the next stretch repeats: the released settings.
TILE_FRAMES, OVERLAP_FRAMES = 13, 5


class LTX2Codec(nn.Module):
    """LTX-2 video autoencoder, 8 frames x 32 x 32 pixels to a latent cell of 128 channels.

    Reference: LTX-2 (Lightricks); SANA-WM (arXiv 2605.15178), latent space.
    """

    def __init__(self, vae: AutoencoderKLLTX2Video) -> None:
        super().__init__()
        self.vae = vae.eval().requires_grad_(False)
        self.temporal_stride = int(vae.temporal_compression_ratio)
        self.spatial_stride = int(vae.spatial_compression_ratio)
        self.tile_frames: int | None = None

    @property
    def latent_channels(self) -> int:
        """Channels of a latent cell."""
        return int(self.vae.config["latent_channels"])

    @property
    def dtype(self) -> torch.dtype:
        """Data type of the weights."""
        return self.vae.dtype

    def enable_tiling(self) -> None:
        """Encode and decode in overlapping tiles, and long clips in overlapping stretches.

        Needed at 704x1280 on most GPUs; changes pixels near seams. The original script shows every stretch but the
        first one frame late; this does not.
        """
        self.vae.enable_tiling()
        self.tile_frames = TILE_FRAMES

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
        raw = latents / self._scale * std + mean
        if self.tile_frames is None or raw.shape[2] <= self.tile_frames:
            return self.vae.decode(raw, return_dict=False)[0]
        return self._decode_in_pieces(raw, self.tile_frames)

    def _decode_in_pieces(self, raw: Tensor, size: int) -> Tensor:
        """Decode overlapping stretches of `size` latent frames and fade from each to the next, on the CPU.

        A stretch that begins at latent frame s shows raw frames from 8 s on. Where two overlap the later one fades in,
        so that its first frames, which it decodes without their past, hardly count.
        """
        stride, step = self.temporal_stride, size - OVERLAP_FRAMES
        whole: Tensor | None = None
        for first in range(0, raw.shape[2] - OVERLAP_FRAMES, step):
            piece = self.vae.decode(raw[:, :, first : first + size], return_dict=False)[0].cpu()
            if whole is None:
                shape = (*piece.shape[:2], stride * (raw.shape[2] - 1) + 1, *piece.shape[3:])
                whole = piece.new_empty(shape)
                whole[:, :, : piece.shape[2]] = piece
                continue
            at, shared = stride * first, stride * (OVERLAP_FRAMES - 1) + 1
            weight = torch.linspace(0, 1, shared, dtype=piece.dtype).view(1, 1, -1, 1, 1)
            whole[:, :, at : at + shared] = whole[:, :, at : at + shared].lerp(piece[:, :, :shared], weight)
            whole[:, :, at + shared : at + piece.shape[2]] = piece[:, :, shared:]
        assert whole is not None
        return whole

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
