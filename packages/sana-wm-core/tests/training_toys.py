"""Small stages and clips for the trainer's tests."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from sana_wm_core.config import TransformerConfig
from sana_wm_core.model import SanaWMTransformer
from sana_wm_core.pocket.text import PocketTextConfig, PocketTextEncoder
from sana_wm_core.training.batches import TextSource
from sana_wm_core.training.clips import open_clips
from sana_wm_core.training.parallel.mesh import Ranks, spread
from sana_wm_core.training.plan import Layout
from sana_wm_core.training.stage_loop import StageTrainer
from sana_wm_core.training.stages import Stage
from sana_wm_core.training.starting import begin

ROWS, COLUMNS, CHANNELS, FRAMES = 2, 2, 3, 5
SMALL = TransformerConfig(
    in_channels=CHANNELS, num_layers=2, hidden_size=32, num_attention_heads=2, linear_head_dim=16, caption_channels=8,
    softmax_every_n=2, mlp_ratio=2.0, chunk_plucker_post_attn_blocks=2, softmax_dtype="model",
)  # fmt: skip
ALONE = Ranks(Layout(1, 1, 1))


def write_clips(folder: Path, clips: int = 6, held_out: int = 2, frames: int = FRAMES) -> Path:
    """An encoded folder, as `sana-wm data encode` writes it."""
    g = torch.Generator().manual_seed(1)
    rows, tensors = [], {}
    (folder / "latents").mkdir(parents=True)
    raw = 8 * (frames - 1) + 1
    for i in range(clips + held_out):
        poses = torch.eye(4).repeat(raw, 1, 1)
        poses[:, 0, 3] = torch.linspace(0, i / 4, raw)
        tensors[f"c{i}.latents"] = torch.randn(CHANNELS, frames, ROWS, COLUMNS, generator=g).half()
        tensors[f"c{i}.c2w"] = poses
        tensors[f"c{i}.intrinsics"] = torch.tensor([60.0, 60.0, 32.0, 32.0]).repeat(raw, 1)
        split = "val" if i >= clips else "train"
        rows.append({"id": f"c{i}", "shard": "latents/0.safetensors", "split": split, "caption": f"red box {i}"})
    save_file(tensors, folder / "latents/0.safetensors", metadata={"height": "64", "width": "64"})
    (folder / "latents.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def make_stage(**changes: dict[str, Any]) -> Stage:
    """A stage of the small model; sections are merged over small defaults."""
    table: dict[str, Any] = {
        "name": "toy",
        "purpose": "test",
        "model": SMALL,
        "data": {"raw_frames": 8 * (FRAMES - 1) + 1, "rows": ROWS, "columns": COLUMNS},
        "text": {"kind": "pocket"},
        "objective": {"shift": 2.0, "chunk_frames": 2},
        "optim": {"learning_rate": 1e-3, "clip": 1.0, "eps": 1e-8},
        "train": {"steps": 4, "global_batch": 2, "log_every": 1, "seed": 3},
        "precision": {"compute": "fp32", "checkpoint_blocks": False},
        "saving": {"every": 2},
    }
    for section, values in changes.items():
        table[section] = {**table.get(section, {}), **values} if isinstance(values, dict) else values
    return Stage.model_validate(table)


def make_text() -> TextSource:
    """A frozen small encoder."""
    torch.manual_seed(5)
    return TextSource(PocketTextEncoder(PocketTextConfig(rows=32, channels=8, length=6)).requires_grad_(False))


def make_model(stage: Stage, ranks: Ranks = ALONE) -> SanaWMTransformer:
    """First weights of a stage, every branch audible."""
    model, _ = begin(stage.model, stage.start, stage.train.seed)
    torch.manual_seed(stage.train.seed)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.05)
    spread(model, stage.precision, ranks)
    return model


def make_trainer(stage: Stage, clips: Path, out: Path, ranks: Ranks = ALONE) -> StageTrainer:
    """A trainer over an encoded folder."""
    return StageTrainer(stage, make_model(stage, ranks), make_text(), open_clips(clips), out, ranks)
