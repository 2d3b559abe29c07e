"""A world that goes on: feed it keys or poses, and it answers with frames, one chunk at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from camera_control.dialects import CONTROLS
from camera_control.geometry import crop_intrinsics, intrinsics_from_fov, intrinsics_to_vec4
from numpy.typing import ArrayLike, NDArray
from PIL import Image
from torch import Tensor

from sana_wm_core.codecs.chunked import chunk_decoder
from sana_wm_core.images import fit
from sana_wm_core.model.memory import Window
from sana_wm_core.pipeline import WorldPipeline, to_pixels
from sana_wm_core.sampling.sampler import Conditions
from sana_wm_core.sampling.student import ChunkSampler
from sana_wm_core.streaming.camera import CameraTrack, chunk_camera
from sana_wm_core.streaming.overlap import Move, Sampled, overlapped
from sana_wm_core.streaming.state import Settings, WorldState, fingerprint, require_model

Refine = Callable[[Tensor, dict[str, Tensor]], tuple[Tensor, dict[str, Tensor]]]


class Piece(NamedTuple):
    """What a chunk brings.

    Attributes:
        video: (f, H, W, 3) uint8; without rows and columns where the session does not deliver.
        latents: (1, c, n, y, x), refined where there is a refiner.
        c2w: (f, 4, 4) float32 poses of the frames, relative to the session's first.
    """

    video: np.ndarray
    latents: Tensor
    c2w: np.ndarray


class Session:
    """One line through a world. `state` is the moment it is at; take it to branch, to save, or to come back.

    Set `delivers` to False to leave decoded frames where they are, as when only the speed is wanted. Set `overlaps` to
    True to have `play` and `travel` begin a chunk while the one before is refined and decoded (on a GPU: two streams);
    a new caption then takes hold a chunk later.

    Args:
        pipeline: The model's parts.
        state: The moment to go on from; see `start` for a new world.
        refine: Second stage: takes a chunk of latents and its own state, returns both anew. The very first frame, which
            no second stage refines, is then left out.

    Raises:
        ValueError: A state of another model.
    """

    def __init__(self, pipeline: WorldPipeline, state: WorldState, refine: Refine | None = None) -> None:
        require_model(state, pipeline.transformer)
        self.pipeline, self.state, self.refine = pipeline, state, refine
        self.delivers, self.overlaps = True, False
        settings = state.settings
        window = Window(settings.window, settings.sink)
        self._sampler = ChunkSampler(settings.steps, settings.guidance, settings.chunk, window)
        self._decode = chunk_decoder(pipeline.codec)
        self._read_text()

    @classmethod
    @torch.no_grad()
    def start(
        cls,
        pipeline: WorldPipeline,
        image: Image.Image,
        prompt: str,
        *,
        sampler: ChunkSampler | None = None,
        intrinsics: ArrayLike | None = None,
        fov_deg: float | None = None,
        height: int | None = None,
        width: int | None = None,
        negative_prompt: str = "",
        seed: int = 42,
        translation_speed: float | None = None,
        rotation_speed_deg: float | None = None,
        dialect: str = "sana-v1",
        refine: Refine | None = None,
    ) -> Session:
        """Begin a world from a picture. None means the model's own default.

        Args:
            pipeline: The model's parts.
            image: First frame, any size.
            prompt: Caption of the scene.
            sampler: Steps, guidance, chunk size and window.
            intrinsics: (4,) or (3, 3) in pixels of the picture as given.
            fov_deg: Horizontal field of view, used when intrinsics are not given.
            height: Pixels of the video.
            width: Pixels of the video.
            negative_prompt: What to stay away from, with guidance.
            seed: Seed of the noise.
            translation_speed: Metres per held frame.
            rotation_speed_deg: Degrees per held frame.
            dialect: What keys mean.
            refine: Second stage.

        Raises:
            ValueError: Input that cannot be used.
        """
        own, codec, sampler = pipeline.defaults, pipeline.codec, sampler or ChunkSampler()
        size = (height or own.height, width or own.width)
        if min(size) < codec.spatial_stride or size[0] % codec.spatial_stride or size[1] % codec.spatial_stride:
            raise ValueError(f"height and width must be multiples of {codec.spatial_stride}; got {size[0]}x{size[1]}")
        first = fit(image, *size)
        if intrinsics is None:
            fov_deg = own.fov_deg if fov_deg is None else fov_deg
            if fov_deg is None:
                raise ValueError("this model needs the camera's lens: give --intrinsics FILE.npy or --fov DEGREES (70)")
            intrinsics = intrinsics_from_fov(fov_deg, first.source_size)
        lens = crop_intrinsics(intrinsics_to_vec4(np.asarray(intrinsics), 1), first.source_size, size)[0]
        settings = Settings(
            fingerprint(pipeline.transformer),
            prompt,
            negative_prompt,
            size,
            own.fps,
            (float(lens[0]), float(lens[1]), float(lens[2]), float(lens[3])),
            sampler.steps,
            sampler.guidance,
            sampler.size,
            own.first_chunk if own.first_chunk and own.chunk == sampler.size else sampler.size + 1,
            sampler.window.chunks,
            sampler.window.sink,
            seed,
        )
        track = CameraTrack(
            own.translation_speed if translation_speed is None else translation_speed,
            own.rotation_speed_deg if rotation_speed_deg is None else rotation_speed_deg,
            dialect,
        )
        text = _encode(pipeline, prompt, negative_prompt, sampler.guidance > 1)
        with pipeline._working_codec() as working:
            picture = working.encode_image(first.tensor().to(pipeline.device, working.dtype))
        picture = picture.to(pipeline.device, pipeline.dtype)
        return cls(pipeline, WorldState(settings, text, track, picture), refine)

    @property
    def chunk_frames(self) -> int:
        """Raw frames the next chunk takes controls for."""
        settings = self.state.settings
        latents = settings.first - 1 if self.state.memory is None else settings.chunk
        return latents * self.pipeline.codec.temporal_stride

    def whole_chunks(self, frames: int, rounding: Literal["nearest", "up", "down"] = "nearest") -> int:
        """The number of frames from here on that whole chunks give, for a number wanted; one chunk at least."""
        beyond = (frames - self.chunk_frames) / self._step
        chunks = {"nearest": math.floor(beyond + 0.5), "up": math.ceil(beyond), "down": math.floor(beyond)}[rounding]
        return self.chunk_frames + max(chunks, 0) * self._step

    @property
    def _step(self) -> int:
        return self.state.settings.chunk * self.pipeline.codec.temporal_stride

    def _cuts(self, frames: int) -> list[slice]:
        starts = [0, *range(self.chunk_frames, frames, self._step)] if frames else []
        return [slice(a, b) for a, b in zip(starts, [*starts[1:], frames], strict=True)]

    def branch(self, seed: int | None = None) -> Session:
        """Another line from this moment, sharing nothing that either writes; another seed gives another future."""
        state = self.state if seed is None else self.state.with_seed(seed)
        return Session(self.pipeline, state, self.refine)

    def say(self, prompt: str) -> None:
        """Change the caption from the next chunk on."""
        settings = replace(self.state.settings, prompt=prompt)
        text = _encode(self.pipeline, prompt, settings.negative_prompt, settings.guidance > 1)
        self.state = replace(self.state, settings=settings, text=text)
        self._read_text()

    def play(self, action: str | NDArray[np.bool_]) -> Iterator[Piece]:
        """Hold keys, such as "w-48,jw-24", and yield chunks as they are made; the last is filled up with no key.

        Args:
            action: Keys, or controls (f, 8).
        """
        rows = self.state.track.parse(action) if isinstance(action, str) else action
        rows = _filled(rows, self.whole_chunks(len(rows), "up")) if len(rows) else rows
        return self._walk([partial(CameraTrack.hold, rows=rows[cut]) for cut in self._cuts(len(rows))])

    def travel(self, c2w: ArrayLike) -> Iterator[Piece]:
        """Follow poses (f + 1, 4, 4), the first of which stands for where the camera is now; f fills whole chunks.

        Raises:
            ValueError: Another shape, or a length that does not fill whole chunks.
        """
        poses, first, step = np.asarray(c2w, dtype=np.float64), self.chunk_frames, self._step
        if poses.ndim != 3 or poses.shape[1:] != (4, 4) or self.whole_chunks(len(poses) - 1) != len(poses) - 1:
            raise ValueError(
                f"poses have shape {poses.shape}; give ({first + 1} + {step} k, 4, 4), such as {(first + 1, 4, 4)}"
            )
        cuts = self._cuts(len(poses) - 1)
        return self._walk([partial(CameraTrack.follow, c2w=poses[cut.start : cut.stop + 1]) for cut in cuts])

    def advance(self, held: NDArray[np.bool_] | None = None) -> Piece:
        """Make one chunk while controls (f, 8) are held, f at most `chunk_frames`; missing frames hold nothing."""
        rows = np.zeros((0, len(CONTROLS)), dtype=bool) if held is None else held
        if len(rows) > self.chunk_frames:
            raise ValueError(f"the next chunk takes at most {self.chunk_frames} frames of controls; got {len(rows)}")
        rows = _filled(rows, self.chunk_frames)
        return self._finish(self._sample(self.state, *self.state.track.hold(rows)))

    def _walk(self, moves: Sequence[Move]) -> Iterator[Piece]:
        if self.overlaps:
            yield from overlapped(self.state, moves, self._sample, self._finish, self.pipeline.device)
        else:
            for move in moves:
                yield self._finish(self._sample(self.state, *move(self.state.track)))

    @torch.no_grad()
    def _sample(self, state: WorldState, track: CameraTrack, poses: NDArray[np.float32]) -> Sampled:
        """The moment after the next chunk's latents, before they are refined and decoded; changes nothing here."""
        pipeline, settings, codec = self.pipeline, state.settings, self.pipeline.codec
        first = state.memory is None
        if first:
            poses = np.concatenate([np.eye(4, dtype=np.float32)[None], poses])
        latent_size = (settings.size[0] // codec.spatial_stride, settings.size[1] // codec.spatial_stride)
        lens = np.array(settings.lens)
        camera = chunk_camera(poses, lens, settings.size, latent_size, codec.temporal_stride, first)
        camera = {name: tensor.to(pipeline.device, pipeline.dtype) for name, tensor in camera.items()}
        frames = settings.first if first else settings.chunk
        shape = (1, codec.latent_channels, frames, *latent_size)
        generator = torch.Generator().manual_seed((settings.seed * 1_000_003 + state.chunks) % 2**63)
        noise = torch.randn(shape, generator=generator, dtype=pipeline.dtype).to(pipeline.device)
        picture = state.first_latent if first else None
        latents, memory = self._sampler.chunk(pipeline.transformer, noise, self._text, camera, state.memory, picture)
        return Sampled(replace(state, track=track, memory=memory, latents=latents), poses)

    @torch.no_grad()
    def _finish(self, sampled: Sampled) -> Piece:
        """Refine and decode the latents of a sampled moment, with what is remembered of that here, and move there."""
        (moment, poses), refiner = sampled, self.state.refiner
        assert moment.latents is not None
        finished = moment.latents
        if self.refine is not None:
            finished, refiner = self.refine(finished, refiner)
        with self.pipeline._working_codec():
            video, decoder = self._decode(finished, self.state.decoder)
        pixels = to_pixels(video[0]) if self.delivers else np.empty((video.shape[2], 0, 0, 3), np.uint8)
        if self.state.memory is None and self.refine is not None:
            pixels, poses = pixels[1:], poses[1:]
        # What was sampled, and nothing else of that moment: the caption may have changed since.
        self.state = replace(
            self.state,
            track=moment.track,
            memory=moment.memory,
            latents=moment.latents,
            decoder=decoder,
            refiner=refiner,
            frames=self.state.frames + len(poses),
        )
        return Piece(pixels, finished, poses)

    @torch.no_grad()
    def _read_text(self) -> None:
        ready: dict[str, Any] = {
            name: tensor.to(self.pipeline.device, self.pipeline.dtype if tensor.is_floating_point() else None)
            for name, tensor in self.state.text.items()
        }
        self._text = self._sampler.read(self.pipeline.transformer, Conditions(**ready))


def _filled(rows: NDArray[np.bool_], frames: int) -> NDArray[np.bool_]:
    return np.concatenate([rows, np.zeros((frames - len(rows), rows.shape[1]), dtype=bool)])


def _encode(pipeline: WorldPipeline, prompt: str, negative_prompt: str, guided: bool) -> dict[str, Tensor]:
    (states, mask), negative = pipeline.read_text(prompt, negative_prompt if guided else None)
    text = {"text": states, "text_mask": mask}
    if negative[0] is not None:
        text["negative_text"], text["negative_mask"] = negative
    return text
