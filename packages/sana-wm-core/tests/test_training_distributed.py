"""Several processes with FSDP2 give the numbers of one, and share checkpoints with it (invariants 21 and 43)."""

import sys
from pathlib import Path

import pytest
import torch
from sana_wm_core.training.order import Order
from sana_wm_core.training.parallel.mesh import start_ranks

sys.path.insert(0, str(Path(__file__).parent))
from training_ranks import on_ranks
from training_toys import make_stage, make_trainer, write_clips

LAYOUTS = {"along time": {"cp": 2}, "along data": {"cp": 1}, "copies": {"dp_replicate": 2}}
STEPS = 3


def _train(rank: int, clips: str, out: str) -> dict[str, list[float]]:
    found = {}
    for name, mesh in LAYOUTS.items():
        stage = make_stage(
            mesh=mesh,
            train={"steps": STEPS},
            # Recomputed blocks repeat their messages to the other ranks, in the same order everywhere.
            precision={"compute": "fp32", "checkpoint_blocks": name == "along time"},
            saving={"every": STEPS, "background": name == "along data"},
            optim={"ema": 0.5},
        )
        ranks = start_ranks(stage, "cpu")
        trainer = make_trainer(stage, Path(clips), Path(out) / name, ranks)
        numbers = []
        for _ in range(STEPS):
            metrics = trainer.step()
            numbers += [metrics["loss"], metrics["grad_norm"]]
        trainer.save()
        numbers.append(trainer.held_out_loss())
        metrics = trainer.step()  # while the checkpoint may still be being written
        trainer.writer.finish()
        again = make_trainer(stage, Path(clips), Path(out) / name, ranks)
        again.resume()
        after = again.step()
        assert after["loss"] == metrics["loss"] and after["grad_norm"] == metrics["grad_norm"], (after, metrics)
        found[name] = [*numbers, metrics["loss"], metrics["grad_norm"]]
    return found


def test_invariant_21_two_processes_are_one_and_their_checkpoints_load_on_one(tmp_path: Path) -> None:
    clips = write_clips(tmp_path / "clips")
    results = on_ranks(2, _train, str(clips), str(tmp_path))
    assert results[0] == results[1]
    stage = make_stage(train={"steps": STEPS}, optim={"ema": 0.5})
    alone = make_trainer(stage, clips, tmp_path / "alone")
    want = []
    for _ in range(STEPS):
        metrics = alone.step()
        want += [metrics["loss"], metrics["grad_norm"]]
    want.append(alone.held_out_loss())
    for name in LAYOUTS:
        got = results[0][name]
        # Losses after the first step have gone through Adam, which magnifies the sign of tiny gradients.
        assert got[0] == pytest.approx(want[0], rel=1e-6) and got[1] == pytest.approx(want[1], rel=1e-5)
        assert got[: len(want)] == pytest.approx(want, rel=2e-4)
        loaded = make_trainer(stage, clips, tmp_path / name)
        loaded.resume()
        assert loaded.steps_done == STEPS
        metrics = loaded.step()
        assert metrics["loss"] == pytest.approx(got[-2], rel=1e-6)
        assert metrics["grad_norm"] == pytest.approx(got[-1], rel=1e-5)


def test_invariant_43_data_ranks_are_disjoint_and_a_step_is_the_same_for_any_number_of_them() -> None:
    frames = [5] * 12 + [9] * 7 + [3]
    order = Order(frames, [1] * 19 + [2], 4, seed=1)
    assert order.steps_an_epoch == 3 + 1 + 1
    for step in range(23):
        whole = order.step(step)
        assert len(whole) == 4 and len({frames[i] for i in whole}) == 1
        for ranks in (1, 2, 4):
            parts = [Order(frames, [1] * 19 + [2], 4, 1).rank(step, r, ranks) for r in range(ranks)]
            assert [i for part in parts for i in part] == whole
    epoch = [i for step in range(5) for i in order.step(step) if frames[i] == 5]
    assert sorted(epoch) == list(range(12))
    other = [order.step(s) for s in range(5, 10)]
    assert other != [order.step(s) for s in range(5)]
    assert order.step(2) == Order(frames, [1] * 19 + [2], 4, 1).step(2)
    with pytest.raises(ValueError, match="no clip is left"):
        Order([5], [0], 1, 0)


def test_ranks_of_one_process_need_no_group() -> None:
    ranks = start_ranks(make_stage(), "cpu")
    assert not ranks.together and ranks.cp is None and ranks.fsdp is None
    assert float(ranks.total(torch.tensor(3.0))) == 3
