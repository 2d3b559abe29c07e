"""The transformer: embed latents, time, text and camera; run the blocks; read out a velocity."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from camera_control import ucpe
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sana_wm_core.config import TransformerConfig
from sana_wm_core.model.block import Block, shift_table
from sana_wm_core.model.clip import BlockMemory, Clip, Rays
from sana_wm_core.model.initialise import init_weights
from sana_wm_core.model.layers import (
    CaptionEmbed,
    PatchEmbed,
    RMSNorm,
    TimestepEmbed,
    camera_rotary,
    modulate,
    rotary_table,
)
from sana_wm_core.model.memory import Memory, ReadText
from sana_wm_core.model.upmap import absolute_ray_map


class TransformerOutput(NamedTuple):
    """What a forward pass returns: the velocity `sample` (b, c, t, y, x)."""

    sample: Tensor


class FinalLayer(nn.Module):
    """Tokens to the numbers of a latent patch."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        c = config.hidden_size
        self.scale_shift_table = shift_table(2, c)
        self.linear = nn.Linear(c, config.patch_size[1] * config.patch_size[2] * config.in_channels)

    def forward(self, x_bnc: Tensor, time_btc: Tensor) -> Tensor:
        shift, scale = (self.scale_shift_table.to(time_btc.dtype) + time_btc[:, :, None]).unbind(2)
        return self.linear(modulate(x_bnc, shift, scale))


class SanaWMTransformer(nn.Module):
    """Predicts the velocity (noise minus data) of noisy video latents, given text and a camera path.

    Tensor names are those of the published checkpoint. Reference: SANA-WM (arXiv 2605.15178); architecture 1 to 8.
    """

    def __init__(self, config: TransformerConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or TransformerConfig()
        c, patch = config.hidden_size, config.patch_size
        self.gradient_checkpointing = False
        self.x_embedder = PatchEmbed(config.in_channels, c, patch)
        self.t_embedder = TimestepEmbed(c)
        self.t_block = nn.Sequential(nn.SiLU(), nn.Linear(c, 6 * c))
        self.y_embedder = CaptionEmbed(config.caption_channels, c)
        self.attention_y_norm = RMSNorm(c, 1e-5) if config.y_norm else nn.Identity()
        if config.use_chunk_plucker_post_attn:
            self.plucker_embedder = PatchEmbed(config.chunk_plucker_channels, c, patch)
        self.raymap_embedder = PatchEmbed(3, c, patch)
        self.blocks = nn.ModuleList(Block(config, i) for i in range(config.num_layers))
        self.final_layer = FinalLayer(config)

    def init_weights(self) -> None:
        """Set starting weights for training from nothing, in place."""
        init_weights(self)

    @property
    def dtype(self) -> torch.dtype:
        """Data type of the weights."""
        return self.x_embedder.proj.weight.dtype

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.x_embedder.proj.weight.device

    def forward(
        self,
        hidden_states: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor | ReadText,
        encoder_attention_mask: Tensor | None = None,
        mask: Tensor | None = None,
        return_dict: bool = True,
        data_info: dict[str, Any] | None = None,
        camera_conditions: Tensor | None = None,
        chunk_plucker: Tensor | None = None,
        cam_pos_embeds: dict[str, Tensor] | None = None,
        pos_embeds: Tensor | None = None,
        raymats: Tensor | None = None,
        frame_valid_mask: Tensor | None = None,
        chunk_size: int | None = None,
        chunk_index: Sequence[int] | None = None,
        memory: Memory | None = None,
        kept: list[BlockMemory] | None = None,
    ) -> TransformerOutput | tuple[Tensor]:
        """Predict the velocity of a clip: of all frames at once, chunk by chunk causally, or after a memory.

        Args:
            hidden_states: Noisy latents (b, c, t, y, x), latent frame 0 clean.
            timestep: (b, 1, t) diffusion time per latent frame, 0 to 1000, truncated to whole numbers.
            encoder_hidden_states: Text features (b, 1, l, caption_channels), or what `read_text` made of them.
            encoder_attention_mask: (b, l) or (b, 1, 1, l), nonzero for real text tokens; required.
            mask: The same under the name diffusers' pipeline uses; wins over encoder_attention_mask.
            return_dict: Return an object with `.sample` rather than a tuple of one.
            data_info: May hold `image_vae_embeds` (b, *, t, y, x), appended to the latent channels.
            camera_conditions: (b, t, 20): camera-to-world pose, then fx, fy, cx, cy in latent units. None switches
                the camera branch off.
            chunk_plucker: (b, 48, t, y, x) packed rays. None switches the ray path off.
            cam_pos_embeds: Precomputed P, P_inv, absmap, pos_embeds_cam.
            pos_embeds: Precomputed rotary table, complex (1, 1, n, d / 2).
            raymats: Precomputed world-to-ray matrices.
            frame_valid_mask: (b, t), (b, 1, t) or (b, 1, t, 1, 1), 0 for padding frames.
            chunk_size: Accepted for compatibility and not read, as in diffusers; see chunk_index.
            chunk_index: First frames of chunks, such as [0, 4, 7]; frames then see their own chunk and earlier ones.
                None sees every frame.
            memory: What `after_chunk` made of the frames before; positions go on from there, and frames see it. It is
                only read.
            kept: An empty list that receives what each block hands over to the next chunk. A memory, or kept, makes the
                pass a streaming one: softmax blocks use the streaming scale.

        Returns:
            The velocity (b, c, t, y, x).

        Raises:
            ValueError: No text mask, or shapes that do not fit.
        """
        latents = self._check(hidden_states, timestep).to(self.dtype)
        read = encoder_hidden_states if isinstance(encoder_hidden_states, ReadText) else None
        if read is not None:
            keep_bl = read.keep_bl
        else:
            keep_bl = _text_mask(encoder_attention_mask if mask is None else mask, latents.shape[0])
        if data_info and data_info.get("image_vae_embeds") is not None:
            latents = torch.cat([latents, data_info["image_vae_embeds"].to(self.dtype)], dim=1)
        grid = (
            latents.shape[2],
            latents.shape[3] // self.config.patch_size[1],
            latents.shape[4] // self.config.patch_size[2],
        )

        first = memory.frames if memory else 0
        clip = self._clip(
            grid, latents.device, frame_valid_mask, camera_conditions, cam_pos_embeds, pos_embeds, raymats, first
        )
        causal = chunk_index is not None or memory is not None or kept is not None
        clip = replace(clip, chunks=chunk_bounds(chunk_index, grid[0]), causal=causal)
        x = self.x_embedder(latents)
        if camera_conditions is not None and not self.config.use_chunk_plucker_post_attn:
            x = x + self.raymap_embedder(self._absolute_map(camera_conditions, cam_pos_embeds, grid))
        rays = None
        if chunk_plucker is not None and self.config.use_chunk_plucker_post_attn:
            rays = self.plucker_embedder(chunk_plucker.to(self.dtype))

        time = self.t_embedder(timestep.reshape(latents.shape[0], -1), self.dtype)
        time6 = self.t_block(time).unflatten(-1, (6, -1))
        text = None if isinstance(encoder_hidden_states, ReadText) else self._project_text(encoder_hidden_states)

        for i, block in enumerate(self.blocks):
            seen = text if read is None else read.keys_values[i]
            own: BlockMemory | None = None if kept is None else {}
            here = clip if not causal else replace(clip, past=memory.blocks[i] if memory else None, kept=own)
            if self.gradient_checkpointing and torch.is_grad_enabled():
                x = checkpoint(block, x, seen, keep_bl, time6, rays, here, use_reentrant=False)
            else:
                x = block(x, seen, keep_bl, time6, rays, here)
            if kept is not None and own is not None:
                kept.append(own)
        sample = self._unpatchify(self.final_layer(x, time), grid)
        return TransformerOutput(sample) if return_dict else (sample,)

    def read_text(self, encoder_hidden_states: Tensor, mask: Tensor, batch: int | None = None) -> ReadText:
        """Read a prompt once, for many forward passes: what blocks make of it depends on nothing else.

        Args:
            encoder_hidden_states: (b, 1, l, caption_channels).
            mask: (b, l), nonzero for real text tokens.
            batch: Clips of a forward pass; None = b.
        """
        keep_bl = _text_mask(mask, batch or encoder_hidden_states.shape[0])
        text = self._project_text(encoder_hidden_states)
        return ReadText(tuple(block.cross_attn.read(text) for block in self.blocks), keep_bl)

    def _project_text(self, states: Tensor) -> Tensor:
        return self.attention_y_norm(self.y_embedder(states.to(self.dtype))).flatten(1, 2)

    def _check(self, latents: Tensor, timestep: Tensor) -> Tensor:
        if latents.ndim != 5:
            raise ValueError(f"hidden_states has shape {tuple(latents.shape)}; allowed (b, c, t, y, x)")
        _, p, q = self.config.patch_size
        if latents.shape[3] % p or latents.shape[4] % q:
            raise ValueError(f"latents of {latents.shape[3]}x{latents.shape[4]} do not divide into {p}x{q} patches")
        if timestep.numel() != latents.shape[0] * latents.shape[2]:
            raise ValueError(
                f"timestep has shape {tuple(timestep.shape)}; allowed (b, 1, t), here "
                f"({latents.shape[0]}, 1, {latents.shape[2]})"
            )
        return latents

    def _clip(
        self,
        grid: tuple[int, int, int],
        device: torch.device,
        frame_valid_mask: Tensor | None,
        camera_conditions: Tensor | None,
        given: dict[str, Tensor] | None,
        pos_embeds: Tensor | None,
        raymats: Tensor | None,
        first_frame: int,
    ) -> Clip:
        rope = None
        if pos_embeds is not None:
            table = pos_embeds.to(device).flatten(0, -2)
            rope = (table.real.float(), table.imag.float())
        elif self.config.use_pe:
            rope = rotary_table(*grid, self.config.linear_head_dim, device, first_frame)
        rays = None
        if camera_conditions is not None:
            rays = self._rays(camera_conditions, grid, given or {}, rope, raymats)
        valid = None
        if frame_valid_mask is not None:
            valid = frame_valid_mask.to(device).reshape(-1, grid[0]).float()
        return Clip(*grid, rope=rope, rays=rays, frame_mask_bt=valid)

    def _rays(
        self,
        camera_conditions: Tensor,
        grid: tuple[int, int, int],
        given: dict[str, Tensor],
        rope: tuple[Tensor, Tensor] | None,
        raymats: Tensor | None,
    ) -> Rays:
        b = camera_conditions.shape[0]
        # Geometry stays in float32 whatever the weights are: half precision moves cameras by centimetres.
        with torch.autocast(camera_conditions.device.type, enabled=False):
            matrix, inverse = given.get("P", raymats), given.get("P_inv")
            if matrix is None:
                matrix, inverse = ucpe.ray_matrices(
                    camera_conditions.float(), grid[1], grid[2], self.config.patch_size[1:]
                )
            matrix = matrix.reshape(-1, grid[0] * grid[1] * grid[2], 4, 4).expand(b, -1, -1, -1)
            inverse = ucpe.invert_ray_matrices(matrix) if inverse is None else inverse.reshape(-1, *matrix.shape[1:])
        cos, sin = (camera_rotary(table, self.config.linear_head_dim) for table in rope) if rope else (None, None)
        table = given.get("pos_embeds_cam")
        if table is not None:
            cos, sin = table.flatten(0, -2).real.float(), table.flatten(0, -2).imag.float()
        return Rays(matrix.to(self.dtype), inverse.to(self.dtype).expand(b, -1, -1, -1), cos, sin)

    def _absolute_map(
        self, camera_conditions: Tensor, given: dict[str, Tensor] | None, grid: tuple[int, int, int]
    ) -> Tensor:
        if given and "absmap" in given:
            return given["absmap"].to(self.dtype)
        _, p, q = self.config.patch_size
        return absolute_ray_map(camera_conditions.float(), grid[1] * p, grid[2] * q).to(self.dtype)

    def _unpatchify(self, x_bnc: Tensor, grid: tuple[int, int, int]) -> Tensor:
        t, y, w = grid
        _, p, q = self.config.patch_size
        cells = x_bnc.reshape(-1, t, y, w, p, q, self.config.in_channels)
        return cells.permute(0, 6, 1, 2, 4, 3, 5).reshape(-1, self.config.in_channels, t, y * p, w * q)

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        subfolder: str | None = None,
        dtype: torch.dtype | None = None,
        device: str | torch.device = "cpu",
    ) -> SanaWMTransformer:
        """Load weights; see `sana_wm_core.weights.load_transformer`."""
        from sana_wm_core.weights import load_transformer

        return load_transformer(path, subfolder=subfolder, dtype=dtype, device=device)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config.json and diffusion_pytorch_model.safetensors; diffusers' own class reads them too."""
        from sana_wm_core.weights import save_transformer

        save_transformer(self, folder)


def chunk_bounds(starts: Sequence[int] | None, frames: int) -> tuple[int, ...]:
    """First frames of chunks, brought into order: 0 put in front, starts at or after the end dropped.

    Raises:
        ValueError: Starts that do not increase.
    """
    given = [0, *(int(start) for start in starts or ())]
    inside = [start for i, start in enumerate(given) if start < frames and not (i == 1 and start == 0)]
    if any(b <= a for a, b in itertools.pairwise(inside)):
        raise ValueError(f"chunk starts {list(starts or ())} must increase, for example [0, 4, 7]")
    return tuple(inside)


def _text_mask(mask: Tensor | None, batch: int) -> Tensor:
    if mask is None:
        raise ValueError("encoder_attention_mask (or mask) is required; pass ones of shape (b, l) to keep every token")
    keep = mask.reshape(mask.shape[0], -1).bool()
    return keep if keep.shape[0] == batch else keep.repeat(batch // keep.shape[0], 1)
