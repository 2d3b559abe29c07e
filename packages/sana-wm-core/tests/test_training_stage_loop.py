"""The stage loop: learns, resumes to the bit, accumulates, stops on bad numbers (invariants 21 to 29)."""

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from sana_wm_core.model import SanaWMTransformer
from sana_wm_core.training.checkpoint import complete, latest, read_weights
from sana_wm_core.training.clips import BadClip
from sana_wm_core.training.samples import SampleWriter
from sana_wm_core.training.stage_loop import RunStopped
from sana_wm_core.training.stages import Start, load_stage
from sana_wm_core.training.starting import begin

sys.path.insert(0, str(Path(__file__).parent))
from training_toys import SMALL, make_model, make_stage, make_trainer, write_clips


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clips(tmp_path_factory.mktemp("clips"))


def _lines(run: Path) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_invariants_21_22_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(
    clips: Path, tmp_path: Path, ema: float
) -> None:
    stage = make_stage(optim={"ema": ema}, train={"validate_every": 2})
    whole = make_trainer(stage, clips, tmp_path / "whole")
    whole.run()
    first = make_trainer(stage, clips, tmp_path / "parts")
    first.run(stop=lambda: first.steps_done >= 2)
    # A step that was done but not saved leaves a line that must not stay.
    with open(tmp_path / "parts/metrics.jsonl", "a") as file:
        file.write('{"step": 3, "loss": 9.0}\n{"step": 4, "lo')
    second = make_trainer(stage, clips, tmp_path / "parts")
    second.resume()
    assert second.steps_done == 2
    # Softmax blocks hold gates that never get a gradient; their state is there all the same.
    assert "optim.blocks.1.attn.A_log#exp_avg" in second.tensors()
    second.run()
    assert _lines(tmp_path / "parts") == _lines(tmp_path / "whole")
    for key, value in whole.tensors().items():
        assert torch.equal(value, second.tensors()[key]), key
    assert [whole.order.step(s) for s in range(9)] == [second.order.step(s) for s in range(9)]
    weights = read_weights(tmp_path / "whole")
    live = whole.average if ema else whole.trained
    assert all(torch.equal(weights[k], live[k]) for k in live)


def test_invariant_23_two_passes_of_one_clip_are_one_of_two(clips: Path, tmp_path: Path) -> None:
    one = make_trainer(make_stage(train={"micro_batch": 2}), clips, tmp_path / "one")
    two = make_trainer(make_stage(train={"micro_batch": 1}), clips, tmp_path / "two")
    for _ in range(2):
        a, b = one.step(), two.step()
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-6)
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=1e-5)


def test_invariant_24_recomputing_blocks_changes_no_gradient(clips: Path, tmp_path: Path) -> None:
    grads = []
    for on in (False, True):
        trainer = make_trainer(make_stage(precision={"checkpoint_blocks": on}), clips, tmp_path / str(on))
        assert trainer.model.gradient_checkpointing == on
        trainer.model.train()
        errors, _ = trainer.errors(trainer.batches([0, 1], 0))
        errors.mean().backward()
        grads.append({k: p.grad for k, p in trainer.trained.items() if p.grad is not None})
    assert grads[0].keys() == grads[1].keys()
    assert all(torch.equal(grads[0][k], grads[1][k]) for k in grads[0])


def test_invariant_25_a_camera_stage_starts_where_the_stage_before_it_ended(tmp_path: Path) -> None:
    before = SanaWMTransformer(SMALL)
    before.init_weights()
    torch.manual_seed(1)
    with torch.no_grad():
        for name, p in before.named_parameters():
            if "_cam" not in name:
                p.add_(torch.randn_like(p) * 0.05)
    before.save_pretrained(tmp_path / "transformer")
    after, anew = begin(
        SMALL, Start(path=str(tmp_path), reinitialise=load_stage("stage3_minute_camera").start.reinitialise), 9
    )
    assert any("q_proj_cam" in name for name in anew) and not any("qkv" in name for name in anew)
    torch.testing.assert_close(after.blocks[0].attn.k_proj_cam.weight, before.blocks[0].attn.qkv.weight.chunk(3)[1])
    g = torch.Generator().manual_seed(2)
    given = dict(
        hidden_states=torch.randn(1, 3, 5, 2, 2, generator=g),
        timestep=torch.full((1, 1, 5), 400.0),
        encoder_hidden_states=torch.randn(1, 1, 4, 8, generator=g),
        encoder_attention_mask=torch.ones(1, 4),
        return_dict=False,
    )
    camera = torch.zeros(1, 5, 20)
    camera[..., :16] = torch.eye(4).flatten()
    camera[..., 16:] = torch.tensor([2.0, 2.0, 1.0, 1.0])
    rays = torch.randn(1, 48, 5, 2, 2, generator=g)
    with torch.no_grad():
        alone = before(**given)[0]
        seeing = after(**given, camera_conditions=camera, chunk_plucker=rays)[0]
    assert torch.equal(alone, seeing)


def test_invariant_26_softmax_blocks_start_from_gdn_blocks(tmp_path: Path) -> None:
    gdn = SanaWMTransformer(SMALL.model_copy(update={"softmax_every_n": 0}))
    gdn.init_weights()
    gdn.save_pretrained(tmp_path / "transformer")
    hybrid, anew = begin(SMALL, Start(path=str(tmp_path), may_have=load_stage("stage2_hybrid").start.may_have), 0)
    assert anew == []
    torch.testing.assert_close(hybrid.blocks[1].attn.qkv.weight, gdn.blocks[1].attn.qkv.weight)
    with pytest.raises(ValueError, match=r"have beyond the model 2 tensors.*start\.may_have"):
        begin(SMALL, Start(path=str(tmp_path)), 0)
    with pytest.raises(ValueError, match="no weights there"):
        begin(SMALL, Start(path=str(tmp_path / "nowhere")), 0)


def test_weights_that_lack_something_are_refused_by_name(tmp_path: Path) -> None:
    model = SanaWMTransformer(SMALL)
    model.init_weights()
    state = {k: v.clone() for k, v in model.state_dict().items() if "plucker" not in k}
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(
        ValueError, match=r"lack \d+ tensors, such as blocks\.0\.plucker_proj\.bias; see start\.may_lack"
    ):
        begin(SMALL, Start(path=str(tmp_path / "w.safetensors")), 0)
    assert len(begin(SMALL, Start(path=str(tmp_path / "w.safetensors"), may_lack=["*plucker*"]), 0)[1]) == 6


def test_invariant_27_one_clip_is_learnt_by_heart(clips: Path, tmp_path: Path) -> None:
    one = tmp_path / "one"
    write_clips(one, 1, 0)
    stage = make_stage(
        train={"steps": 40, "global_batch": 4, "micro_batch": 4, "log_every": 40},
        optim={"learning_rate": 4e-3},
        saving={"every": 100},
    )
    trainer = make_trainer(stage, one, tmp_path / "run")
    losses = [trainer.step()["loss"] for _ in range(40)]
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])


def test_invariant_28_numbers_that_are_not_finite_stop_the_run_before_the_weights_move(
    clips: Path, tmp_path: Path
) -> None:
    trainer = make_trainer(make_stage(), clips, tmp_path / "run")
    trainer.step()
    trainer.save()
    before = {k: p.detach().clone() for k, p in trainer.trained.items()}
    hook = trainer.trained["blocks.1.attn.qkv.weight"].register_hook(lambda grad: grad * float("nan"))
    what = r"step 1: the gradient of blocks\.1\.attn\.qkv\.weight is not finite, of clips c\d, c\d"
    with pytest.raises(RunStopped, match=what):
        trainer.step()
    hook.remove()
    assert all(torch.equal(before[k], p) for k, p in trainer.trained.items()) and trainer.steps_done == 1
    with torch.no_grad():
        trainer.trained["blocks.0.attn.proj.weight"][0, 0] = float("nan")
    held = {k: p.detach().clone() for k, p in trainer.trained.items()}
    with pytest.raises(RunStopped, match=r"step 1: the loss is nan of clip c\d.*blocks\.0\.attn\.proj\.weight"):
        trainer.step()
    assert all(torch.equal(held[k], p) or "attn.proj" in k for k, p in trainer.trained.items())
    assert len(complete(tmp_path / "run")) == 1 and trainer.steps_done == 1
    again = make_trainer(make_stage(), clips, tmp_path / "run")
    again.resume()
    assert all(torch.isfinite(p).all() for p in again.trained.values())


@pytest.mark.parametrize("rate", [2e-6, 1e-5])
def test_invariant_29_float32_masters_move_where_bfloat16_stands_still(rate: float) -> None:
    moved = {}
    for dtype in (torch.float32, torch.bfloat16):
        torch.manual_seed(0)
        w = torch.nn.Parameter((torch.randn(4000) * 0.02).to(dtype))
        start = w.detach().clone()
        optimizer = torch.optim.AdamW([w], rate, eps=1e-10, weight_decay=0.0)
        for _ in range(50):
            w.grad = torch.randn(4000).to(dtype)
            optimizer.step()
        moved[dtype] = (w != start).float().mean().item()
    assert moved[torch.float32] > 0.99
    assert moved[torch.bfloat16] < 0.5


def test_a_bad_clip_stops_the_run_or_is_left_out_by_name(tmp_path: Path) -> None:
    folder = write_clips(tmp_path / "clips", 3, 0)
    shard = folder / "latents/0.safetensors"
    tensors = load_file(shard)
    tensors["c1.latents"][0, 0, 0, 0] = float("nan")
    save_file(tensors, shard, metadata={"height": "64", "width": "64"})
    trainer = make_trainer(make_stage(train={"global_batch": 3}), folder, tmp_path / "run")
    with pytest.raises(BadClip, match="c1: 1 latent values are NaN"):
        trainer.step()
    lenient = make_trainer(make_stage(train={"global_batch": 3}, data={"bad": "skip"}), folder, tmp_path / "skip")
    good = lenient.step()["loss"]
    assert json.loads((tmp_path / "skip/bad_clips.jsonl").read_text())["id"] == "c1"
    alone = [lenient.batches([n], 0) for n in (0, 2)]
    with torch.no_grad():
        fresh = make_trainer(make_stage(train={"global_batch": 3}), folder, tmp_path / "fresh")
        want = sum(float(fresh.errors(batch)[0].mean()) for batch in alone) / 3
    assert good == pytest.approx(want, rel=1e-5)


def test_resume_names_what_changed_and_what_is_missing(clips: Path, tmp_path: Path) -> None:
    trainer = make_trainer(make_stage(), clips, tmp_path / "run")
    with pytest.raises(ValueError, match="no finished checkpoint"):
        trainer.resume()
    trainer.save()
    other = make_trainer(make_stage(optim={"learning_rate": 0.5}), clips, tmp_path / "run")
    with pytest.raises(ValueError, match=r"other settings: optim\.learning_rate: 0\.001 -> 0\.5"):
        other.resume()
    longer = make_trainer(make_stage(train={"steps": 99}), clips, tmp_path / "run")
    longer.resume()


def test_validation_repeats_itself_and_leaves_the_weights_alone(clips: Path, tmp_path: Path) -> None:
    trainer = make_trainer(make_stage(optim={"ema": 0.5}), clips, tmp_path / "run")
    trainer.step()
    held = {k: p.detach().clone() for k, p in trainer.trained.items()}
    first = trainer.held_out_loss()
    assert first == trainer.held_out_loss() > 0
    assert all(torch.equal(held[k], p) for k, p in trainer.trained.items())


def test_averaged_weights_follow_slowly_and_are_the_ones_validated(clips: Path, tmp_path: Path) -> None:
    stage = make_stage(optim={"ema": 0.75, "learning_rate": 1e-2}, train={"steps": 100})
    trainer, key = make_trainer(stage, clips, tmp_path / "run"), "blocks.0.attn.qkv.weight"
    want = trainer.trained[key].detach().clone()
    for _ in range(3):
        trainer.step()
        want = 0.75 * want + 0.25 * trainer.trained[key].detach()
    torch.testing.assert_close(trainer.average[key], want)
    losses = []
    for weights in (trainer.average, trainer.trained):
        plain = make_trainer(make_stage(), clips, tmp_path / "plain")
        with torch.no_grad():
            for name, p in plain.trained.items():
                p.copy_(weights[name])
        losses.append(plain.held_out_loss())
    assert trainer.held_out_loss() == pytest.approx(losses[0], rel=1e-6) != pytest.approx(losses[1], rel=1e-4)


def test_old_checkpoints_go_and_half_written_ones_do_not_count(clips: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    trainer = make_trainer(make_stage(train={"steps": 6}, saving={"every": 1, "keep": 2}), clips, run)
    trainer.run()
    assert [p.name for p in complete(run)] == ["step-00000005", "step-00000006"]
    (run / ".step-00000007").mkdir()
    (run / "step-00000008").mkdir()
    assert latest(run).name == "step-00000006"
    make_trainer(make_stage(), clips, run)
    assert not (run / ".step-00000007").exists()


def test_samples_are_written_on_cadence_and_always_of_the_same_clip(clips: Path, tmp_path: Path) -> None:
    class Codec:
        def decode(self, latents: torch.Tensor) -> torch.Tensor:
            shown.append(latents)
            return latents.repeat_interleave(8, 3).repeat_interleave(8, 4).clamp(-1, 1)

    shown: list[torch.Tensor] = []
    stage = make_stage(train={"steps": 2, "sample_every": 1, "sample_steps": 2}, optim={"learning_rate": 1e-8})
    trainer = make_trainer(stage, clips, tmp_path / "run")
    trainer.write_sample = SampleWriter(Codec(), 2)  # type: ignore[arg-type]
    trainer.run()
    assert [p.name for p in sorted((tmp_path / "run/samples").iterdir())] == ["step-00000001.mp4", "step-00000002.mp4"]
    given = trainer.batches([trainer.held_out[0]], 0).clean[:, :, 0]
    assert all(torch.equal(latents[:, :, 0], given) for latents in shown)
    torch.testing.assert_close(shown[0], shown[1], atol=1e-3, rtol=1e-3)


def test_metrics_say_where_the_loss_lies(clips: Path, tmp_path: Path) -> None:
    trainer = make_trainer(make_stage(), clips, tmp_path / "run")
    metrics = trainer.step()
    assert any(k.startswith("loss_sigma_") for k in metrics) and "loss_chunk_1" in metrics
    assert make_model(make_stage()).gradient_checkpointing is False
