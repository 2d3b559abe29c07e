"""Chunk samplers against stored vectors, a hand-run schedule and their own rules."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from sana_wm_core.config import TransformerConfig
from sana_wm_core.model import SanaWMTransformer
from sana_wm_core.model.memory import Window
from sana_wm_core.sampling.choice import choose_sampler
from sana_wm_core.sampling.chunk_flow import ChunkFlowSampler, frame_levels
from sana_wm_core.sampling.dpm import DPMSampler
from sana_wm_core.sampling.sampler import Conditions, Sampler
from sana_wm_core.sampling.schedule import sigma_grid
from sana_wm_core.sampling.student import ChunkSampler, check_steps, grid_steps, parse_steps

GOLDEN = Path(__file__).parent / "golden" / "hd32"
TOLERANCE = 2e-5


@pytest.fixture(scope="module")
def models():
    values = json.loads((GOLDEN / "config.json").read_text())
    values = {k: v for k, v in values.items() if k in TransformerConfig.model_fields}
    made = {}
    for context in ("carried", "local"):
        model = SanaWMTransformer(TransformerConfig(**values, softmax_dtype="model", cam_conv_context=context)).eval()
        model.load_state_dict(load_file(GOLDEN / "weights.safetensors"))
        made[context] = model
    return made


@pytest.fixture(scope="module")
def stored():
    return load_file(GOLDEN / "sampler.safetensors")


@pytest.fixture(scope="module")
def conditions():
    given = load_file(GOLDEN / "conditioning.safetensors")
    return Conditions(
        given["encoder_hidden_states"][:, None],
        given["encoder_attention_mask"],
        given["negative_encoder_hidden_states"][:, None],
        given["negative_encoder_attention_mask"],
        {name: given[name] for name in ("camera_conditions", "chunk_plucker")},
    )


CASES = {
    "final_latents.cam_conv_local": ("local", 16, {}),
    "final_latents.cam_conv_carried": ("carried", 16, {}),
    "final_latents.unlimited_window.cam_conv_local": ("local", 16, {"window": Window(0, False)}),
    "final_latents_14_frames.cam_conv_local": ("local", 14, {}),
    "final_latents_10_frames_guidance3.cam_conv_local": ("local", 10, {"guidance": 3.0}),
}


@pytest.mark.parametrize("name", list(CASES))
def test_student_vectors(models, stored, conditions, name):
    context, frames, own = CASES[name]
    sampler = ChunkSampler(**own)
    out = sampler(models[context], stored["first_frame_latent"], stored["noise"][:, :, :frames], conditions)
    assert (out - stored[name]).abs().max() < TOLERANCE
    assert torch.equal(out[:, :, :1], stored["first_frame_latent"])


def test_late_actions_change_no_finished_chunk(models, stored, conditions):
    late = {name: stored[f"alternative_late_actions.{name}"] for name in ("camera_conditions", "chunk_plucker")}
    changed = Conditions(conditions.text, conditions.text_mask, camera=late)
    sampler = ChunkSampler()
    given = (models["local"], stored["first_frame_latent"], stored["noise"])
    one, two = sampler(*given, conditions), sampler(*given, changed)
    assert torch.equal(one[:, :, :10], two[:, :, :10])
    assert (one[:, :, 10:] - two[:, :, 10:]).abs().max() > 1e-3
    assert (two - stored["alternative_late_actions.final_latents.cam_conv_local"]).abs().max() < TOLERANCE


@pytest.mark.parametrize("text", ["1000,960", "0", "", "1000,x,0", "960,1000,0", "1200,0", "1000,-5,0"])
def test_step_lists_that_cannot_be_walked(text):
    with pytest.raises(ValueError, match="such as 1000,960,889,727,0"):
        parse_steps(text)


def test_step_lists():
    assert parse_steps(" 1000, 960,889,727,0") == ChunkSampler().steps
    assert check_steps(grid_steps(4, 8.0))[-1] == 0
    # The student's list is the shift-8 image of four even steps.
    wanted = [8 * x / (1 + 7 * x) * 1000 for x in (1, 0.75, 0.5, 0.25, 0)]
    assert [round(step) for step in wanted] == list(ChunkSampler().steps)


@pytest.mark.parametrize(
    ("frames", "steps", "first", "total"),
    [
        (121, 60, [0, 1, 3, 4, 6, 7, 9, 10], 118),
        (41, 60, [0, 4, 9, 13, 18], 115),
        (21, 60, [0, 10, 20, 30, 40, 49], 109),
    ],
)
def test_chunk_flow_schedule(frames, steps, first, total):
    from sana_wm_core.sampling.chunks import training_chunks

    begins = ChunkFlowSampler(steps=steps).begins(len(training_chunks(frames, 3)))
    assert begins[: len(first)] == first and begins[-1] + steps == total


def test_chunk_flow_levels():
    levels = sigma_grid(2, 2.0)
    got = frame_levels(levels, [2, 1, 0], [0, 2, 4], 6)
    assert got.tolist() == [0, 0, float(levels[1]), float(levels[1]), 1, 1]


class Recorder:
    """A velocity model that knows the data, x0 = 0: v = x / sigma. It records what it was asked."""

    def __init__(self):
        self.calls = []

    def __call__(self, hidden_states, timestep, text, chunk_index=None, **more):
        self.calls.append((hidden_states.shape[2], list(chunk_index or ()), timestep[0, 0].tolist()))
        sigma = (timestep / 1000).clamp_min(1e-9).view(1, 1, -1, 1, 1)
        return (hidden_states / sigma,)


def test_chunk_flow_walks_only_the_chunks_that_have_begun():
    model, noise = Recorder(), torch.randn(1, 2, 7, 1, 1, generator=torch.Generator().manual_seed(0))
    picture = torch.ones(1, 2, 1, 1, 1)
    conditions = Conditions(torch.zeros(1, 1, 1, 1), torch.ones(1, 1))
    out = ChunkFlowSampler(steps=4, guidance=1.0, shift=2.0)(model, picture, noise, conditions)
    assert [call[:2] for call in model.calls] == [(4, [0])] * 2 + [(7, [0, 4])] * 4
    times = [call[2] for call in model.calls]
    assert times[2][4:] == [1000.0] * 3 and times[4][1:4] == [0.0] * 3 and all(time[0] == 0 for time in times)
    assert torch.equal(out[:, :, :1], picture) and out[:, :, 1:].abs().max() < 1e-6


def test_one_chunk_is_the_whole_clip_sampler(models, stored, conditions):
    short = Conditions(conditions.text, conditions.text_mask)
    given = (models["local"], stored["first_frame_latent"], stored["noise"][:, :, :4], short)
    assert torch.equal(ChunkFlowSampler(2, 1.0)(*given), Sampler(2, 1.0)(*given))
    with pytest.raises(ValueError, match="must be above 0"):
        ChunkFlowSampler(interval=0.0).begins(3)


def test_chunk_flow_is_causal(models, stored, conditions):
    late = {name: stored[f"alternative_late_actions.{name}"] for name in ("camera_conditions", "chunk_plucker")}
    changed = Conditions(conditions.text, conditions.text_mask, camera=late)
    sampler = ChunkFlowSampler(steps=2, guidance=1.0)
    given = (models["local"], stored["first_frame_latent"], stored["noise"])
    one, two = sampler(*given, conditions), sampler(*given, changed)
    # Passes of other lengths may round differently in the last place.
    assert (one[:, :, :10] - two[:, :, :10]).abs().max() < 1e-5
    assert (one[:, :, 10:] - two[:, :, 10:]).abs().max() > 1e-3


def test_dpm_solver_reaches_the_data_and_keeps_the_picture():
    model, noise = Recorder(), torch.randn(1, 2, 4, 1, 1, generator=torch.Generator().manual_seed(0))
    picture = torch.ones(1, 2, 1, 1, 1)
    conditions = Conditions(torch.zeros(1, 1, 1, 1), torch.ones(1, 1))
    out = DPMSampler(steps=5, guidance=1.0, shift=3.0)(model, picture, noise, conditions)
    assert len(model.calls) == 5
    # The scheduler hands out whole timesteps, so the model is off by up to half a thousandth.
    assert torch.equal(out[:, :, :1], picture) and out[:, :, 1:].abs().max() < 5e-3
    with pytest.raises(ValueError, match="at least 1"):
        DPMSampler(steps=0)(model, picture, noise, conditions)


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_flow_euler_equals_diffusers_scheduler_and_lets_the_picture_drift(models, stored, conditions, guidance):
    from diffusers import FlowMatchEulerDiscreteScheduler

    model, noise = models["local"], stored["noise"][:, :, :5]
    camera = {name: tensor.narrow(2 if "plucker" in name else 1, 0, 5) for name, tensor in conditions.camera.items()}
    given = replace(conditions, camera=camera)
    sampler = choose_sampler("flow_euler", steps=3, guidance=guidance, shift=4.0)
    made = sampler(model, stored["first_frame_latent"], noise, given)

    solver = FlowMatchEulerDiscreteScheduler(shift=4.0)
    solver.set_timesteps(3)
    latents = torch.cat([stored["first_frame_latent"], noise[:, :, 1:]], dim=2)
    for moment in solver.timesteps:
        answers = []
        for text, mask in ((given.text, given.text_mask), (given.negative_text, given.negative_mask)):
            moments = moment.expand(1, 1, 5)
            answers.append(model(latents, moments, text, encoder_attention_mask=mask, return_dict=False, **camera)[0])
        with_text, without = answers
        velocity = with_text if guidance == 1 else without + guidance * (with_text - without)
        latents = solver.step(velocity, moment, latents, return_dict=False)[0]
    assert (made - latents).abs().max() < TOLERANCE
    assert (made[:, :, :1] - stored["first_frame_latent"]).abs().max() > 1e-2
