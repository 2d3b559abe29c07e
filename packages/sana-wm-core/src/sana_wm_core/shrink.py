"""Writes a smaller copy of a model folder: fewer bits, and without the weights that nothing here runs.

Left out are Gemma-3's picture tower, LTX-2's sound, and a training checkpoint's critic and optimisers. With fp8 and fp4
the linear layers of both transformers are stored as in stored.py; the loaders here turn them back. Cameras,
recurrences, filters, norms and the codec keep their precision.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sana_wm_core.convert import _place, _weights_of, _whole_folder
from sana_wm_core.fidelity import LIMIT, camera_response, require_camera, response_error
from sana_wm_core.layouts import layout_of
from sana_wm_core.pocket import BUNDLED
from sana_wm_core.precision import PRECISIONS, REFINER_LAYERS, STAGE_1_LAYERS
from sana_wm_core.stored import GROUP, to_float4, to_float8
from sana_wm_core.weights import load_transformer, read_checkpoint

_FORMATS = {"fp8": to_float8, "fp4": to_float4}
_SOUND = re.compile(r"audio|av_cross_attn|a2v|v2a|video_to_audio")
_SIGHT = re.compile(r"vision_tower|multi_modal_projector|vision_model")


class Shrunk(NamedTuple):
    """One file before and after.

    Attributes:
        name: Path inside the folder.
        before: Bytes.
        after: Bytes.
        dropped: Tensors left out.
    """

    name: str
    before: int
    after: int
    dropped: int


def shrink(
    source: str | Path, target: str | Path, precision: str = "fp8", limit: float = LIMIT
) -> tuple[list[Shrunk], float]:
    """Write the smaller copy; the folder appears whole or not at all.

    Args:
        source: Model folder in any published layout, or a pocket world's; "pocket" or "pocket-streaming" bundled.
        target: Folder to write; must not exist, or be empty.
        precision: "bf16", "fp8" or "fp4".
        limit: How much of the response to the camera may be lost; see fidelity.

    Returns:
        The files that changed, and how much of the response to the camera is lost.

    Raises:
        ValueError: Not a model folder, an unknown precision, a target that holds something, or damaged files.
    """
    source, target = BUNDLED.get(str(source), Path(source).expanduser()), Path(target).expanduser()
    if precision not in PRECISIONS:
        raise ValueError(f"--precision {precision} is not one of {', '.join(PRECISIONS)}")
    if not source.is_dir():
        raise ValueError(f"{source}: no such folder; give a model folder, such as SANA-WM_bidirectional, or pocket")
    layout_of(source)
    written = []
    with _whole_folder(target) as folder:
        for path in sorted(p for p in source.rglob("*") if p.is_file()):
            inside = path.relative_to(source)
            role = role_of(inside)
            if role is None:
                _place(path, folder / inside)
            elif path.name.endswith(".index.json"):
                _write_index(path, folder / inside, role)
            else:
                written.append(_write(path, folder / inside, str(inside), role, precision))
        error = _camera_error(source, folder)
        require_camera(error, precision, limit)
    return written, error


def _camera_error(source: Path, folder: Path) -> float:
    """Loss of the response to the camera from one model folder to its copy; one model is in memory at a time."""
    layout = layout_of(source)
    inside = (
        Path("transformer") if layout in ("diffusers", "pocket") else _weights_of(source, layout).relative_to(source)
    )
    before = camera_response(load_transformer(source / inside, dtype=torch.float32))
    return response_error(before, camera_response(load_transformer(folder / inside, dtype=torch.float32)))


class Role(NamedTuple):
    """What a file of weights is part of: names to leave out, and linear layers to store in fewer bits."""

    unused: re.Pattern[str] | None
    linear: re.Pattern[str] | None


def role_of(inside: Path) -> Role | None:
    """The role of a file by its place in a model folder; None = keep it as it is."""
    weights = inside.suffix in (".safetensors", ".pt") or inside.name.endswith(".safetensors.index.json")
    if not weights or inside.parts[0] == "nvlabs":
        return None
    folders = inside.parts[:-1]
    second = bool(folders) and folders[0] in ("refiner", "refiner_diffusers")
    if second and "transformer" in folders:
        return Role(_SOUND, REFINER_LAYERS)
    if second and "connectors" in folders:
        return Role(_SOUND, None)
    if folders and (folders[0] == "gemma3_12b" or (second and "text_encoder" in folders)):
        return Role(_SIGHT, None)
    if folders and folders[0] in ("dit", "sana_dit", "transformer"):
        return Role(None, STAGE_1_LAYERS)
    return Role(None, None) if folders and folders[0] == "text_encoder" else None


def _write(path: Path, target: Path, name: str, role: Role, precision: str) -> Shrunk:
    target.parent.mkdir(parents=True, exist_ok=True)
    out: dict[str, Tensor] = {}
    dropped = 0

    def take(stored: str, read: Callable[[], Tensor]) -> None:
        nonlocal dropped
        if role.unused is not None and role.unused.search(stored):
            dropped += 1
            return
        tensor = read()
        layer = stored.removesuffix(".weight").removesuffix(".conv").removeprefix("model.")
        fewer = None
        if role.linear is not None and _is_linear(stored, tensor) and role.linear.search(layer):
            fewer = _FORMATS.get(precision)
        # NVFP4 has no form for a width that its groups do not fill.
        if fewer is to_float4 and tensor.shape[1] % GROUP:
            fewer = None
        if fewer is not None:
            out.update({stored + end: made for end, made in fewer(tensor).items()})
        else:
            out[stored] = tensor.to(torch.bfloat16) if tensor.dtype == torch.float32 and tensor.ndim > 1 else tensor

    if path.suffix == ".pt":
        state = read_checkpoint(path)
        for stored, tensor in state.items():
            take(stored, lambda tensor=tensor: tensor)  # type: ignore[misc]
        torch.save({"generator": {stored: tensor.clone() for stored, tensor in out.items()}}, target)
    else:
        try:
            with safe_open(path, "pt") as opened:
                for stored in opened.keys():  # noqa: SIM118 - not a dict
                    take(stored, lambda stored=stored: opened.get_tensor(stored))  # type: ignore[misc]
        except (SafetensorError, OSError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"{path}: damaged or cut short ({reason}); fetch it again") from error
        save_file({stored: tensor.contiguous() for stored, tensor in out.items()}, target, metadata={"format": "pt"})
    return Shrunk(name, path.stat().st_size, target.stat().st_size, dropped)


def _write_index(path: Path, target: Path, role: Role) -> None:
    index = json.loads(path.read_text(encoding="utf-8"))
    unused = role.unused
    if unused is not None:
        index["weight_map"] = {name: file for name, file in index["weight_map"].items() if not unused.search(name)}
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _is_linear(name: str, tensor: Tensor) -> bool:
    pointwise = tensor.ndim == 4 and tensor.shape[2:] == (1, 1)
    return name.endswith(".weight") and (tensor.ndim == 2 or pointwise) and tensor.is_floating_point()
