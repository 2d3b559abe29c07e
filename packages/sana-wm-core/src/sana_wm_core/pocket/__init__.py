"""The pocket world: a world model small enough to ship, of the same architecture class as the released one.

`load_pocket()` reads the bundled weights; `save_pocket()` writes such a folder after training. The transformer is a
SanaWMTransformer in the diffusers layout, so everything that loads the released model loads this one. Beside the whole
clip's model lies its few-step student, which makes a clip chunk by chunk and shares codec and text encoder with it.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from sana_wm_core.model import SanaWMTransformer
from sana_wm_core.pocket.codec import PocketCodec, PocketCodecConfig
from sana_wm_core.pocket.text import PocketTextConfig, PocketTextEncoder
from sana_wm_core.releases import BUNDLED
from sana_wm_core.sampling.choice import WholeClipStudent
from sana_wm_core.sampling.denoiser import WienerVelocity
from sana_wm_core.sampling.sampler import Sampler
from sana_wm_core.sampling.student import ChunkSampler, check_steps, grid_steps

WEIGHTS = BUNDLED["pocket"]
DEMO = Path(__file__).parent / "demo"


class PocketPreset(BaseModel):
    """What the pocket world was trained at, and how it is sampled."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    height: int = Field(96, description="Picture height in pixels.")
    width: int = Field(160, description="Picture width in pixels.")
    frames: int = Field(65, description="Raw frames, 1 + 8k.")
    fps: int = Field(16, description="Frames per second.")
    steps: int = Field(12, description="Sampler steps.")
    cfg_scale: float = Field(1.0, description="Guidance scale; 1 = off.")
    flow_shift: float = Field(2.0, description="Flow shift of the sampler's grid.")
    chunk: int = Field(0, ge=0, description="Latent frames made at a time, by chunk-causal weights; 0 = whole clips.")
    step_list: tuple[float, ...] = Field((), description="The only timesteps that distilled weights know.")
    borrows: bool = Field(False, description="Codec and text encoder are the bundled pocket world's.")
    latent_spread: tuple[float, ...] | None = Field(
        None,
        description="Spread of each latent channel, when the transformer is one for WienerVelocity.",
    )
    fov_deg: float = Field(70.0, description="Horizontal field of view of the training pictures, degrees.")
    translation_speed: float = Field(0.05, description="Metres per held frame.")
    rotation_speed_deg: float = Field(1.2, description="Degrees per held frame.")

    @model_validator(mode="after")
    def _check_steps(self) -> PocketPreset:
        if self.step_list:
            check_steps(self.step_list)
            if not self.chunk:
                raise ValueError("step_list is for weights that make chunks; chunk must be above 0, for example 3")
        return self

    def sampler(self, steps: int | None = None) -> Sampler | WholeClipStudent:
        """The sampler these weights were made for.

        Args:
            steps: Another number of steps than the preset's.

        Raises:
            ValueError: Another number of steps than the list of distilled weights has.
        """
        if self.step_list and steps not in (None, len(self.step_list) - 1):
            known = ",".join(f"{step:g}" for step in self.step_list)
            raise ValueError(f"steps={steps}: these weights know only the timesteps {known}; leave the steps out")
        if not self.chunk:
            return Sampler(steps or self.steps, self.cfg_scale, self.flow_shift)
        walk = self.step_list or grid_steps(steps or self.steps, self.flow_shift)
        return WholeClipStudent(ChunkSampler(walk, self.cfg_scale, self.chunk))


class Pocket(NamedTuple):
    """The four parts of the pocket world."""

    transformer: SanaWMTransformer
    codec: PocketCodec
    text_encoder: PocketTextEncoder
    preset: PocketPreset

    @property
    def velocity(self) -> nn.Module:
        """The transformer as the velocity model a sampler calls."""
        spread = self.preset.latent_spread
        return self.transformer if spread is None else WienerVelocity(self.transformer, torch.tensor(spread))


def load_pocket(folder: str | Path | None = None) -> Pocket:
    """Read a pocket world, the bundled one if no folder is given; float32, in eval mode.

    Args:
        folder: A folder, or "pocket" or "pocket-streaming" for a bundled one.

    Raises:
        ValueError: A file is missing or damaged.
    """
    folder = WEIGHTS if folder is None else BUNDLED.get(str(folder), Path(folder))
    preset_file = folder / "preset.json"
    if not preset_file.is_file():
        raise ValueError(f"{folder}: no preset.json, so this is no pocket world; train one with runs/pocket.sh")
    try:
        preset = PocketPreset.model_validate_json(preset_file.read_text())
    except ValidationError as error:
        wrong = error.errors()[0]
        where = ".".join(str(part) for part in wrong["loc"]) or "fields"
        raise ValueError(f"{preset_file}: {where}: {wrong['msg'].removeprefix('Value error, ')}") from error
    parts = WEIGHTS if preset.borrows else folder
    transformer = SanaWMTransformer.from_pretrained(folder, subfolder="transformer", dtype=torch.float32)
    codec = PocketCodec(PocketCodecConfig.model_validate_json(_metadata(parts / "codec.safetensors")))
    text = PocketTextEncoder(PocketTextConfig.model_validate_json(_metadata(parts / "text.safetensors")))
    _fill(codec, parts / "codec.safetensors")
    _fill(text, parts / "text.safetensors")
    return Pocket(transformer.eval(), codec.eval(), text.eval(), preset)


def save_pocket(pocket: Pocket, folder: str | Path, dtype: torch.dtype = torch.float16) -> None:
    """Write a pocket world that load_pocket reads; without codec and text encoder where its preset borrows them."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    pocket.transformer.to(dtype).save_pretrained(folder / "transformer")
    own = () if pocket.preset.borrows else (("codec", pocket.codec), ("text", pocket.text_encoder))
    for name, part in own:
        state = {k: v.detach().to(dtype).contiguous() for k, v in part.state_dict().items()}
        temporary = folder / f".{name}.{os.getpid()}"
        save_file(state, temporary, metadata={"config": part.config.model_dump_json()})
        os.replace(temporary, folder / f"{name}.safetensors")
    temporary = folder / f".preset.{os.getpid()}"
    temporary.write_text(json.dumps(pocket.preset.model_dump(), indent=2) + "\n")
    os.replace(temporary, folder / "preset.json")


def _metadata(path: Path) -> str:
    try:
        with safe_open(path, "pt") as file:
            return file.metadata()["config"]
    except (OSError, SafetensorError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: not a readable pocket weights file ({error}); fetch the package again") from error


def _fill(module: nn.Module, path: Path) -> None:
    state = {k: v.float() for k, v in load_file(path).items()}
    wanted = module.state_dict()
    wrong = [k for k in sorted(wanted.keys() | state.keys()) if k not in wanted or k not in state]
    wrong += [k for k in wanted if k in state and wanted[k].shape != state[k].shape]
    if wrong:
        raise ValueError(f"{path}: {len(wrong)} tensors do not fit, first {wrong[:3]}; fetch the package again")
    module.load_state_dict(state)
