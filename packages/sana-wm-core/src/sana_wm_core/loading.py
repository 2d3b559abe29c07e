"""Reads the parts of a world model from disk; layouts says which of them a folder holds."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from sana_wm_core.codecs.ltx2 import LTX2Codec
from sana_wm_core.hub import fetch_file, fetch_folder
from sana_wm_core.pipeline import Defaults, WorldPipeline
from sana_wm_core.sampling.chunks import streaming_chunks
from sana_wm_core.text import RELEASED_PREFIX, TEXT_LENGTH, Gemma2TextEncoder

GEMMA = "Efficient-Large-Model/gemma-2-2b-it"
_HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$")


def _folder_of(model: str) -> Path:
    from sana_wm_core.pocket import BUNDLED

    path = BUNDLED.get(model, Path(model).expanduser())
    if path.is_dir():
        return path
    if model in BUNDLED:
        raise ValueError(
            f"{model}: its weights are not in this package; use pocket, or train them with runs/pocket_streaming.sh"
        )
    if path.is_file():
        raise ValueError(f"{path}: is a file; --model takes pocket, a model folder or a hub id (owner/name)")
    hub_id = model.removeprefix("hf://")
    if not _HUB_ID.match(hub_id) or model.startswith((".", "/", "~")):
        raise ValueError(f"{model}: no such folder; --model takes pocket, a model folder or a hub id (owner/name)")
    return fetch_folder(hub_id)


def _load_pocket(folder: Path) -> WorldPipeline:
    from sana_wm_core.pocket import load_pocket

    pocket = load_pocket(folder)
    preset = pocket.preset
    defaults = Defaults(
        height=preset.height,
        width=preset.width,
        frames=preset.frames,
        fps=preset.fps,
        steps=preset.steps,
        guidance=preset.cfg_scale,
        shift=preset.flow_shift,
        fov_deg=preset.fov_deg,
        translation_speed=preset.translation_speed,
        rotation_speed_deg=preset.rotation_speed_deg,
    )
    if preset.chunk:
        latents = 1 + (preset.frames - 1) // pocket.codec.temporal_stride
        defaults = replace(
            defaults,
            sampler="self_forcing",
            step_list=preset.step_list,
            fixed_steps=bool(preset.step_list),
            chunk=preset.chunk,
            first_chunk=[*streaming_chunks(latents, preset.chunk), latents][1],
        )
    return WorldPipeline(pocket.velocity, pocket.codec, pocket.text_encoder, defaults, sources={"weights": folder})


def _load_published(folder: Path, weights: str | Path | None, dtype: torch.dtype) -> WorldPipeline:
    _need(folder, "transformer/config.json", "vae/config.json", "text_encoder/config.json", "tokenizer")
    scheduler = folder / "scheduler" / "scheduler_config.json"
    shift = json.loads(scheduler.read_text()).get("shift", Defaults.shift) if scheduler.is_file() else Defaults.shift
    source = fetch_file(weights or folder / "transformer")
    transformer = _load_transformer(source, dtype)
    text = _load_gemma(folder / "text_encoder", folder / "tokenizer", dtype)
    parts = ("model_index.json", "scheduler", "text_encoder", "tokenizer", "vae")
    sources = {"transformer": source, **{name: folder / name for name in parts if (folder / name).exists()}}
    defaults = replace(Defaults(), shift=float(shift))
    return WorldPipeline(transformer, _load_vae(folder / "vae"), text, defaults, sources=sources)


def _load_transformer(source: Path, dtype: torch.dtype) -> nn.Module:
    from sana_wm_core.model import SanaWMTransformer

    return SanaWMTransformer.from_pretrained(source, dtype=dtype).eval()


def _load_vae(folder: Path) -> LTX2Codec:
    from diffusers import AutoencoderKLLTX2Video

    try:
        # float32: the decoder's last layers lose visible precision in bfloat16.
        vae, fit = AutoencoderKLLTX2Video.from_pretrained(
            folder, torch_dtype=torch.float32, local_files_only=True, output_loading_info=True
        )
    except (OSError, SafetensorError, ValueError, RuntimeError, TypeError) as error:
        raise ValueError(f"{folder}: the LTX-2 VAE cannot be read ({_one_line(error)}); fetch it again") from error
    _need_all(folder, fit)
    codec = LTX2Codec(vae)
    codec.enable_tiling()
    return codec


def _load_gemma(
    folder: Path, tokenizer_folder: Path, dtype: torch.dtype, prefix: str = RELEASED_PREFIX, length: int = TEXT_LENGTH
) -> Gemma2TextEncoder:
    from transformers import AutoTokenizer, Gemma2Model

    try:
        tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder, local_files_only=True, trust_remote_code=False)
        model, fit = Gemma2Model.from_pretrained(folder, dtype=dtype, local_files_only=True, output_loading_info=True)
    except (OSError, SafetensorError, ValueError, RuntimeError, TypeError) as error:
        raise ValueError(f"{folder}: Gemma-2 cannot be read ({_one_line(error)}); fetch it again") from error
    _need_all(folder, fit)
    return Gemma2TextEncoder(tokenizer, model, prefix=prefix, length=length)


def _read_yaml(path: Path) -> dict[str, Any]:
    import yaml

    if not path.is_file():
        return {}
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a readable YAML file ({_one_line(error)})") from error
    if not isinstance(settings, dict):
        raise ValueError(f"{path}: expected named sections such as scheduler: and text_encoder:")
    return settings


def _need(folder: Path, *names: str) -> None:
    missing = [name for name in names if not (folder / name).exists()]
    if missing:
        raise ValueError(f"{folder}: the model is incomplete, missing {', '.join(missing)}; fetch it again")


def _need_all(folder: Path, fit: dict[str, Any]) -> None:
    """Refuse weights with gaps: both libraries would fill them with random numbers and only log it."""
    wrong = [*fit.get("missing_keys", ()), *(key[0] for key in fit.get("mismatched_keys", ()))]
    if wrong:
        names = ", ".join(sorted(wrong)[:3])
        raise ValueError(f"{folder}: {len(wrong)} weights are missing or do not fit, first {names}; fetch it again")


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
