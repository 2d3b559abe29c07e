"""Pocket worlds that make a clip chunk by chunk: preset, step list, borrowed parts."""

import json
from pathlib import Path

import pytest
import torch
from sana_wm_core import pocket as bundle
from sana_wm_core.pocket import Pocket, PocketPreset, load_pocket, save_pocket
from sana_wm_core.sampling.choice import WholeClipStudent
from sana_wm_core.sampling.sampler import Sampler
from sana_wm_core.sampling.student import grid_steps

LIST = (1000.0, 900.0, 500.0, 0.0)


@pytest.fixture(scope="module")
def world() -> Pocket:
    return load_pocket()


def test_weights_are_sampled_as_they_were_trained() -> None:
    whole = PocketPreset(steps=5, flow_shift=3.0)
    assert whole.sampler() == Sampler(5, 1.0, 3.0) and whole.sampler(2) == Sampler(2, 1.0, 3.0)
    teacher = PocketPreset(steps=4, flow_shift=3.0, chunk=3).sampler()
    assert isinstance(teacher, WholeClipStudent) and teacher.chunks.size == 3
    assert len(teacher.chunks.steps) == 5 and teacher.chunks.steps == pytest.approx(grid_steps(4, 3.0))
    student = PocketPreset(chunk=3, step_list=LIST)
    assert student.sampler() == student.sampler(3)
    assert student.sampler().chunks.steps == LIST


def test_a_step_list_is_checked_where_it_is_read_and_where_steps_are_asked_for(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="steps=4: these weights know only the timesteps 1000,900,500,0"):
        PocketPreset(chunk=3, step_list=LIST).sampler(4)
    for wrong, message in (
        ({"step_list": [1000, 500]}, "must fall from at most 1000 and end with 0"),
        ({"step_list": [1000, 0], "chunk": 0}, "chunk must be above 0"),
        ({"steps": "many"}, "steps"),
    ):
        (tmp_path / "preset.json").write_text(json.dumps({"chunk": 3, **wrong}))
        with pytest.raises(ValueError, match=message) as caught:
            load_pocket(tmp_path)
        assert "\n" not in str(caught.value)


def test_a_student_borrows_codec_and_text_encoder_of_the_bundled_world(world: Pocket, tmp_path: Path) -> None:
    preset = world.preset.model_copy(update={"chunk": 3, "step_list": LIST, "borrows": True})
    before = {k: v.clone() for k, v in world.transformer.state_dict().items()}
    save_pocket(world._replace(preset=preset), tmp_path, torch.float32)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["preset.json", "transformer"]
    again = load_pocket(tmp_path)
    assert again.preset == preset
    assert all(torch.equal(v, before[k]) for k, v in again.transformer.state_dict().items())
    for part in ("codec", "text_encoder"):
        ours, theirs = getattr(again, part).state_dict(), getattr(world, part).state_dict()
        assert all(torch.equal(ours[k], theirs[k]) for k in theirs)


def test_bundled_worlds_go_by_name(world: Pocket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    preset = world.preset.model_copy(update={"chunk": 3, "step_list": LIST, "borrows": True})
    save_pocket(world._replace(preset=preset), tmp_path)
    monkeypatch.setitem(bundle.BUNDLED, "pocket-streaming", tmp_path)
    assert load_pocket("pocket-streaming").preset.step_list == LIST
    assert load_pocket("pocket").preset == world.preset
