"""Weights a stage begins with: an earlier run, a published file or nothing; what may be missing is said aloud."""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from sana_wm_core.config import TransformerConfig
from sana_wm_core.model import SanaWMTransformer
from sana_wm_core.pocket import BUNDLED
from sana_wm_core.training.stages import Start

_CAMERA_OF = {
    "q_norm_cam.weight": "q_norm.weight",
    "k_norm_cam.weight": "k_norm.weight",
    "conv_q_cam.weight": "conv_q.weight",
    "conv_k_cam.weight": "conv_k.weight",
    "conv_v_cam.weight": "conv_v.weight",
}


def read_start(path: str) -> dict[str, Tensor]:
    """Tensors of a transformer by published name: a stage's run, a bundled world, a folder or a file of weights.

    Raises:
        ValueError: Nothing to read there.
    """
    from sana_wm_core.training.checkpoint import complete, read_weights

    if path in BUNDLED:
        path = str(BUNDLED[path] / "transformer")
    place = Path(path)
    if place.is_dir() and (complete(place) or place.name.startswith("step-")):
        return read_weights(place)
    if place.is_file() and place.suffix == ".safetensors":
        state = load_file(place)
        runs = [k for k in state if k.startswith(("average.transformer.", "model.transformer."))]
        if runs:  # last.safetensors of `sana-wm train world`
            live = {k.removeprefix("model.transformer."): state[k] for k in runs if k.startswith("model.")}
            mean = {k.removeprefix("average.transformer."): state[k] for k in runs if k.startswith("average.")}
            return live | mean
    else:
        for inside in (place, place / "transformer"):
            state = {k: t for file in sorted(inside.glob("*.safetensors")) for k, t in load_file(file).items()}
            if state:
                break
        else:
            raise ValueError(
                f"start.path={path}: no weights there; give a stage's run, a folder or a .safetensors file"
            )
    renamed = {"t_embedder.mlp.0.": "t_embedder.linear_1.", "t_embedder.mlp.2.": "t_embedder.linear_2."}
    for old, new in renamed.items():
        state = {k.replace(old, new): t for k, t in state.items()}
    return {k: t for k, t in state.items() if k not in ("pos_embed", "y_embedder.y_embedding")}


@torch.no_grad()
def begin(config: TransformerConfig, start: Start, seed: int) -> tuple[SanaWMTransformer, list[str]]:
    """A transformer with its first weights, the same on every rank, and the names that started anew.

    A camera branch that starts anew is a copy of its main branch with a silent output.

    Raises:
        ValueError: Weights of another shape, or missing or foreign names that start does not allow.
    """
    with torch.random.fork_rng(devices=[]):
        # Not all weights are set by init_weights; some have theirs from the constructor.
        torch.manual_seed(seed)
        model = SanaWMTransformer(config)
        model.init_weights()
    own = model.state_dict()
    if not start.path:
        return model, sorted(own)
    given = {k: t for k, t in read_start(start.path).items() if not _fits(k, start.reinitialise)}
    foreign = sorted(k for k in given if k not in own and not _fits(k, start.may_have))
    lacking = sorted(k for k in own if k not in given)
    silent = [k for k in lacking if not _fits(k, [*start.reinitialise, *start.may_lack, "*.recall_gate"])]
    wrong = [k for k, t in given.items() if k in own and t.shape != own[k].shape]
    for what, names, remedy in (
        ("lack", silent, "start.may_lack"),
        ("have beyond the model", foreign, "start.may_have"),
        ("have in another shape", wrong, "start.reinitialise"),
    ):
        if names:
            raise ValueError(f"{start.path}: the weights {what} {len(names)} tensors, such as {names[0]}; see {remedy}")
    model.load_state_dict({k: t.to(own[k].dtype) for k, t in given.items() if k in own}, strict=False)
    _copy_cameras(model, set(lacking))
    return model, lacking


def _fits(name: str, patterns: list[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _copy_cameras(model: SanaWMTransformer, anew: set[str]) -> None:
    state = model.state_dict()
    for name in anew:
        branch, dot, leaf = name.rpartition(".attn.")
        stem = f"{branch}{dot}"
        if leaf in _CAMERA_OF and stem + _CAMERA_OF[leaf] in state:
            state[name].copy_(state[stem + _CAMERA_OF[leaf]])
        elif leaf in ("q_proj_cam.weight", "k_proj_cam.weight", "v_proj_cam.weight"):
            thirds = state[stem + "qkv.weight"].chunk(3)
            state[name].copy_(thirds["qkv".index(leaf[0])])
