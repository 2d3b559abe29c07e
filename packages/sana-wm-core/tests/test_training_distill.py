"""From many steps to few: regression, rollouts, two scores (invariants 30 to 35)."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from sana_wm_core.model.memory import Memory, Window
from sana_wm_core.pocket import Pocket, PocketPreset
from sana_wm_core.sampling.sampler import Conditions
from sana_wm_core.sampling.student import ChunkSampler
from sana_wm_core.training import run
from sana_wm_core.training.clips import open_clips
from sana_wm_core.training.distill.dmd import critic_loss, dmd_gradient, generator_loss, guided, noised, score_level
from sana_wm_core.training.distill.ode import OdeTrainer, ode_errors, walk, write_walks
from sana_wm_core.training.distill.rollout import behind_clean, roll_out, step_levels
from sana_wm_core.training.distill.self_forcing import SelfForcingTrainer
from sana_wm_core.training.stage_loop import RunStopped
from sana_wm_core.training.stages import Distill, Stage, Start
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))
from training_toys import ALONE, make_model, make_stage, make_text, make_trainer, write_clips

STEPS = (1000.0, 900.0, 500.0, 0.0)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clips(tmp_path_factory.mktemp("clips"), clips=4, held_out=0)


def _stage(job: str, **changes: dict[str, Any]) -> Stage:
    base = {
        "distill": {"job": job, "step_list": STEPS, "critic_steps": 3, "guidance": 1.0, "critic_rate": 1e-3},
        "objective": {"first_frame_given": 1.0, "text_drop": 0.0},
    }
    return make_stage(**{**base, **changes})


def _self_forcing(clips: Path, out: Path, **changes: dict[str, Any]) -> SelfForcingTrainer:
    stage = _stage("self_forcing", **changes)
    return SelfForcingTrainer(stage, make_model(stage), make_text(), open_clips(clips), out, ALONE)


def _ode(clips: Path, out: Path, walks: Path, **changes: dict[str, Any]) -> OdeTrainer:
    stage = _stage("ode", **changes)
    return OdeTrainer(stage, make_model(stage), make_text(), open_clips(clips), out, ALONE, walks=walks)


@pytest.fixture(scope="module")
def walks(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("walks")
    teacher = make_trainer(make_stage(), clips, out / "teacher")
    write_walks(_stage("ode"), teacher.model, teacher.batches, out, parts=2, together=3)
    return out


def test_walks_start_in_noise_end_where_the_teacher_went_and_keep_the_first_frame(clips: Path, walks: Path) -> None:
    trainer = make_trainer(_stage("ode"), clips, walks / "other")
    batch = trainer.batches([0], 0)

    remembered: list[Tensor] = []

    def told(x: Tensor, timestep: Tensor, kept: list[Any] | None = None, **_: Any) -> tuple[Tensor]:
        """Velocity is the level the frame is said to be at."""
        if kept is not None:
            kept.append({})
        if not timestep.any():
            remembered.append(x)
        return ((timestep / 1000)[..., None, None].expand_as(x),)

    noise, parts = torch.randn(batch.clean.shape), 4
    (states,) = walk(told, batch, STEPS, noise, parts)
    assert states.shape == (4, *batch.clean.shape[1:])
    assert torch.equal(states[:, :, 0], batch.clean[0, :, 0].expand(4, -1, -1, -1))
    levels, moved = step_levels(STEPS).double(), 0.0
    for number, state in enumerate(states):
        if number:
            fine = torch.linspace(float(levels[number - 1]), float(levels[number]), parts + 1, dtype=torch.float64)
            moved += float(((fine[:-1] - fine[1:]) * fine[:-1]).sum())
        torch.testing.assert_close(state[:, 1:], noise[0, :, 1:] - moved, atol=1e-5, rtol=1e-5)
    # Later chunks stand behind the data, not behind what the teacher made of earlier ones.
    for seen, (start, end) in zip(remembered, ((0, 3), (3, 5)), strict=True):
        assert torch.equal(seen, batch.clean[:, :, start:end])
    assert len((walks / "walks.jsonl").read_text().splitlines()) == 4


def test_invariant_30_ode_loss_falls_and_a_perfect_student_has_none(clips: Path, walks: Path, tmp_path: Path) -> None:
    trainer = _ode(clips, tmp_path / "run", walks, train={"steps": 30, "global_batch": 4, "micro_batch": 4},
                   optim={"learning_rate": 3e-3}, saving={"every": 50})  # fmt: skip
    losses = [trainer.step()["loss"] for _ in range(24)]
    assert sum(losses[-6:]) < 0.8 * sum(losses[:6])

    states = torch.randn(1, 4, 3, 5, 2, 2)
    index = torch.tensor([[3, 0, 1, 2, 3]])
    levels, first = step_levels(STEPS), states[:, -1, :, :1]
    sigma = levels[index][:, None, :, None, None]

    def perfect(x: Tensor, timestep: Tensor) -> Tensor:
        torch.testing.assert_close(timestep, 1000 * levels[index][:, None])
        return torch.where(sigma > 0, (x - states[:, -1]) / sigma.clamp_min(1e-9), 7.0)

    errors, counted = ode_errors(perfect, states, index, levels, first)
    assert counted.tolist() == [3.0]
    assert float(errors.mean()) < 1e-10
    assert errors.weight_bt.tolist() == [[0.0, 1.0, 1.0, 1.0, 0.0]]
    worse, _ = ode_errors(lambda x, t: torch.zeros_like(x), states, index, levels, first)
    assert float(worse.mean()) > 0.1


def test_invariants_31_32_a_rollout_has_gradient_in_its_last_calls_only(clips: Path, tmp_path: Path) -> None:
    trainer = _self_forcing(clips, tmp_path / "run")
    assert [trainer.exit_step(n) for n in range(30)] == [trainer.exit_step(n) for n in range(30)]
    assert {trainer.exit_step(n) for n in range(60)} == {0, 1, 2}
    batch = trainer.batches([0], 0)
    calls: list[tuple[bool, int]] = []
    memories: list[Memory] = []

    def watched(x: Tensor, timestep: Tensor, memory: Memory | None = None, **more: Any) -> Any:
        calls.append((torch.is_grad_enabled(), x.shape[2]))
        if memory is not None:
            memories.append(memory)
        return trainer.model(x, timestep, memory=memory, **more)

    arguments = (torch.randn(batch.clean.shape), batch.clean[:, :, :1], batch.conditions, [0, 3], trainer.levels)
    out = roll_out(watched, *arguments, 2, Window(2, True), lambda chunk, step: torch.ones(batch.clean.shape))
    # Two chunks of three steps and a pass for the memory.
    assert calls == [(on, n) for n in (3, 2) for on in (False, False, True, False)]
    assert memories and not any(t.requires_grad for m in memories for block in m.blocks for t in block.values())
    assert torch.equal(out[:, :, :1], batch.clean[:, :, :1])
    grads = []
    for chunk in (slice(1, 3), slice(3, 5)):
        trainer.model.zero_grad()
        out[:, :, chunk].sum().backward(retain_graph=True)
        grads.append(trainer.trained["blocks.0.attn.qkv.weight"].grad.clone())
        assert grads[-1].abs().sum() > 0
    trainer.model.zero_grad()
    out.sum().backward()
    total = trainer.trained["blocks.0.attn.qkv.weight"].grad
    torch.testing.assert_close(total, grads[0] + grads[1])
    trainer.model.zero_grad()
    trainer.model.gradient_checkpointing = True
    fresh = lambda chunk, step: torch.ones(batch.clean.shape)  # noqa: E731
    roll_out(trainer.velocity, *arguments, 2, Window(2, True), fresh).sum().backward()
    assert torch.equal(trainer.trained["blocks.0.attn.qkv.weight"].grad, total)


def test_behind_clean_data_a_chunk_meets_what_a_session_shows_it(clips: Path, tmp_path: Path) -> None:
    trainer = make_trainer(_stage("ode", objective={"clean_past": 1.0}), clips, tmp_path / "run")
    batch = trainer.batches([0, 1], 0)
    assert batch.behind_clean and batch.starts == [0, 3]
    # Where the chunks themselves are clean there is no difference to one pass over the whole clip.
    still = torch.zeros_like(batch.clip.timestep)
    whole = trainer.predict(batch.clean, still, batch.conditions)
    chunked = behind_clean(trainer.velocity, batch.clean, still, batch.clean, batch.conditions, batch.starts)
    torch.testing.assert_close(chunked, whole, atol=2e-5, rtol=2e-5)
    # Noise in the first chunk does not reach the second, as it does in one pass.
    other = batch.clip.latents.clone()
    other[:, :, 1:3] += 1
    seen = [trainer.predict_clip(batch, x, batch.clip.timestep) for x in (batch.clip.latents, other)]
    assert torch.equal(seen[0][:, :, 3:], seen[1][:, :, 3:]) and not torch.equal(seen[0][:, :, :3], seen[1][:, :, :3])
    plain = batch._replace(behind_clean=False)
    seen = [trainer.predict_clip(plain, x, batch.clip.timestep) for x in (batch.clip.latents, other)]
    assert not torch.equal(seen[0][:, :, 3:], seen[1][:, :, 3:])
    trainer.step()  # and it trains


def test_a_rollout_without_fresh_noise_walks_as_the_sampler_does(clips: Path, tmp_path: Path) -> None:
    trainer = _self_forcing(
        clips, tmp_path / "run", distill={"job": "self_forcing", "step_list": STEPS, "renoise": False}
    )
    batch, last = trainer.batches([0], 0), len(STEPS) - 2
    place = next(n for n in range(60) if trainer.exit_step(n) == last)
    noise = trainer._noise(batch, place, "rollout")
    conditions = Conditions(
        batch.conditions["encoder_hidden_states"], batch.conditions["encoder_attention_mask"],
        camera={k: batch.conditions[k] for k in ("camera_conditions", "chunk_plucker")},
    )  # fmt: skip
    sampled = ChunkSampler(STEPS, 1.0, 2)(trainer.velocity, batch.clean[:, :, :1], noise, conditions)
    with torch.no_grad():
        torch.testing.assert_close(trainer.rollout(batch, place), sampled, atol=2e-5, rtol=2e-5)


def test_a_rollout_in_bfloat16_still_brings_gradients_to_the_weights(clips: Path, tmp_path: Path) -> None:
    trainer = _self_forcing(clips, tmp_path / "run", precision={"compute": "bf16", "checkpoint_blocks": False})
    place = next(n for n in range(60) if trainer.exit_step(n) == 2)  # steps without gradient come first
    trainer.rollout(trainer.batches([0], 0), place)[:, :, 1:].sum().backward()
    for name in ("x_embedder.proj.weight", "blocks.0.attn.qkv.weight", "final_layer.linear.weight"):
        assert trainer.trained[name].grad is not None and trainer.trained[name].grad.abs().sum() > 0, name


def test_invariant_33_equal_scores_move_nothing_and_the_gradient_is_the_direction() -> None:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 4, 2, 2, generator=g, requires_grad=True)
    fake, real = torch.randn(x.shape, generator=g), torch.randn(x.shape, generator=g)
    loss = generator_loss(x, dmd_gradient(x.detach(), real, real))
    (grad,) = torch.autograd.grad(loss, x)
    assert loss == 0 and not grad.any()
    direction = dmd_gradient(x.detach(), fake, real)
    (grad,) = torch.autograd.grad(generator_loss(x, direction), x)
    count = x[:, :, 1:].numel()
    torch.testing.assert_close(grad[:, :, 1:], direction[:, :, 1:] / count)
    assert not grad[:, :, 0].any()
    size = (x.detach() - real).abs().mean(dim=(1, 2, 3, 4))
    torch.testing.assert_close(direction[1], (fake - real)[1] / size[1])
    broken = fake.clone()
    broken[0, 0, 1] = float("nan")
    assert torch.isfinite(dmd_gradient(x.detach(), broken, real)).all()
    torch.testing.assert_close(guided(real, fake, 3.0), 4 * real - 3 * fake)
    assert critic_loss(fake - x.detach(), x.detach(), fake) == 0


def test_scores_are_asked_at_shifted_clamped_levels_with_the_first_frame_clean() -> None:
    settings = Distill(job="self_forcing", score_shift=10.0, score_range=(20, 980))
    g = torch.Generator().manual_seed(0)
    levels = torch.stack([score_level(settings, g) for _ in range(400)])
    assert levels.min() >= 0.02 and levels.max() <= 0.98
    assert levels.median() > 0.85  # shift 10 of one half is 10 / 11
    x = torch.randn(2, 3, 4, 2, 2)
    shown, timestep = noised(x, torch.tensor([0.5, 0.9]), torch.randn(x.shape))
    assert torch.equal(shown[:, :, 0], x[:, :, 0]) and (timestep[..., 0] == 0).all()
    torch.testing.assert_close(timestep[:, 0, 2], torch.tensor([500.0, 900.0]))


def test_invariant_34_student_and_fake_score_learn_apart_in_turn_and_resume(clips: Path, tmp_path: Path) -> None:
    trainer = _self_forcing(clips, tmp_path / "whole", train={"steps": 5, "global_batch": 2}, saving={"every": 2})
    student = {k: p.detach().clone() for k, p in trainer.trained.items()}
    batch = trainer.batches([0, 1], 0)
    trainer.fake_loss(batch, 0).backward()
    assert all(p.grad is None for p in trainer.model.parameters())
    assert any(p.grad is not None for p in trainer.fake.parameters())
    trainer.fake_optimizer.zero_grad(set_to_none=True)
    loss, size = trainer.student_loss(batch, 0)
    loss.backward()
    # Both scores start as the same weights; guidance alone makes them differ.
    assert size > 0 and all(p.grad is None for p in (*trainer.fake.parameters(), *trainer.real.parameters()))
    trainer.optimizer.zero_grad(set_to_none=True)

    moved = []
    for _ in range(5):
        before = trainer.trained["blocks.0.attn.qkv.weight"].detach().clone()
        metrics = trainer.step()
        moved.append("generator_loss" in metrics)
        assert moved[-1] == (not torch.equal(before, trainer.trained["blocks.0.attn.qkv.weight"]))
        if trainer.steps_done == 2:
            trainer.save()
    assert moved == [True, False, False, True, False]
    assert [trainer.batch_place(step) for step in range(7)] == [0, 2, 3, 4, 6, 7, 8]
    again = _self_forcing(clips, tmp_path / "whole", train={"steps": 5, "global_batch": 2}, saving={"every": 2})
    again.resume()
    assert again.steps_done == 2
    for _ in range(3):
        last = again.step()
    assert last == metrics
    assert all(torch.equal(p, again.fake_trained[k]) for k, p in trainer.fake_trained.items())
    assert any(not torch.equal(student[k], p) for k, p in trainer.trained.items())


def test_invariant_28_scores_that_are_not_finite_stop_the_run_and_are_named(clips: Path, tmp_path: Path) -> None:
    trainer = _self_forcing(clips, tmp_path / "run", train={"steps": 5, "global_batch": 2})
    with torch.no_grad():
        trainer.fake_trained["blocks.1.mlp.inverted_conv.conv.weight"].fill_(float("inf"))
    held = {k: p.detach().clone() for k, p in trainer.trained.items()}
    what = r"the critic's loss is nan on c\d, c\d; .* finite: fake\.blocks\.1\.mlp\.inverted_conv\.conv\.weight"
    trainer.steps_done = 1  # the fake score's turn alone
    with pytest.raises(RunStopped, match=what):
        trainer.step()
    assert all(torch.equal(held[k], p) for k, p in trainer.trained.items()) and trainer.steps_done == 1


def test_invariant_35_the_step_list_is_kept_and_checked(
    clips: Path, walks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = _ode(clips, tmp_path / "run", walks)
    trainer.save()
    run.check_step_list(tmp_path / "run", STEPS)
    with pytest.raises(ValueError, match="made for the steps 1000,900,500,0, not 1000,500,0"):
        run.check_step_list(tmp_path / "run", (1000.0, 500.0, 0.0))
    other = _ode(clips, tmp_path / "other", walks, distill={"job": "ode", "step_list": (1000, 800, 500, 0)})
    with pytest.raises(ValueError, match=r"stops at 1000,900,500,0, this stage wants 1000,800,500,0"):
        other.step()
    with pytest.raises(ValueError, match=r"no walks\.jsonl"):
        _ode(clips, tmp_path / "none", tmp_path)
    # A stage that goes on from a student is of the student's list; a teacher has none.
    for list_, refused in ((STEPS, False), ((1000, 500, 0), True)):
        stage = _stage("self_forcing", distill={"job": "self_forcing", "step_list": list_})
        stage = stage.model_copy(update={"start": Start(path=str(tmp_path / "run"))})
        monkeypatch.setattr(run, "_pocket", lambda stage: None)
        out = tmp_path / f"next{refused}"
        if refused:
            with pytest.raises(ValueError, match="made for the steps 1000,900,500,0, not 1000,500,0"):
                run.start_job(run.Job(stage, str(clips)), out, False)
            assert not out.exists()
        else:
            run.start_job(run.Job(stage, str(clips)), out, False)
    kept = json.loads((tmp_path / "run/step-00000000/meta.json").read_text())
    assert kept["distill"]["step_list"] == list(STEPS)


def test_a_student_is_written_with_its_step_list_and_without_what_it_borrows(
    clips: Path, walks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = _ode(clips, tmp_path / "run", walks)
    trainer.save()
    run.write_job(tmp_path / "run", run.Job(trainer.stage, str(clips), str(walks)))
    bare = Pocket(None, None, None, PocketPreset(steps=9))  # type: ignore[arg-type]
    monkeypatch.setattr(run, "_pocket", lambda stage: bare)
    run.export_run(tmp_path / "run", tmp_path / "weights", borrow=True)
    assert sorted(p.name for p in (tmp_path / "weights").iterdir()) == ["preset.json", "transformer"]
    preset = PocketPreset.model_validate_json((tmp_path / "weights/preset.json").read_text())
    assert (preset.step_list, preset.steps, preset.chunk, preset.borrows) == (STEPS, 3, 2, True)
    monkeypatch.setattr(run, "_pocket", lambda stage: None)
    with pytest.raises(ValueError, match=r"can leave them out \(--borrow\)"):
        run.export_run(tmp_path / "run", tmp_path / "other", borrow=True)


def test_walks_of_some_clips_teach_on_those_alone(clips: Path, tmp_path: Path) -> None:
    teacher = make_trainer(make_stage(), clips, tmp_path / "teacher")
    write_walks(_stage("ode"), teacher.model, teacher.batches, tmp_path / "walks", parts=1, every=3)
    trainer = _ode(clips, tmp_path / "run", tmp_path / "walks", objective={"clean_past": 1.0})
    assert sorted(trainer.paths) == ["c0", "c3"] and sorted(trainer.order.step(0)) == [0, 3]
    trainer.step()
