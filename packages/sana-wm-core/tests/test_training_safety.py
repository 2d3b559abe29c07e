"""kill -9 at ten random moments: no more than the last cadence is lost, and what is on disk can be read."""

import os
import random
import sys
import time
from pathlib import Path

import pytest
import torch
from sana_wm_core.training.checkpoint import complete, latest, read_weights

sys.path.insert(0, str(Path(__file__).parent))
from training_ranks import start
from training_toys import make_stage, make_trainer, write_clips

CADENCE, KILLS = 2, 10


def _train(clips: Path, out: Path, events: Path) -> None:
    """Train on until killed, writing down what is being done."""
    stage = make_stage(train={"steps": 10_000}, saving={"every": CADENCE, "keep": 2})
    trainer = make_trainer(stage, clips, out)
    trainer.resume()
    step, save = trainer.step, trainer.save

    def say(text: str) -> None:
        with open(events, "a") as file:
            file.write(text + "\n")

    def noted_step() -> dict[str, float]:
        metrics = step()
        say(f"step {trainer.steps_done}")
        return metrics

    def noted_save() -> None:
        say(f"saving {trainer.steps_done}")
        save()
        say(f"saved {trainer.steps_done}")

    trainer.step, trainer.save = noted_step, noted_save  # type: ignore[method-assign]
    trainer.run()


def _lines(events: Path) -> list[list[str]]:
    if not events.is_file():
        return []
    return [line.split() for line in events.read_text().splitlines() if len(line.split()) == 2]


@pytest.mark.skipif(os.name != "posix", reason="a clean server of processes needs POSIX")
def test_killed_runs_lose_no_more_than_the_last_cadence(tmp_path: Path) -> None:
    clips, out, events = write_clips(tmp_path / "clips"), tmp_path / "run", tmp_path / "events"
    first = make_trainer(make_stage(train={"steps": 10_000}, saving={"every": CADENCE, "keep": 2}), clips, out)
    first.step()
    first.save()
    dice = random.Random(4)
    caught = set()
    for _ in range(KILLS):
        events.unlink(missing_ok=True)
        child = start(_train, clips, out, events)
        wanted, deadline = dice.randint(1, 7), time.monotonic() + 120
        while len(_lines(events)) < wanted and time.monotonic() < deadline:
            assert child.is_alive(), "training ended by itself"
            time.sleep(0.002)
        time.sleep(dice.random() * 0.02)
        child.kill()
        child.join()
        done = _lines(events)
        caught.add(done[-1][0])
        steps = [int(number) for what, number in done if what == "step"]
        checkpoint = latest(out)
        assert int(checkpoint.name.removeprefix("step-")) >= max(steps, default=0) - CADENCE
        weights = read_weights(checkpoint)
        assert weights and all(torch.isfinite(t).all() for t in weights.values())
        assert len(complete(out)) <= 3
    assert len(caught) > 1, "every kill came at the same place"
    last = make_trainer(make_stage(train={"steps": 10_000}, saving={"every": CADENCE, "keep": 2}), clips, out)
    last.resume()
    assert last.steps_done >= 1 and torch.isfinite(torch.tensor(last.step()["loss"]))
    assert not list(out.glob(".step-*"))
