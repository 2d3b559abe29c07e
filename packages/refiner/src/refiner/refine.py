"""THE REFINER: three Euler steps from a noised first-stage latent to a sharper one, a block of frames at a time.

A block starts from x = (1 - s_0) z + s_0 noise, with z the first stage's latent, and walks the levels

    s = 0.909375, 0.725, 0.421875, 0:    x <- x - (s - s') v(x, 1000 s)

with v the velocity that LTX-2 predicts. Its frames look at themselves, at the sink (the first frames of the clip, which
stay as they are) and at the latest refined frames. Sink keys turn with the block: their positions always lie directly
before those of the history. A clip refined in one piece is the case of a single block: what the sink sees is itself
alone in either form. Reference: streaming 5, inference 6; LTX-2 (Lightricks).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.models.transformers.transformer_sana_wm_refiner import SanaWMRefinerKVCache
from torch import Tensor, nn

SIGMAS = (0.909375, 0.725, 0.421875, 0.0)

# Everything needed to go on after a block, by name; no tensor in it is ever written to.
RefinerState = dict[str, Tensor]


@dataclass(frozen=True)
class Refiner:
    """A second stage ready to refine latents of one prompt.

    Attributes:
        transformer: LTX-2's video stream; see load_transformer.
        text: Prompt states (1, l, c); see RefinerText.
        text_mask: (1, l), 1 where a token counts.
        fps: Frames per second of the video; positions in time are seconds.
        sigmas: Noise levels, falling, the last 0.
        sink: Latent frames at the start of the clip that are kept as they are and always seen.
        block: Latent frames refined together; None = all at once.
        window: Latent frames a block sees besides itself, the sink included.
        seed: Seed of the noise, drawn on the CPU so that every device starts from the same.

    Raises:
        ValueError: Numbers that fit no clip.
    """

    transformer: nn.Module
    text: Tensor
    text_mask: Tensor
    fps: float = 16.0
    sigmas: tuple[float, ...] = SIGMAS
    sink: int = 1
    block: int | None = None
    window: int = 11
    seed: int = 42

    def __post_init__(self) -> None:
        check_sigmas(self.sigmas)
        if self.sink < 1:
            raise ValueError(f"the refiner's sink must be at least 1 latent frame, such as 1; got {self.sink}")
        if self.block is not None and self.block < 1:
            raise ValueError(f"refiner blocks must be at least 1 latent frame, such as 3; got {self.block}")
        if self.window <= self.sink:
            raise ValueError(
                f"the refiner's window of {self.window} latent frames must be larger than its sink of {self.sink}, "
                "such as 11"
            )
        if not 0 < self.fps <= 1000:
            raise ValueError(f"the refiner's frame rate must be above 0 and at most 1000, such as 16; got {self.fps:g}")

    @torch.no_grad()
    def __call__(self, latents: Tensor, on_block: Callable[[int, int], None] | None = None) -> Tensor:
        """Refine a clip.

        Args:
            latents: Normalised first-stage latents (1, c, t, y, x).
            on_block: Called after every block with its number from 1 and the number of blocks.

        Returns:
            Latents of the same shape and data type; the sink is what it was, bit for bit.

        Raises:
            ValueError: A clip that ends with the sink.
        """
        frames = latents.shape[2]
        if frames <= self.sink:
            raise ValueError(
                f"the clip has {frames} latent frames, all of them kept as the refiner's sink ({self.sink}); "
                "make it longer, such as --num_frames 65"
            )
        size = self.block or frames - self.sink
        blocks = -(-(frames - self.sink) // size)
        done, state = [latents[:, :, : self.sink]], self.begin(latents[:, :, : self.sink])
        for number in range(blocks):
            first = self.sink + number * size
            last = number + 1 == blocks
            refined, state = self.advance(latents[:, :, first : first + size], state, keep=not last)
            done.append(refined)
            if on_block is not None:
                on_block(number + 1, blocks)
        return torch.cat(done, dim=2)

    @torch.no_grad()
    def chunk(self, latents: Tensor, state: RefinerState) -> tuple[Tensor, RefinerState]:
        """Refine the next latents of a stream; the first call has an empty state and begins with the sink.

        Args:
            latents: (1, c, n, y, x); in the first call, n must be larger than the sink.
            state: What the call before returned.

        Returns:
            Latents of the same shape, and the state after them.
        """
        if state:
            return self.advance(latents, state)
        if latents.shape[2] <= self.sink:
            raise ValueError(
                f"the first chunk has {latents.shape[2]} latent frames; it must be longer than the sink ({self.sink})"
            )
        sink = latents[:, :, : self.sink]
        refined, state = self.advance(latents[:, :, self.sink :], self.begin(sink))
        return torch.cat([sink, refined], dim=2), state

    def begin(self, sink: Tensor) -> RefinerState:
        """The state after the sink (1, c, n, y, x): its keys, not yet rotated, and values, seen by itself alone."""
        layers = len(self.transformer.transformer_blocks)  # type: ignore[arg-type]
        cache = SanaWMRefinerKVCache(layers)
        x = sink.to(self._device, self._dtype)
        self._velocity(x, 0.0, list(range(sink.shape[2])), cache, "capture_pre_rope")
        state: RefinerState = {
            "frames": torch.tensor(sink.shape[2]),
            "window": torch.tensor(self.window),
            "noise": torch.Generator().manual_seed(self.seed).get_state(),
        }
        for i in range(layers):
            state[f"sink_key.{i}"], state[f"sink_value.{i}"] = cache.get(i).get_captured_pre_rope()
        return state

    def advance(self, latents: Tensor, state: RefinerState, keep: bool = True) -> tuple[Tensor, RefinerState]:
        """Refine one block (1, c, n, y, x) after a state.

        Args:
            latents: First-stage latents of the block.
            state: The state before it; not written to.
            keep: Make the state after it; the last block of a clip does not need one.

        Returns:
            Refined latents, and the state after them (empty without keep).
        """
        z = latents.to(self._device, self._dtype)
        first = int(state["frames"])
        positions = list(range(first, first + z.shape[2]))
        cache = self._window(state, z)
        generator = torch.Generator()
        generator.set_state(state["noise"].cpu())
        noise = torch.randn(z.shape, generator=generator, dtype=self._dtype).to(z)
        levels = torch.tensor(self.sigmas, dtype=torch.float32).tolist()
        x = ((1.0 - levels[0]) * z.float() + levels[0] * noise.float()).to(self._dtype)
        for level, below in itertools.pairwise(levels):
            velocity = self._velocity(x, level, positions, cache, "inject")
            # Rounding x0 to the model's type first is part of the reference's arithmetic.
            x0 = (x.float() - level * velocity.float()).to(self._dtype).float()
            x = (x.float() + (below - level) * ((x.float() - x0) / level)).to(self._dtype)
        if not keep:
            return x.to(latents.dtype), {}
        self._velocity(x, 0.0, positions, cache, "inject_and_capture_post_rope")
        after = {name: tensor for name, tensor in state.items() if name.startswith(("sink_", "window"))}
        after["frames"] = torch.tensor(first + z.shape[2])
        after["noise"] = generator.get_state()
        kept = (self.window - self.sink) * z.shape[3] * z.shape[4]
        for i in range(len(cache)):
            for name, new in zip(("history_key", "history_value"), cache.get(i).get_captured_post_rope(), strict=True):
                old = state.get(f"{name}.{i}")
                whole = new if old is None else torch.cat([old.to(new), new], dim=1)
                # A copy, so that frames that fell out of the window are freed.
                after[f"{name}.{i}"] = whole[:, -kept:].clone()
        return x.to(latents.dtype), after

    def predict(self, x: Tensor, sigma: float, state: RefinerState) -> Tensor:
        """The velocity of a block (1, c, n, y, x) at one noise level, after a state; keeps gradients, for training."""
        first = int(state["frames"])
        positions = list(range(first, first + x.shape[2]))
        return self._velocity(x, sigma, positions, self._window(state, x), "inject")

    def _window(self, state: RefinerState, block: Tensor) -> SanaWMRefinerKVCache:
        """The keys and values that a block sees besides its own."""
        layers = len(self.transformer.transformer_blocks)  # type: ignore[arg-type]
        cache = SanaWMRefinerKVCache(layers)
        for i in range(layers):
            cache.get(i).store_sink(*(state[f"{name}.{i}"].to(self._device) for name in ("sink_key", "sink_value")))
            if f"history_key.{i}" in state:
                past = (state[f"{name}.{i}"].to(self._device) for name in ("history_key", "history_value"))
                cache.get(i).store_history(*past)
        tokens = block.shape[3] * block.shape[4]
        history = state["history_key.0"].shape[1] // tokens if "history_key.0" in state else 0
        offset = int(state["frames"]) - history - self.sink
        cache.sink_pe = self._rotary(list(range(offset, offset + self.sink)), block)
        return cache

    def _velocity(
        self, x: Tensor, sigma: float, positions: Sequence[int], cache: SanaWMRefinerKVCache, mode: str
    ) -> Tensor:
        tokens = x.flatten(2).transpose(1, 2)  # (1, n, c), frames outermost
        scale = float(self._model.config.timestep_scale_multiplier)
        timestep = torch.full(tokens.shape[:2], sigma * scale, dtype=torch.float32, device=x.device)
        velocity = self._model(
            hidden_states=tokens,
            encoder_hidden_states=self.text.to(x),
            timestep=timestep,
            video_rotary_emb=self._rotary(positions, x),
            encoder_attention_mask=self.text_mask.to(x.device),
            kv_cache=cache,
            kv_cache_mode=mode,
            return_dict=False,
        )[0]
        return velocity.transpose(1, 2).unflatten(2, x.shape[2:])

    def _rotary(self, positions: Sequence[int], like: Tensor) -> tuple[Tensor, Tensor]:
        return self._model.build_rotary_emb_for_absolute_positions(
            1, list(positions), like.shape[3], like.shape[4], like.device, float(self.fps)
        )

    @property
    def _model(self) -> Any:
        return self.transformer

    @property
    def _device(self) -> torch.device:
        return self._model.proj_in.weight.device

    @property
    def _dtype(self) -> torch.dtype:
        return self._model.proj_in.weight.dtype


def check_sigmas(sigmas: Sequence[float]) -> None:
    """Refuse noise levels that cannot be walked down.

    Raises:
        ValueError: Fewer than two, not falling, above 1, or not ending in 0.
    """
    falling = all(a > b for a, b in zip(sigmas, [*sigmas[1:], -1.0], strict=True))
    if len(sigmas) < 2 or not falling or sigmas[0] > 1 or sigmas[-1] != 0:
        shown = ", ".join(f"{sigma:g}" for sigma in sigmas)
        raise ValueError(
            f"refiner noise levels ({shown}) must fall from at most 1 and end with 0, such as 0.909375, 0.725, "
            "0.421875, 0"
        )
