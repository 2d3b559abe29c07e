"""From one picture, a caption and a camera path to a video: the parts of a world model, wired together."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from camera_control.actions import action_string_to_c2w
from camera_control.geometry import crop_intrinsics, intrinsics_from_fov
from camera_control.trajectory import Trajectory
from numpy.typing import ArrayLike
from PIL import Image
from torch import Tensor, nn

from sana_wm_core.codecs import VideoCodec
from sana_wm_core.conditioning import camera_tensors, plan_path
from sana_wm_core.images import fit
from sana_wm_core.sampling import Conditions, Progress, Sampler
from sana_wm_core.text import TextEncoder, encode_negative


@dataclass(frozen=True)
class Defaults:
    """How a model is used when the caller does not say; these are the released model's.

    Attributes:
        height: Pixels, a multiple of the codec's stride.
        width: Pixels.
        frames: Upper bound of the frame count.
        fps: Frames per second the model was trained at.
        steps: Sampler steps.
        guidance: Guidance scale; 1 = off.
        shift: Flow shift of the noise levels.
        fov_deg: Horizontal field of view assumed for pictures without intrinsics; None = must be given.
        translation_speed: Metres per held frame of an action.
        rotation_speed_deg: Degrees per held frame of an action.
        sampler: Walk from noise to clip: flow_euler_ltx, chunk_flow_euler or self_forcing; see sampling.choice.
        step_list: Timesteps that self_forcing visits; empty = a grid of `steps`.
        fixed_steps: Whether the weights come with this step list and know no other.
        chunk: Latent frames of a chunk, for the samplers that have chunks.
        chunk_rule: How chunk_flow_euler cuts a clip; see sampling.chunks.
        first_chunk: Latent frames of a session's first chunk, the picture among them; 0 = one more than the others.
    """

    height: int = 704
    width: int = 1280
    frames: int = 161
    fps: int = 16
    steps: int = 60
    guidance: float = 5.0
    shift: float = 9.8
    fov_deg: float | None = None
    translation_speed: float = 0.05
    rotation_speed_deg: float = 1.2
    sampler: str = "flow_euler_ltx"
    step_list: tuple[float, ...] = ()
    fixed_steps: bool = False
    chunk: int = 3
    chunk_rule: str = "first_plus_one"
    first_chunk: int = 0


class ClipSampler(Protocol):
    """What the pipeline needs of a sampler."""

    @property
    def guidance(self) -> float:
        """Guidance scale; above 1 a negative prompt is read."""

    def __call__(
        self,
        model: Any,
        first_latent: Tensor,
        noise: Tensor,
        conditions: Conditions,
        on_step: Callable[[Progress], None] | None = None,
    ) -> Tensor:
        """Latents (1, c, t, y, x) of a clip."""


class SecondStage(Protocol):
    """What the pipeline needs of a refiner."""

    @property
    def dropped_frames(self) -> int:
        """Raw frames at the start of the decoded video that were never refined and are left out."""

    def __call__(self, latents: Tensor, prompt: str) -> Tensor:
        """Refined latents of the same shape."""


@dataclass(frozen=True)
class Clip:
    """What a pipeline returns.

    Attributes:
        video: (f, H, W, 3) uint8.
        latents: (1, c, t, y, x) normalised, before decoding.
        c2w: (f, 4, 4) float32 poses of the frames, as given.
        intrinsics: (f, 4) float32 fx, fy, cx, cy in pixels of the video.
        stage1: The same clip before refining, where it was asked for.
    """

    video: np.ndarray
    latents: Tensor
    c2w: np.ndarray
    intrinsics: np.ndarray
    stage1: np.ndarray | None = None


class WorldPipeline:
    """A world model ready to make clips; see layouts.open_world for the usual way to get one.

    Args:
        transformer: Velocity model with the call of SanaWMTransformer.
        codec: Video codec.
        text_encoder: Text encoder.
        defaults: How the model is used when a call does not say.
        offload_codec: Keep the codec on the CPU except while it works; saves GPU memory.
        offload_text_encoder: The same for the text encoder.
        sources: Files and folders the parts were read from, for the record.
    """

    def __init__(
        self,
        transformer: nn.Module,
        codec: VideoCodec,
        text_encoder: TextEncoder,
        defaults: Defaults | None = None,
        *,
        offload_codec: bool = False,
        offload_text_encoder: bool = False,
        sources: dict[str, Path] | None = None,
    ) -> None:
        self.transformer = transformer.eval()
        self.codec = codec
        self.text_encoder = text_encoder
        self.defaults = defaults or Defaults()
        self.offload_codec = offload_codec
        self.offload_text_encoder = offload_text_encoder
        self.sources = sources or {}
        self._device: torch.device | None = None

    @property
    def device(self) -> torch.device:
        """Where the parts work; offloaded ones wait elsewhere."""
        return self._device or next(self.transformer.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Data type the transformer works in."""
        return next(self.transformer.parameters()).dtype

    def to(self, device: torch.device | str) -> WorldPipeline:
        """Move the parts to a device, the codec only if it is not offloaded."""
        self._device = torch.device(device)
        parts = (self.transformer, self.text_encoder, *(() if self.offload_codec else (self.codec,)))
        for part in parts:
            if isinstance(part, nn.Module):
                part.to(device)
        return self

    @torch.no_grad()
    def __call__(
        self,
        image: Image.Image,
        prompt: str,
        *,
        c2w: ArrayLike | None = None,
        action: str | None = None,
        intrinsics: ArrayLike | None = None,
        fov_deg: float | None = None,
        height: int | None = None,
        width: int | None = None,
        frames: int | None = None,
        steps: int | None = None,
        guidance: float | None = None,
        shift: float | None = None,
        translation_speed: float | None = None,
        rotation_speed_deg: float | None = None,
        negative_prompt: str = "",
        seed: int = 42,
        noise: Tensor | None = None,
        sampler: ClipSampler | None = None,
        refine: SecondStage | None = None,
        keep_stage1: bool = False,
        report: Callable[[str, Progress | None], None] | None = None,
    ) -> Clip:
        """Make a clip. None means the model's own default.

        Args:
            image: First frame, any size.
            prompt: Caption of the scene; no camera words needed.
            c2w: (F, 4, 4) camera-to-world poses. Give this or action, not both.
            action: Keys held over frames, such as "w-40,jw-24".
            intrinsics: (4,), (3, 3), (F, 4) or (F, 3, 3), in pixels of the picture as given.
            fov_deg: Horizontal field of view of the picture, used when intrinsics are not given.
            height: Pixels of the video.
            width: Pixels of the video.
            frames: Upper bound; the clip gets the nearest 8k + 1 the trajectory allows.
            steps: Sampler steps.
            guidance: Guidance scale; 1 or less = off.
            shift: Flow shift.
            translation_speed: Metres per held frame, with action.
            rotation_speed_deg: Degrees per held frame, with action.
            negative_prompt: What to stay away from, with guidance.
            seed: Seed of the noise, drawn on the CPU so that every device starts from the same.
            noise: The noise itself, (1, c, t, y, x), instead of a seed.
            sampler: Another sampler than the Euler one; it brings its own steps, guidance and shift.
            refine: Second stage; without it the first stage's latents are decoded.
            keep_stage1: Decode the first stage's latents as well.
            report: Called with the name of the work at hand, and the sampler's progress while it runs.

        Raises:
            ValueError: Input that cannot be used; one line says what is allowed.
        """
        own = self.defaults
        size = (height or own.height, width or own.width)
        path = self.plan_camera(image, c2w, action, intrinsics, fov_deg, frames, translation_speed, rotation_speed_deg)
        latent_size = self._latent_size(size)
        first = fit(image, *size)
        assert path.intrinsics is not None
        lens = crop_intrinsics(path.intrinsics, first.source_size, size).astype(np.float32)
        if sampler is None:
            sampler = Sampler(
                own.steps if steps is None else steps,
                own.guidance if guidance is None else guidance,
                own.shift if shift is None else shift,
            )
        tell = report or (lambda stage, progress: None)

        tell("reading the caption", None)
        (text, mask), negative = self.read_text(prompt, negative_prompt if sampler.guidance > 1 else None)
        camera = camera_tensors(path, lens, size, latent_size, self.codec.temporal_stride)
        conditions = Conditions(
            self._ready(text),
            mask.to(self.device),
            None if negative[0] is None else self._ready(negative[0]),
            None if negative[1] is None else negative[1].to(self.device),
            {name: self._ready(tensor) for name, tensor in camera.items()},
        )

        tell("encoding the picture", None)
        with self._working_codec() as codec:
            first_latent = self._ready(codec.encode_image(first.tensor().to(self.device, codec.dtype)))
        latent_frames = (len(path) - 1) // self.codec.temporal_stride + 1
        if noise is None:
            noise = self.draw_noise(latent_frames, latent_size, seed)

        tell("sampling", None)
        latents = sampler(
            self.transformer, first_latent, self._ready(noise), conditions, lambda step: tell("sampling", step)
        )
        refined, dropped = latents, 0
        if refine is not None:
            tell("refining", None)
            refined, dropped = refine(latents, prompt), refine.dropped_frames
        tell("decoding", None)
        with self._working_codec() as codec:
            video = to_pixels(codec.decode(refined)[0])
            before = to_pixels(codec.decode(latents)[0]) if keep_stage1 and refine is not None else None
        poses = path.c2w.astype(np.float32)
        return Clip(video[dropped:], refined, poses[dropped:], lens[dropped:], before)

    def read_text(
        self, prompt: str, negative_prompt: str | None
    ) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor] | tuple[None, None]]:
        """States and masks of a caption, and of a negative prompt if there is one."""
        encoder: Any = self.text_encoder
        if self.offload_text_encoder and isinstance(encoder, nn.Module):
            encoder.to(self.device)
        try:
            read = encoder.encode([prompt])
            return read, (None, None) if negative_prompt is None else encode_negative(encoder, negative_prompt)
        finally:
            if self.offload_text_encoder and isinstance(encoder, nn.Module):
                encoder.to("cpu")

    def plan_camera(
        self,
        image: Image.Image,
        c2w: ArrayLike | None,
        action: str | None,
        intrinsics: ArrayLike | None,
        fov_deg: float | None,
        frames: int | None,
        translation_speed: float | None = None,
        rotation_speed_deg: float | None = None,
    ) -> Trajectory:
        """Check a camera request and bring it to a path with intrinsics in pixels of the picture as given."""
        own = self.defaults
        if (c2w is None) == (action is None):
            raise ValueError("give exactly one of --camera (poses) and --action (keys), such as --action w-64")
        if action is not None:
            metres = own.translation_speed if translation_speed is None else translation_speed
            degrees = own.rotation_speed_deg if rotation_speed_deg is None else rotation_speed_deg
            c2w = action_string_to_c2w(action, translation_speed=metres, rotation_speed_deg=degrees)
        assert c2w is not None
        size = (image.height, image.width)
        if intrinsics is None:
            fov_deg = own.fov_deg if fov_deg is None else fov_deg
            if fov_deg is None:
                raise ValueError("this model needs the camera's lens: give --intrinsics FILE.npy or --fov DEGREES (70)")
            intrinsics = intrinsics_from_fov(fov_deg, size)
        count = own.frames if frames is None else frames
        return plan_path(c2w, intrinsics, size, count, own.fps, self.codec.temporal_stride)

    def draw_noise(self, latent_frames: int, latent_size: tuple[int, int], seed: int) -> Tensor:
        """Standard normal noise (1, c, t, y, x), drawn on the CPU in the transformer's data type."""
        shape = (1, self.codec.latent_channels, latent_frames, *latent_size)
        return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=self.dtype)

    def _latent_size(self, size: tuple[int, int]) -> tuple[int, int]:
        stride = self.codec.spatial_stride
        if size[0] % stride or size[1] % stride or min(size) < stride:
            raise ValueError(f"height and width must be multiples of {stride}; got {size[0]}x{size[1]}")
        return size[0] // stride, size[1] // stride

    def _ready(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.device, self.dtype)

    @contextmanager
    def _working_codec(self) -> Iterator[VideoCodec]:
        codec: Any = self.codec
        if self.offload_codec:
            codec.to(self.device)
        try:
            yield codec
        finally:
            if self.offload_codec:
                codec.to("cpu")


def to_pixels(video: Tensor) -> np.ndarray:
    """Turn a decoded clip (3, f, H, W) in [-1, 1] into (f, H, W, 3) uint8."""
    scaled = video.float().mul(127.5).add(127.5).round().clamp(0, 255)
    return scaled.to(torch.uint8).permute(1, 2, 3, 0).contiguous().cpu().numpy()
