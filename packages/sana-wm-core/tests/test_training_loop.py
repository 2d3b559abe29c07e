"""The trainer: learns, resumes to the bit, keeps an average, refuses what is missing."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from sana_wm_core.pocket.text import PocketTextConfig, PocketTextEncoder
from sana_wm_core.training.config import TrainConfig
from sana_wm_core.training.data import LatentClips
from sana_wm_core.training.loop import WorldTrainer
from torch import Tensor, nn


class Toy(nn.Module):
    """A velocity model with the world model's signature: latents, camera and text through linear maps."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(64, 64), nn.Linear(64, 64)])
        self.inner = nn.Linear(4, 64)
        self.camera = nn.Linear(20, 64)
        self.words = nn.Linear(8, 64)
        self.outer = nn.Linear(64, 4)

    def forward(self, hidden_states: Tensor, timestep: Tensor, **given: Tensor) -> tuple[Tensor]:
        x = self.inner(hidden_states.movedim(1, -1))
        x = x + self.camera(given["camera_conditions"])[:, :, None, None]
        x = x + self.words(given["encoder_hidden_states"][:, 0].mean(1))[:, None, None, None]
        for block in self.blocks:
            x = x + torch.nn.functional.silu(block(x))
        return (self.outer(x).movedim(-1, 1),)


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    rows, tensors = [], {}
    g = torch.Generator().manual_seed(1)
    (tmp_path / "latents").mkdir()
    for i in range(10):
        name = f"c{i}"
        tensors[f"{name}.latents"] = torch.randn(4, 3, 2, 3, generator=g).half()
        tensors[f"{name}.c2w"] = torch.eye(4).repeat(17, 1, 1)
        tensors[f"{name}.intrinsics"] = torch.tensor([30.0, 30.0, 24.0, 16.0]).repeat(17, 1)
        split = "val" if i >= 8 else "train"
        rows.append({"id": name, "shard": "latents/0.safetensors", "split": split, "caption": f"a red box {i}"})
    save_file(tensors, tmp_path / "latents/0.safetensors", metadata={"height": "32", "width": "48"})
    (tmp_path / "latents.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path


def _trainer(clips: Path, out: Path, **changes: object) -> WorldTrainer:
    torch.manual_seed(0)
    config = TrainConfig(
        **{
            "iterations": 6,
            "batch": 4,
            "warmup": 2,
            "log_every": 1,
            "save_every": 3,
            "validate_every": 3,
            "precision": "fp32",
        }
        | changes
    )
    text = PocketTextEncoder(PocketTextConfig(rows=32, channels=8, length=6))
    return WorldTrainer(config, Toy(), text, LatentClips(clips), LatentClips(clips, "val"), out)


def test_camera_tensors_match_the_latent_grid(clips: Path) -> None:
    batch = LatentClips(clips).batch([0, 3])
    assert batch.latents.shape == (2, 4, 3, 2, 3)
    assert batch.camera.shape == (2, 3, 20)
    assert batch.plucker.shape == (2, 48, 3, 2, 3)
    torch.testing.assert_close(batch.camera[0, 0, :16].view(4, 4), torch.eye(4))


def test_clips_without_stills_are_cut_at_their_beginning_only(clips: Path) -> None:
    data = LatentClips(clips)
    assert data.batch([0], window=2).latents.shape == (1, 4, 2, 2, 3)
    with pytest.raises(ValueError, match="whole clips and their beginnings"):
        data.batch([0], starts=[1], window=2)


def test_wiener_run_learns_and_resumes_with_its_spread(clips: Path, tmp_path: Path) -> None:
    trainer = _trainer(clips, tmp_path / "w", prediction="wiener", window=2, iterations=30)
    lines: list[dict[str, float]] = []
    trainer.run(lines.append)
    assert lines[-1]["held_out"] < lines[2]["held_out"]
    again = _trainer(clips, tmp_path / "w", prediction="wiener", window=2, iterations=30)
    again.resume()
    assert torch.equal(again.spread, trainer.spread)
    assert again.held_out_loss() == trainer.held_out_loss()


def test_draws_cover_every_clip_once_an_epoch(clips: Path) -> None:
    data = LatentClips(clips)
    seen = sorted(i for it in range(4) for i in data.draw(5, it, 2))
    assert seen == list(range(8))
    assert data.draw(5, 2, 2) == data.draw(5, 2, 2)
    assert data.draw(5, 2, 2) != data.draw(6, 2, 2)


@pytest.mark.parametrize("muon", [True, False])
def test_resumed_run_equals_uninterrupted_run_bitwise(clips: Path, tmp_path: Path, muon: bool) -> None:
    whole = _trainer(clips, tmp_path / "whole", muon=muon)
    whole.run()
    first = _trainer(clips, tmp_path / "parts", muon=muon)
    first.run(stop=lambda: first.iteration >= 3)
    second = _trainer(clips, tmp_path / "parts", muon=muon)
    second.resume()
    assert second.iteration == 3
    second.run()
    for key, value in whole.model.state_dict().items():
        assert torch.equal(value, second.model.state_dict()[key]), key
    for key, value in whole.average.items():
        assert torch.equal(value, second.average[key]), key


def test_loss_falls_and_is_logged(clips: Path, tmp_path: Path) -> None:
    trainer = _trainer(clips, tmp_path / "run", iterations=60, learning_rate=5e-3, validate_every=20)
    trainer.run()
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert len(rows) == 60 and "held_out" in rows[19]
    assert np.mean([r["loss"] for r in rows[-10:]]) < 0.9 * np.mean([r["loss"] for r in rows[:10]])


def test_average_differs_from_live_weights_and_validation_restores_them(clips: Path, tmp_path: Path) -> None:
    trainer = _trainer(clips, tmp_path / "run")
    trainer.run()
    live = {k: p.detach().clone() for k, p in trainer.trained.items()}
    trainer.held_out_loss()
    assert all(torch.equal(live[k], p) for k, p in trainer.trained.items())
    assert any(not torch.equal(live[k], trainer.average[k]) for k in live)


def test_missing_things_are_named(tmp_path: Path, clips: Path) -> None:
    with pytest.raises(ValueError, match=r"no latents\.jsonl"):
        LatentClips(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="split 'test'"):
        LatentClips(clips, "test")
    with pytest.raises(ValueError, match="nothing to resume"):
        _trainer(clips, tmp_path / "empty").resume()
