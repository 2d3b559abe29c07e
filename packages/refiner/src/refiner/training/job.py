"""A run of the refiner's trainer as its folder remembers it, its plan, and what becomes of its adapters."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file
from torch import nn

from refiner.loading import _known, _read_config, drop_audio, load_transformer
from refiner.lora import merge_lora
from refiner.training.adapter import adapted
from refiner.training.loop import RefinerTrainer
from refiner.training.pairs import Pairs
from refiner.training.settings import RefinerTraining, from_table

JOB = "refiner_run.json"
GIB = 1 << 30
# Activations of one block while it is computed again, in widths of the stream: norms, queries, keys, values and
# outputs of two attentions, and the feed-forward's four-fold inside before and after its nonlinearity.
_INSIDE = 20


class RefinerJob(NamedTuple):
    """What a run is made of.

    Attributes:
        base: Folder of the transformer that is adapted, in diffusers' layout; the multi-step one.
        data: Folder of pairs.
        device: cpu or cuda.
    """

    base: str
    data: str
    settings: RefinerTraining
    device: str = "cpu"

    @property
    def dtype(self) -> torch.dtype:
        """Of the frozen weights; adapters are float32."""
        return torch.bfloat16 if self.device.startswith("cuda") else torch.float32


def read_refiner_job(out: str | Path) -> RefinerJob:
    """What the run in a folder was started with.

    Raises:
        ValueError: No run there, or a damaged file.
    """
    path = Path(out) / JOB
    if not path.is_file():
        raise ValueError(f"{out}: nothing to resume, no {JOB} in it; start a run with --out {out}")
    try:
        held = json.loads(path.read_text())
        return RefinerJob(held["base"], held["data"], from_table(held["settings"]), held["device"])
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: not a run of the refiner's trainer ({' '.join(str(error).split())})") from error


def start_refiner_job(job: RefinerJob, out: str | Path, resume: bool) -> RefinerTrainer:
    """Build the trainer of a run; resumed, or new in a folder without one.

    Raises:
        ValueError: The folder already holds a run, or anything the parts refuse.
    """
    out = Path(out)
    if not resume and (out / JOB).is_file():
        raise ValueError(f"{out}: already holds a run; --resume {out}, or another --out")
    pairs = Pairs(job.data)
    base = load_transformer(job.base, dtype=job.dtype, device=job.device)
    torch.manual_seed(job.settings.seed)  # the first matrices of the adapters are drawn
    trainer = RefinerTrainer(base, pairs, out, job.settings)
    if resume:
        trainer.resume()
    else:
        out.mkdir(parents=True, exist_ok=True)
        held = {"base": job.base, "data": job.data, "device": job.device, "settings": job.settings.table()}
        temporary = out / f".{JOB}.{os.getpid()}"
        temporary.write_text(json.dumps(held, indent=1) + "\n")
        os.replace(temporary, out / JOB)
    return trainer


def refiner_plan(job: RefinerJob) -> list[str]:
    """What a run will take, in lines for a person; no weights are read.

    Raises:
        ValueError: No model or no pairs there.
    """
    model, settings, pairs = _empty(Path(job.base)), job.settings, Pairs(job.data)
    layers = adapted(model)
    total = sum(p.numel() for p in model.parameters())
    trained = sum(settings.lora.rank * (m.in_features + m.out_features) for m in layers.values())
    shape = max((pairs.shape(i) for i in range(len(pairs))), key=lambda s: s[1] * s[2] * s[3])
    tokens = (shape[1] - settings.reference) * shape[2] * shape[3]
    blocks: Any = model.transformer_blocks
    width = blocks[0].attn1.to_q.in_features
    half = 2 if job.dtype is torch.bfloat16 else 4
    kept = len(blocks) if settings.recompute else len(blocks) * _INSIDE
    weights, adapters = total * half / GIB, 16 * trained / GIB
    stored = tokens * width * half * (kept + _INSIDE) / GIB
    return [
        f"refiner: adapters of rank {settings.lora.rank} (alpha {settings.lora.alpha:g}) on {len(layers)} layers",
        f"parameters   {total / 1e6:,.1f} M, of which {trained / 1e6:,.1f} M would be trained beside them",
        f"pairs        {len(pairs)}, the largest {tuple(shape)}: {tokens} tokens that are learnt",
        f"levels       truncated at {settings.path.start:g}, {settings.reference} reference frames",
        f"steps        {settings.steps} of {settings.batch} pairs at rate {settings.learning_rate:g}",
        f"memory       about {weights + adapters + stored:.2f} GiB on {job.device} (estimate: weights {weights:.2f}, "
        f"adapters with gradients and AdamW {adapters:.2f}, activations {stored:.2f})",
    ]


def write_merged(base: str | Path, adapter: str | Path, out: str | Path, scale: float = 1.0) -> int:
    """Fold an adapter into a transformer folder and write the result as another; returns how many layers changed.

    Args:
        base: Folder of the transformer the adapter goes into, usually the distilled one.
        adapter: Safetensors file, or the folder of a run.
        out: New folder, read like any other (bfloat16; the weights for sound are left out).
        scale: Strength.

    Raises:
        ValueError: Something is missing or does not fit.
    """
    base, adapter, out = Path(base), Path(adapter), Path(out)
    if adapter.is_dir():
        adapter /= "adapter.safetensors"
    if not adapter.is_file():
        raise ValueError(f"{adapter}: no such file; give a run of `sana-wm train refiner`, or its adapter.safetensors")
    model = load_transformer(base, dtype=torch.bfloat16)
    changed = merge_lora(model, adapter, scale)
    out.mkdir(parents=True, exist_ok=True)
    temporary = out / f".model.{os.getpid()}"
    save_file({name: t.contiguous() for name, t in model.state_dict().items()}, temporary)
    os.replace(temporary, out / "diffusion_pytorch_model.safetensors")
    temporary = out / f".config.{os.getpid()}"
    temporary.write_bytes((base / "config.json").read_bytes())
    os.replace(temporary, out / "config.json")
    return changed


def _empty(folder: Path) -> nn.Module:
    from diffusers.models.transformers.transformer_sana_wm_refiner import SanaWMLTX2RefinerTransformer3DModel

    config = _read_config(folder)
    with torch.device("meta"):
        model: nn.Module = SanaWMLTX2RefinerTransformer3DModel(**_known(config, SanaWMLTX2RefinerTransformer3DModel))
    drop_audio(model)
    return model
