"""Stages as data: the paper's numbers stand in the presets, plans add up, wrong fields are named in one line."""

import pytest
import torch
from sana_wm_core.config import TransformerConfig
from sana_wm_core.model import SanaWMTransformer
from sana_wm_core.sampling.student import STUDENT_STEPS
from sana_wm_core.training.plan import layout, make_plan, parameter_sizes
from sana_wm_core.training.recipe import PRESETS, load_recipe
from sana_wm_core.training.stages import Lora, Mesh, Stage, changed_fields, load_stage

# SANA-WM (arXiv 2605.15178), Table 7: steps, global batch, learning rate, raw frames, context parallel.
TABLE = {
    "stage1_frame_gdn": (30_000, 64, 5e-5, 81, 1),
    "stage2_hybrid": (30_000, 64, 5e-5, 81, 1),
    "stage3_minute_camera": (31_000, 32, 1e-5, 961, 2),
    "stage4_sft": (10_000, 32, 1e-5, 961, 2),
}
SMALL = TransformerConfig(
    in_channels=4, num_layers=2, hidden_size=32, num_attention_heads=2, linear_head_dim=16, caption_channels=8,
    softmax_every_n=2,
)  # fmt: skip


@pytest.mark.parametrize("name", TABLE)
def test_presets_hold_the_papers_table(name: str) -> None:
    stage = load_stage(name)
    got = (
        stage.train.steps,
        stage.train.global_batch,
        stage.optim.learning_rate,
        stage.data.raw_frames,
        stage.mesh.cp,
    )
    assert got == TABLE[name]
    assert stage.optim.clip == 0.5 and stage.precision.compute == "bf16" and "Table 7" in stage.source


def test_every_preset_loads_and_names_itself() -> None:
    names = sorted(p.stem for p in PRESETS.glob("*.toml") if p.stem != "pocket")
    assert len(names) >= 19
    for name in names:
        assert load_stage(name).name == name
    assert load_stage("stage0_vae_adaptation").train.steps == 50_000
    assert load_recipe("pocket").model.num_layers == 6


def test_both_published_step_lists_are_presets() -> None:
    for job in ("distill_ode_t43", "distill_self_forcing_t43", "distill_self_forcing_t121"):
        released, public = load_stage(job).distill, load_stage(job + "_public").distill
        assert released is not None and public is not None
        assert released.step_list == STUDENT_STEPS
        assert public.step_list == (1000, 967, 908, 764, 0)
        assert released.job == public.job


def test_plan_of_the_full_model_counts_what_is_published() -> None:
    stage = load_stage("stage3_minute_camera")
    plan = make_plan(stage, 64)
    assert plan.parameters == plan.trained == 2_661_800_448
    assert plan.tokens_a_clip == 121 * 880 and plan.tokens_a_step == 32 * 121 * 880
    assert plan.ranks.data_ranks == 32 and plan.ranks.cp == 2 and plan.passes == 1
    alone = make_plan(load_stage("stage3_minute_camera", ["mesh.cp=1", "train.global_batch=1"]), 1)
    # training 10: masters and Adam 31 GB, gradients 10 GB.
    assert alone.memory["weights"] + alone.memory["optimiser"] == pytest.approx(31.9e9 / (1 << 30), rel=0.01)
    assert alone.memory["gradients"] == pytest.approx(10.6e9 / (1 << 30), rel=0.01)
    assert plan.memory["weights"] == pytest.approx(alone.memory["weights"] / 64)
    assert any("64 = 1 copies x 32 shards x 2 along time" in line for line in plan.lines(stage))


def test_lora_plan_fits_the_card_it_is_named_after() -> None:
    stage = load_stage("lora_24gb")
    plan = make_plan(stage, 1)
    assert 0.005 < plan.trained / plan.parameters < 0.03
    assert plan.memory_gib < 0.8 * 24
    full = make_plan(stage.model_copy(update={"lora": None}), 1)
    assert full.memory_gib > 24


def test_sizes_are_those_of_the_model() -> None:
    model = SanaWMTransformer(SMALL)
    assert parameter_sizes(SMALL) == {k: p.numel() for k, p in model.named_parameters()}
    stage = Stage(name="a", purpose="b", model=SMALL, lora=Lora(rank=2, targets=["qkv"]))
    assert make_plan(stage).trained == 2 * 2 * (32 + 96)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["train.stepz=3"], "unknown field train.stepz"),
        (["nosuch.field=3"], "unknown field nosuch"),
        (["train.steps=0"], "train.steps=0"),
        (["train.steps"], "section.field=value"),
        (["objective.mixture={x=1.0}"], "mixture"),
        (["distill.step_list=[1000, 500]"], "end with 0"),
        (["distill.job='ode'", "objective.chunk_frames=0"], "objective.chunk_frames above 0"),
    ],
)
def test_wrong_fields_are_named_in_one_line(changes: list[str], words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        load_stage("stage5_chunk_causal", changes)
    assert "\n" not in str(caught.value)


def test_unknown_stage_lists_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"no preset 'stage9'.*stage4_sft"):
        load_stage("stage9")
    with pytest.raises(ValueError, match="recipe of `sana-wm train world`"):
        load_stage("pocket")


def test_ranks_that_do_not_divide_are_named() -> None:
    with pytest.raises(ValueError, match=r"cp=2 needs 2 processes, but there are 3"):
        layout(Mesh(cp=2), 3)
    assert layout(Mesh(cp=2), 8) == (1, 4, 2)
    with pytest.raises(ValueError, match="global_batch=3 must be a multiple of 2 data ranks"):
        make_plan(Stage(name="a", purpose="b", model=SMALL, train={"global_batch": 3}), 2)


def test_a_changed_recipe_is_told_field_by_field() -> None:
    import json

    stage = load_stage("tiny_gdn")
    written = json.dumps(stage.fingerprint())
    assert changed_fields(load_stage("tiny_gdn", ["train.steps=9", "mesh.cp=2"]), written) == []
    other = load_stage("tiny_gdn", ["optim.learning_rate=0.5", "objective.shift=1.0"])
    assert changed_fields(other, written) == ["objective.shift: 3.0 -> 1.0", "optim.learning_rate: 0.001 -> 0.5"]


def test_meta_sizes_need_no_memory() -> None:
    before = torch.get_default_dtype()
    assert make_plan(load_stage("stage1_frame_gdn"), 64).parameters > 2e9
    assert torch.get_default_dtype() == before
