"""The speed protocol with a clock that does what it is told."""

import numpy as np
import pytest
from wm_bench.efficiency import DEFINITION, measure_speed


def frames(count):
    return np.zeros((count, 2, 2, 3), np.uint8)


class Clock:
    """Time that moves only when work is done."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def worker(clock, batches):
    """Makes (frames, seconds) batches; the first two runs are twice as slow, as cold ones are."""
    calls = []

    def make():
        calls.append(None)
        slow = 2.0 if len(calls) <= 2 else 1.0
        for count, seconds in batches:
            clock.now += slow * seconds
            yield frames(count)

    return make


def test_a_streaming_model():
    clock = Clock()
    found = measure_speed(
        worker(clock, [(9, 3.0), (8, 0.5), (8, 0.5)]), 16, runs=3, warmups=2, clock=clock, gpus_per_video=2
    )
    assert (found.frames, found.runs, found.warmups) == (25, 3, 2)
    assert found.warmup_s == 16.0 and found.first_frame_s == 3.0 and found.run_s == 4.0 and found.run_s_spread == 0
    assert found.steady_fps == 16.0
    assert found.realtime == pytest.approx(25 / 16 / 4)
    assert found.videos_per_hour_8 == pytest.approx(4 * 900)
    assert found.peak_torch_allocated_gb is None and found.peak_driver_gb is None and found.peak_process_gb > 0.01


def test_a_model_that_makes_a_clip_at_once():
    clock = Clock()
    found = measure_speed(worker(clock, [(64, 2.0)]), 16, runs=3, warmups=0, clock=clock)
    # Without warm-up the two cold runs count, and the median shows it.
    assert found.first_frame_s == found.run_s == 4.0 and found.run_s_spread == 2.0
    assert found.steady_fps == 16.0 and found.record()["definition"] == DEFINITION


@pytest.mark.parametrize("wrong", [{"runs": 0}, {"warmups": -1}, {"gpus_per_video": 0}])
def test_wrong_counts_are_one_line(wrong):
    with pytest.raises(ValueError, match="allowed: from 1, 0 and 1"):
        measure_speed(lambda: [frames(1)], 16, **wrong)


def test_a_model_without_frames_is_refused():
    for nothing in ([], [frames(0)]):
        with pytest.raises(ValueError, match="made no frame"):
            measure_speed(lambda nothing=nothing: nothing, 16, warmups=0)
