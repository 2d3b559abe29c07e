"""From two training runs to one pocket world in a folder."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file

from sana_wm_core.model import SanaWMTransformer
from sana_wm_core.pocket import Pocket, PocketPreset, save_pocket
from sana_wm_core.pocket.codec import PocketCodec, PocketCodecConfig
from sana_wm_core.pocket.text import PocketTextEncoder
from sana_wm_core.training.recipe import load_recipe


def load_codec(run: str | Path) -> PocketCodec:
    """The codec of a run folder, in eval mode.

    Raises:
        ValueError: The folder has no codec checkpoint.
    """
    path = Path(run) / "codec_last.safetensors"
    if not path.is_file():
        raise ValueError(f"{run}: no codec_last.safetensors; fit one with `sana-wm train codec`")
    with safe_open(path, "pt") as file:
        config = PocketCodecConfig.model_validate_json(file.metadata()["codec_config"])
    codec = PocketCodec(config)
    codec.load_state_dict({k[6:]: v for k, v in load_file(path).items() if k.startswith("codec.")})
    return codec.eval()


def assemble_pocket(
    codec_run: str | Path, world_run: str | Path, recipe: str, changes: list[str] | None = None
) -> Pocket:
    """The pocket world of two runs, averaged weights in it, ready to sample.

    Raises:
        ValueError: A run folder without a checkpoint.
    """
    plan = load_recipe(recipe, changes)
    path = Path(world_run) / "last.safetensors"
    if not path.is_file():
        raise ValueError(f"{world_run}: no last.safetensors; train one with `sana-wm train world`")
    tensors = load_file(path)
    # Averaged weights where there are some, live buffers elsewhere.
    state = {k[6:]: v for k, v in tensors.items() if k.startswith("model.")}
    state |= {k[8:]: v for k, v in tensors.items() if k.startswith("average.")}
    transformer = SanaWMTransformer(plan.model)
    text = PocketTextEncoder(plan.text)
    transformer.load_state_dict({k[12:]: v for k, v in state.items() if k.startswith("transformer.")})
    text.load_state_dict({k[5:]: v for k, v in state.items() if k.startswith("text.")})
    spread = [round(float(s), 4) for s in tensors["spread"]] if plan.train.prediction == "wiener" else None
    preset = PocketPreset.model_validate({**plan.sampling, "latent_spread": spread})
    return Pocket(transformer.eval(), load_codec(codec_run), text.eval(), preset)


def export_pocket(
    codec_run: str | Path, world_run: str | Path, out: str | Path, recipe: str, changes: list[str] | None = None
) -> int:
    """Write the pocket world of two runs to a folder, float16; returns its size in bytes."""
    save_pocket(assemble_pocket(codec_run, world_run, recipe, changes), out, torch.float16)
    return sum(p.stat().st_size for p in Path(out).rglob("*") if p.is_file())
