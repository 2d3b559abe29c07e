"""The state of a world as a value: everything needed to go on from a moment, in memory and as one safetensors file."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from sana_wm_core.codecs.chunked import CodecState
from sana_wm_core.model.memory import Memory
from sana_wm_core.sampling.student import transformer_of
from sana_wm_core.streaming.camera import CameraTrack
from sana_wm_core.video import written_whole

FORMAT = "sana-wm world state 2"


@dataclass(frozen=True)
class Settings:
    """What stays the same through a session.

    Attributes:
        model: Fingerprint of the transformer.
        prompt: Caption.
        negative_prompt: What to stay away from, with guidance.
        size: Height and width, pixels.
        fps: Frames per second.
        lens: fx, fy, cx, cy in pixels of the video.
        steps: Timesteps of the sampler.
        guidance: Guidance scale.
        chunk: Latent frames of a chunk.
        first: Latent frames of the first chunk, the picture among them.
        window: Chunks softmax blocks look at; 0 or less = all.
        sink: Whether the first chunk is always among them.
        seed: Seed of the noise; with the number of a chunk it decides that chunk's noise.
    """

    model: str
    prompt: str
    negative_prompt: str
    size: tuple[int, int]
    fps: float
    lens: tuple[float, float, float, float]
    steps: tuple[float, ...]
    guidance: float
    chunk: int
    first: int
    window: int
    sink: bool
    seed: int


@dataclass(frozen=True, eq=False)
class WorldState:
    """A moment of a world. Nothing here is ever written to, so states may share tensors and any number may go on.

    Attributes:
        settings: What stays the same.
        text: Caption states, (1, 1, l, c), with `text_mask`, and `negative_text`, `negative_mask` under guidance.
        track: The camera.
        first_latent: The picture as latent frame 0; until the first chunk is made.
        memory: What the transformer remembers.
        latents: The last chunk, (1, c, n, y, x).
        decoder: What the codec's decoder remembers.
        refiner: What the refiner remembers, where there is one.
        frames: Raw frames made so far.
    """

    settings: Settings
    text: dict[str, Tensor]
    track: CameraTrack
    first_latent: Tensor
    memory: Memory | None = None
    latents: Tensor | None = None
    decoder: CodecState = field(default_factory=dict)
    refiner: dict[str, Tensor] = field(default_factory=dict)
    frames: int = 0

    @property
    def chunks(self) -> int:
        """Chunks made so far."""
        return self.memory.chunks if self.memory else 0

    @property
    def bytes(self) -> int:
        """Size of all tensors."""
        return sum(tensor.nbytes for tensor in self._tensors().values())

    def with_seed(self, seed: int) -> WorldState:
        """The same moment with another future noise."""
        return replace(self, settings=replace(self.settings, seed=seed))

    def save(self, path: str | Path) -> None:
        """Write the state as one safetensors file; it appears whole or not at all."""
        held = {name: tensor.detach().cpu().contiguous() for name, tensor in self._tensors().items()}
        facts: dict[str, Any] = {
            "settings": asdict(self.settings),
            "track": {
                "translation_speed": self.track.translation_speed,
                "rotation_speed_deg": self.track.rotation_speed_deg,
                "dialect": self.track.dialect,
            },
            "frames": self.frames,
            "tensors": sorted(held),
        }
        if self.memory is not None:
            facts["memory"] = {
                "blocks": len(self.memory.blocks),
                "window": self.memory.window,
                "frames": self.memory.frames,
                "chunks": self.memory.chunks,
            }
        with written_whole(path) as temporary:
            save_file(held, temporary, metadata={"format": FORMAT, "facts": json.dumps(facts)})

    @staticmethod
    def load(path: str | Path, device: torch.device | str = "cpu") -> WorldState:
        """Read what save wrote.

        Raises:
            ValueError: Not a world state, one of another version, or damaged.
        """
        try:
            with safe_open(Path(path), "pt", device=str(device)) as file:
                metadata = file.metadata() or {}
                if metadata.get("format") != FORMAT:
                    raise ValueError(f"{path}: not a world state of this version; make one with --save-state")
                facts = json.loads(metadata["facts"])
                held = {name: file.get_tensor(name) for name in facts["tensors"]}
            return _assemble(facts, held)
        except FileNotFoundError as error:
            raise ValueError(f"{path}: no such file; make a world state with --save-state world.safetensors") from error
        except (SafetensorError, OSError, KeyError, TypeError, json.JSONDecodeError) as error:
            reason = " ".join(str(error).split())[:100]
            raise ValueError(f"{path}: the world state is damaged or cut short ({reason}); save it again") from error

    def _tensors(self) -> dict[str, Tensor]:
        held = {f"text.{name}": tensor for name, tensor in self.text.items()}
        held |= {f"decoder.{name}": tensor for name, tensor in self.decoder.items()}
        held |= {f"refiner.{name}": tensor for name, tensor in self.refiner.items()}
        held["first_latent"] = self.first_latent
        held["track.base"] = torch.from_numpy(self.track.base.copy())
        held["track.held"] = torch.from_numpy(self.track.held.astype(np.uint8))
        if self.latents is not None:
            held["latents"] = self.latents
        if self.memory is not None:
            for i, block in enumerate(self.memory.blocks):
                held |= {f"memory.{i}.{name}": tensor for name, tensor in block.items()}
        return held


def _assemble(facts: dict[str, Any], held: dict[str, Tensor]) -> WorldState:
    def part(prefix: str) -> dict[str, Tensor]:
        return {name.removeprefix(prefix): tensor for name, tensor in held.items() if name.startswith(prefix)}

    given = facts["settings"]
    pairs = {name: tuple(given[name]) for name in ("size", "lens", "steps")}
    track = CameraTrack(
        **facts["track"],
        base=held["track.base"].cpu().numpy(),
        held=held["track.held"].cpu().numpy().astype(bool),
    )
    memory = None
    if "memory" in facts:
        shape = facts["memory"]
        blocks = tuple(part(f"memory.{i}.") for i in range(shape["blocks"]))
        memory = Memory(blocks, tuple((n, f) for n, f in shape["window"]), shape["frames"], shape["chunks"])
    return WorldState(
        Settings(**(given | pairs)),
        part("text."),
        track,
        held["first_latent"],
        memory,
        held.get("latents"),
        part("decoder."),
        part("refiner."),
        facts["frames"],
    )


def fingerprint(model: nn.Module) -> str:
    """A short name for a transformer's weights: its config and its first and last layer, hashed."""
    transformer = transformer_of(model)
    digest = hashlib.sha256(json.dumps(transformer.config.to_dict(), sort_keys=True).encode())
    for layer in (transformer.x_embedder.proj, transformer.final_layer.linear):
        digest.update(layer.weight.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def require_model(state: WorldState, model: nn.Module) -> None:
    """Make sure that a state was made by a model.

    Raises:
        ValueError: By another one.
    """
    own = fingerprint(model)
    if state.settings.model != own:
        raise ValueError(
            f"the world state belongs to another model ({state.settings.model}, this one is {own}); "
            "load it with the model that made it"
        )
