"""Adapters: nothing at first, only they train, merged they are the same function, on disk they come back."""

import sys
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from sana_wm_core.model import SanaWMTransformer
from sana_wm_core.training.adapters import add_lora, load_lora, merge, merged_state, save_lora, unmerge
from sana_wm_core.training.checkpoint import latest, read_weights
from sana_wm_core.training.clips import open_clips
from sana_wm_core.training.stage_loop import StageTrainer
from sana_wm_core.training.stages import Lora
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))
from training_toys import ALONE, SMALL, make_model, make_stage, make_text, write_clips

pytest.importorskip("peft")
LORA = Lora(rank=4, alpha=8.0)


def _velocity(model: SanaWMTransformer) -> Tensor:
    g = torch.Generator().manual_seed(2)
    camera = torch.zeros(1, 5, 20)
    camera[..., :16] = torch.eye(4).flatten()
    camera[..., 16:] = torch.tensor([2.0, 2.0, 1.0, 1.0])
    with torch.no_grad():
        return model(
            torch.randn(1, 3, 5, 2, 2, generator=g), torch.full((1, 1, 5), 300.0),
            torch.randn(1, 1, 4, 8, generator=g), torch.ones(1, 4), return_dict=False, camera_conditions=camera,
            chunk_plucker=torch.randn(1, 48, 5, 2, 2, generator=g),
        )[0]  # fmt: skip


def test_adapters_start_silent_train_alone_merge_and_come_back(tmp_path: Path) -> None:
    stage = make_stage(lora=LORA.model_dump(), train={"steps": 6}, optim={"learning_rate": 2e-2})
    model = make_model(stage)
    before = _velocity(model)
    assert add_lora(model, LORA) == 12  # six layers in each of the two blocks
    assert torch.equal(_velocity(model), before)
    clips = open_clips(write_clips(tmp_path / "clips"))
    trainer = StageTrainer(stage, model, make_text(), clips, tmp_path / "run", ALONE)
    assert trainer.trained and all("lora_" in name for name in trainer.trained)
    frozen = {k: p.detach().clone() for k, p in model.named_parameters() if "lora_" not in k}
    losses = [trainer.step()["loss"] for _ in range(4)]
    trainer.save()
    assert all(torch.equal(frozen[k], p) for k, p in model.named_parameters() if "lora_" not in k)
    assert len(set(losses)) == 4
    after = _velocity(model)
    assert (after - before).abs().max() > 1e-3
    assert set(read_weights(latest(tmp_path / "run"))) == set(trainer.trained)

    merge(model)
    torch.testing.assert_close(_velocity(model), after, atol=1e-5, rtol=1e-5)
    unmerge(model)
    plain = SanaWMTransformer(SMALL)
    plain.load_state_dict(merged_state(model))
    torch.testing.assert_close(_velocity(plain), after, atol=1e-5, rtol=1e-5)

    save_lora(model, LORA, tmp_path / "adapter")
    assert all("lora_" in name for name in load_file(tmp_path / "adapter/adapter_model.safetensors"))
    again = make_model(make_stage())
    load_lora(again, tmp_path / "adapter")
    torch.testing.assert_close(_velocity(again), after)

    resumed_model = make_model(stage)
    add_lora(resumed_model, LORA)
    resumed = StageTrainer(stage, resumed_model, make_text(), clips, tmp_path / "run", ALONE)
    resumed.resume()
    # The run that goes on has been merged and unmerged, which rounds its frozen weights.
    assert resumed.step()["loss"] == pytest.approx(trainer.step()["loss"], rel=1e-5)


def test_wrong_adapters_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"lora\.targets=\['nosuch'\] match no linear layer"):
        add_lora(SanaWMTransformer(SMALL), Lora(targets=["nosuch"]))
    with pytest.raises(ValueError, match=r"no adapters, there is no adapter_config\.json"):
        load_lora(SanaWMTransformer(SMALL), tmp_path)
    model = SanaWMTransformer(SMALL)
    add_lora(model, LORA)
    save_lora(model, LORA, tmp_path)
    other = SanaWMTransformer(SMALL.model_copy(update={"num_layers": 4}))
    with pytest.raises(ValueError, match="adapters are of another model"):
        load_lora(other, tmp_path)


def test_one_byte_optimiser_state_moves_adapters_and_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("torchao.optim")
    # The library compiles its step; a test need not wait for that.
    monkeypatch.setattr(torch, "compile", lambda step, **options: step)
    large = Lora(rank=64, alpha=64.0)  # the library leaves small tensors alone
    stage = make_stage(
        lora=large.model_dump(),
        optim={"kind": "adamw8bit"},
        precision={"compute": "bf16", "checkpoint_blocks": True},
    )
    clips = open_clips(write_clips(tmp_path / "clips"))

    def new() -> StageTrainer:
        model = make_model(stage)
        add_lora(model, large, torch.bfloat16)
        return StageTrainer(stage, model, make_text(), clips, tmp_path / "run", ALONE)

    trainer = new()
    trainer.step()
    assert any(type(value).__name__ == "OptimState8bit" for value in trainer.tensors().values())
    trainer.save()
    again = new()
    again.resume()
    assert again.step() == trainer.step()
