"""Opens a world model in any published file layout, and says where its second stage lies.

| layout | first stage | codec | second stage |
|---|---|---|---|
| pocket | bundled, or a folder with preset.json | the same | none |
| diffusers | transformer/ | vae/ | refiner/, if there |
| NVlabs bidirectional | dit/*.safetensors, config.yaml | vae/ | refiner/ with text_encoder/ in it |
| NVlabs chunk-causal | dit/*.safetensors, config.yaml | of SANA-WM_bidirectional | of SANA-WM_bidirectional |
| NVlabs streaming | sana_dit/model.pt | ltx2_causal_vae/ | refiner_diffusers/, gemma3_12b/ |

Reference: inference 1.3, 10.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from sana_wm_core import loading
from sana_wm_core.hub import BIDIRECTIONAL, fetch_file, fetch_folder
from sana_wm_core.pipeline import Defaults, WorldPipeline
from sana_wm_core.pocket import BUNDLED
from sana_wm_core.sampling.student import STUDENT_STEPS, check_steps, transformer_of
from sana_wm_core.text import RELEASED_PREFIX, TEXT_LENGTH

STREAMING_DEFAULTS = Defaults(
    frames=241, guidance=1.0, shift=8.0, sampler="self_forcing", step_list=STUDENT_STEPS, chunk=3
)


class RefinerFolders(NamedTuple):
    """Where a second stage lies: transformer/ and connectors/ in one folder, Gemma-3 in the other.

    Attributes:
        required: Whether the model is meant to be refined, so that absent files are an error.
        hub_id: Repository they can be fetched from, if the model came from one.
    """

    root: Path
    gemma: Path
    required: bool
    hub_id: str | None = None

    @property
    def complete(self) -> bool:
        """Whether the files are on this machine."""
        return all(
            (part / "config.json").is_file()
            for part in (self.root / "transformer", self.root / "connectors", self.gemma)
        )


class World(NamedTuple):
    """A model, its layout, and its second stage if it can have one."""

    pipeline: WorldPipeline
    layout: str
    refiner: RefinerFolders | None


def open_world(
    model: str | Path = "pocket",
    *,
    config: str | Path | None = None,
    weights: str | Path | None = None,
    codec: str | Path | None = None,
    dtype: torch.dtype | None = None,
    device: str | torch.device = "cpu",
    offload_codec: bool = False,
) -> World:
    """Load a world model.

    Args:
        model: "pocket", "pocket-streaming", a folder in one of the layouts above, or a hub id.
        config: Another config.yaml than the folder's own (NVlabs layouts).
        weights: Other transformer weights than the folder's own.
        codec: Another VAE folder than the folder's own (streaming layout).
        dtype: Data type of transformer and text encoder; None = bfloat16 on a GPU, float32 on a CPU.
        device: Where the model works.
        offload_codec: Keep the codec off the GPU except while it works.

    Raises:
        ValueError: Nothing usable there, or files that do not fit each other; says what is missing and where it goes.
    """
    folder = loading._folder_of(str(model))
    hub_id = None if str(model) in BUNDLED or Path(model).expanduser().is_dir() else str(model).removeprefix("hf://")
    layout = layout_of(folder)
    _require_use(layout, config=config, weights=weights, codec=codec)
    device = torch.device(device)
    dtype = dtype or (torch.bfloat16 if device.type == "cuda" else torch.float32)
    refiner = None
    if layout == "pocket":
        pipeline = loading._load_pocket(folder)
    elif layout == "diffusers":
        pipeline = loading._load_published(folder, weights, dtype)
        refiner = RefinerFolders(folder / "refiner", folder / "refiner" / "text_encoder", False)
    elif layout == "streaming":
        pipeline = _load_streaming(folder, config, weights, codec, dtype)
        refiner = RefinerFolders(folder / "refiner_diffusers", folder / "gemma3_12b", True, hub_id)
    else:
        companion = folder if (folder / "vae" / "config.json").is_file() else _companion(folder)
        pipeline = _load_nvlabs(folder, companion, config, weights, dtype)
        root = companion / "refiner"
        shared = hub_id if companion == folder else BIDIRECTIONAL
        refiner = RefinerFolders(root, root / "text_encoder", True, shared)
    if layout != "pocket":
        _check_parts(pipeline, folder)
    pipeline.offload_codec = offload_codec
    return World(pipeline.to(device), layout, refiner)


def layout_of(folder: Path) -> str:
    """Which layout a folder has: pocket, diffusers, streaming or nvlabs.

    Raises:
        ValueError: None of them.
    """
    if (folder / "model_index.json").is_file():
        return "diffusers"
    if (folder / "preset.json").is_file():
        return "pocket"
    if (folder / "sana_dit").is_dir():
        return "streaming"
    if (folder / "dit").is_dir() or (folder / "config.yaml").is_file():
        return "nvlabs"
    raise ValueError(
        f"{folder}: no model in this folder; expected model_index.json (diffusers layout), dit/ with config.yaml "
        "(NVlabs layout), sana_dit/ (streaming) or preset.json (pocket)"
    )


def _require_use(layout: str, **given: str | Path | None) -> None:
    """Refuse files that a layout has no use for, rather than leave them out without a word."""
    used = {"streaming": ("config", "weights", "codec"), "nvlabs": ("config", "weights"), "diffusers": ("weights",)}
    flags = {"config": "--config", "weights": "--model_path", "codec": "--causal_vae_path"}
    for name, path in given.items():
        if path is not None and name not in used.get(layout, ()):
            can = ", ".join(flags[other] for other in used.get(layout, ())) or "none"
            raise ValueError(f"{flags[name]} {path}: a model in {layout} layout has no use for it (it takes: {can})")


def _own_config(folder: Path) -> Path:
    """config.yaml, or the one .yaml under another name that the streaming release's script brings along."""
    named = folder / "config.yaml"
    others = sorted(folder.glob("*.yaml"))
    return others[0] if not named.is_file() and len(others) == 1 else named


def _companion(folder: Path) -> Path:
    """The bidirectional release, whose codec and refiner the chunk-causal one shares."""
    beside = folder.parent / BIDIRECTIONAL.partition("/")[2]
    return beside if (beside / "vae" / "config.json").is_file() else fetch_folder(BIDIRECTIONAL, "codec")


def _load_nvlabs(
    folder: Path, companion: Path, config: str | Path | None, weights: str | Path | None, dtype: torch.dtype
) -> WorldPipeline:
    config_file = fetch_file(config) if config else _own_config(folder)
    settings = loading._read_yaml(config_file)
    source = fetch_file(weights or _only(folder / "dit", "*.safetensors", "sana_wm_1600m_720p.safetensors (10 GB)"))
    encoder = _text_encoder((folder, companion), settings, dtype)
    pipeline = WorldPipeline(
        loading._load_transformer(source, dtype),
        loading._load_vae(companion / "vae"),
        encoder,
        _defaults(settings, Defaults()),
        sources=_sources(transformer=source, vae=companion / "vae", config=config_file),
    )
    return pipeline


def _load_streaming(
    folder: Path,
    config: str | Path | None,
    weights: str | Path | None,
    codec: str | Path | None,
    dtype: torch.dtype,
) -> WorldPipeline:
    config_file = fetch_file(config) if config else _own_config(folder)
    settings = loading._read_yaml(config_file)
    source = fetch_file(weights or _only(folder / "sana_dit", "*.pt", "model.pt (the published training checkpoint)"))
    vae = fetch_file(codec or folder / "ltx2_causal_vae")
    vae = vae if (vae / "config.json").is_file() else vae / "vae"
    if not (vae / "config.json").is_file():
        raise ValueError(f"{vae.parent}: no causal VAE there (config.json is missing); fetch ltx2_causal_vae again")
    beside = folder.parent / BIDIRECTIONAL.partition("/")[2]
    encoder = _text_encoder((folder, beside), settings, dtype)
    pipeline = WorldPipeline(
        loading._load_transformer(source, dtype),
        loading._load_vae(vae),
        encoder,
        _defaults(settings, STREAMING_DEFAULTS),
        sources=_sources(transformer=source, vae=vae, config=config_file),
    )
    if not getattr(pipeline.codec, "is_causal", False):
        raise ValueError(
            f"{vae}: this VAE's decoder looks ahead (decoder_causal is false); streaming needs the one of "
            "SANA-WM_streaming/ltx2_causal_vae"
        )
    return pipeline


def _only(folder: Path, pattern: str, wanted: str) -> Path:
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        raise ValueError(f"{folder}: expected one {pattern} file, found {len(found)}; put {wanted} there")
    return found[0]


def _text_encoder(folders: tuple[Path, ...], settings: dict[str, Any], dtype: torch.dtype) -> Any:
    text = _section(settings, "text_encoder")
    prefix = "\n".join(text["chi_prompt"] or []) if "chi_prompt" in text else RELEASED_PREFIX
    places = [*folders, *(folder.parent for folder in folders)]
    names = ("text_encoder", "gemma-2-2b-it")
    local = [place / name for place in places for name in names if (place / name / "config.json").is_file()]
    gemma = local[0] if local else fetch_folder(loading.GEMMA)
    return loading._load_gemma(gemma, gemma, dtype, prefix, int(text.get("model_max_length", TEXT_LENGTH)))


def _defaults(settings: dict[str, Any], own: Defaults) -> Defaults:
    scheduler, model = _section(settings, "scheduler"), _section(settings, "model")
    shift = scheduler.get("inference_flow_shift") or scheduler.get("flow_shift") or own.shift
    # Only these two are taken from the file: the released one names a solver that the released script does not use.
    named = scheduler.get("vis_sampler")
    sampler = named if named in ("chunk_flow_euler", "self_forcing") else own.sampler
    rule = str(model.get("chunk_split_strategy", own.chunk_rule))
    chunk = own.chunk if sampler == "flow_euler_ltx" else int(model.get("chunk_size", own.chunk))
    stored = tuple(float(step) for step in scheduler.get("denoising_step_list") or ())
    steps = check_steps(stored) if stored else own.step_list
    own = replace(own, shift=float(shift), sampler=sampler, chunk=chunk, chunk_rule=rule)
    return replace(own, step_list=steps, fixed_steps=bool(stored))


def _check_parts(pipeline: WorldPipeline, source: Path) -> None:
    """Refuse parts of different models."""
    config = transformer_of(pipeline.transformer).config
    channels = pipeline.codec.latent_channels
    if channels != config.in_channels:
        raise ValueError(
            f"{source}: the codec has {channels} latent channels, the transformer wants {config.in_channels}; they are "
            "of different models"
        )
    width = getattr(getattr(getattr(pipeline.text_encoder, "model", None), "config", None), "hidden_size", None)
    if width not in (None, config.caption_channels):
        raise ValueError(
            f"{source}: the text encoder is {width} wide, the transformer wants {config.caption_channels}; the "
            "released models use gemma-2-2b-it"
        )


def _section(settings: dict[str, Any], name: str) -> dict[str, Any]:
    """A named section of a config.yaml; empty where there is none, or where the name holds a single value."""
    section = settings.get(name)
    return section if isinstance(section, dict) else {}


def _sources(**paths: Path) -> dict[str, Path]:
    return {name: path for name, path in paths.items() if path.exists()}
