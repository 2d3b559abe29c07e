"""Turns a model folder from NVlabs' layout to diffusers' and back; nothing is lost on the way.

Tensors keep their bits and types, and only change names. What diffusers has no place for (the tensors only training
used, NVlabs' config.yaml, where the weights lay) rides along in the folder `nvlabs/`, which diffusers does not read, so
that the way back gives what there was. Codec, text encoder and refiner are the same files in both layouts; they are
linked where the disk allows it and copied elsewhere. Reference: inference 10.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from sana_wm_core import loading
from sana_wm_core.config import TransformerConfig
from sana_wm_core.layouts import layout_of
from sana_wm_core.pipeline import Defaults
from sana_wm_core.weights import CLASS_NAME, WEIGHTS, _weight_files, published_name, read_checkpoint, read_config

_BACK = {"t_embedder.linear_1.": "t_embedder.mlp.0.", "t_embedder.linear_2.": "t_embedder.mlp.2."}
_WORDS = ("tokenizer", "special_tokens", "added_tokens", "chat_template", "vocab", "merges")
_SAME = ("vae", "refiner", "refiner_diffusers", "gemma3_12b", "ltx2_causal_vae")


def convert(source: str | Path, target: str | Path, to: str | None = None) -> str:
    """Write a model folder in the other layout; the folder appears whole or not at all.

    Args:
        source: Folder in NVlabs' layout (bidirectional, chunk-causal or streaming) or in diffusers'.
        target: Folder to write; must not exist, or be empty.
        to: "diffusers" or "nvlabs"; None = the other one.

    Returns:
        The layout that was written.

    Raises:
        ValueError: Nothing to convert, the same layout, a target that holds something, or damaged files.
    """
    source, target = Path(source).expanduser(), Path(target).expanduser()
    if not source.is_dir():
        raise ValueError(f"{source}: no such folder; give a model folder, such as SANA-WM_bidirectional")
    layout = layout_of(source)
    if layout == "pocket":
        raise ValueError(f"{source}: a pocket world; it has one layout only")
    other = "nvlabs" if layout == "diffusers" else "diffusers"
    if to not in (None, "diffusers", "nvlabs"):
        raise ValueError(f"--to {to} is not one of diffusers, nvlabs")
    if to not in (None, other):
        raise ValueError(f"{source}: is in {to} layout already; --to {other} is possible")
    with _whole_folder(target) as folder:
        if other == "diffusers":
            _to_diffusers(source, folder, layout)
        else:
            _to_nvlabs(source, folder)
    return other


def _to_diffusers(source: Path, folder: Path, layout: str) -> None:
    weights = _weights_of(source, layout)
    stored = _read(weights)
    beside = weights.parent / "config.json"
    config = read_config(beside) if beside.is_file() else TransformerConfig()
    tensors: dict[str, Tensor] = {}
    extras: dict[str, Tensor] = {}
    for name, tensor in stored.items():
        ours = published_name(name)
        if ours is None:
            extras[name.removeprefix("model.")] = tensor
        else:
            tensors[ours] = tensor
    _save(tensors, folder / "transformer" / WEIGHTS)
    _write_json(folder / "transformer" / "config.json", {"_class_name": CLASS_NAME, **config.to_dict()})
    origin = {"layout": layout, "weights": str(weights.relative_to(source)), "config_beside": beside.is_file()}
    _write_json(folder / "nvlabs" / "origin.json", origin)
    if extras:
        _save(extras, folder / "nvlabs" / "training_only.safetensors")
    if (source / "config.yaml").is_file():
        _place(source / "config.yaml", folder / "nvlabs" / "config.yaml")
    scheduler = loading._read_yaml(source / "config.yaml").get("scheduler") or {}
    shift = scheduler.get("inference_flow_shift") or scheduler.get("flow_shift") or Defaults.shift
    kind = "FlowMatchEulerDiscreteScheduler"
    _write_json(folder / "scheduler" / "scheduler_config.json", {"_class_name": kind, "shift": float(shift)})
    for name in _SAME:
        if (source / name).is_dir():
            _place(source / name, folder / ("vae" if name == "ltx2_causal_vae" else name))
    index: dict[str, Any] = {"_class_name": "SanaWMPipeline", "scheduler": ["diffusers", kind]}
    index |= {"transformer": ["diffusers", CLASS_NAME], "vae": ["diffusers", "AutoencoderKLLTX2Video"]}
    gemma = [p for p in (source / "text_encoder", source.parent / "gemma-2-2b-it") if (p / "config.json").is_file()]
    if gemma:
        for file in sorted(gemma[0].iterdir()):
            words = file.name.startswith(_WORDS)
            _place(file, folder / ("tokenizer" if words else "text_encoder") / file.name)
        index |= {"text_encoder": ["transformers", "Gemma2Model"], "tokenizer": ["transformers", "GemmaTokenizerFast"]}
    _write_json(folder / "model_index.json", index)


def _to_nvlabs(source: Path, folder: Path) -> None:
    kept = source / "nvlabs"
    released: dict[str, Any] = {
        "layout": "nvlabs",
        "weights": "dit/sana_wm_1600m_720p.safetensors",
        "config_beside": True,
    }
    path = kept / "origin.json"
    origin = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else released
    streaming = origin["layout"] == "streaming"
    tensors: dict[str, Tensor] = {}
    for file in _weight_files(source / "transformer"):
        tensors |= {_nvlabs_name(name): tensor for name, tensor in _read(file).items()}
    if (kept / "training_only.safetensors").is_file():
        tensors |= _read(kept / "training_only.safetensors")
    # Only the file's own name is taken from the record, so that no record can point outside of the folder.
    weights = folder / ("sana_dit" if streaming else "dit") / Path(origin["weights"]).name
    if streaming:
        weights.parent.mkdir(parents=True, exist_ok=True)
        torch.save({"generator": {f"model.{name}": tensor for name, tensor in tensors.items()}}, weights)
    else:
        _save(tensors, weights)
    config = read_config(source / "transformer" / "config.json")
    if origin["config_beside"] and config != TransformerConfig():
        _write_json(weights.parent / "config.json", config.to_dict())
    if (kept / "config.yaml").is_file():
        _place(kept / "config.yaml", folder / "config.yaml")
    elif not path.is_file():
        scheduler = source / "scheduler" / "scheduler_config.json"
        shift = (
            json.loads(scheduler.read_text()).get("shift", Defaults.shift) if scheduler.is_file() else Defaults.shift
        )
        (folder / "config.yaml").write_text(f"scheduler: {{inference_flow_shift: {float(shift)}}}\n", encoding="utf-8")
    for name in _SAME:
        if (source / name).is_dir():
            _place(source / name, folder / ("ltx2_causal_vae" if name == "vae" and streaming else name))
    for name in ("text_encoder", "tokenizer"):
        if (source / name).is_dir():
            _place(source / name, folder / "text_encoder")


def _weights_of(source: Path, layout: str) -> Path:
    inside, pattern = ("sana_dit", "*.pt") if layout == "streaming" else ("dit", "*.safetensors")
    found = sorted((source / inside).glob(pattern))
    if len(found) != 1:
        raise ValueError(f"{source / inside}: expected one {pattern} file, found {len(found)}; fetch the model again")
    return found[0]


def _nvlabs_name(name: str) -> str:
    for ours, theirs in _BACK.items():
        if name.startswith(ours):
            return theirs + name[len(ours) :]
    return name


def _read(file: Path) -> dict[str, Tensor]:
    if file.suffix != ".safetensors":
        return read_checkpoint(file)
    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{file}: damaged or cut short ({' '.join(str(error).split())}); fetch it again") from error


def _save(tensors: dict[str, Tensor], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # safetensors wants tensors that share no memory; a checkpoint's may.
    save_file({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, path, metadata={"format": "pt"})


def _write_json(path: Path, values: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def _place(source: Path, target: Path) -> None:
    """Link a file or the files of a folder to another place; copy them where links are not possible."""
    if source.is_dir():
        for entry in sorted(source.iterdir()):
            _place(entry, target / entry.name)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copy2(source, target)


@contextmanager
def _whole_folder(target: Path) -> Iterator[Path]:
    """A temporary folder beside the target that takes its place at the end; on any error it is removed."""
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ValueError(f"{target}: is not empty; give a new folder")
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.parent / f".{target.name}.{os.getpid()}.partial"
    temporary.mkdir()
    try:
        yield temporary
        if target.exists():
            target.rmdir()
        os.replace(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
