"""Published layouts: there and back without a changed bit, what is refused, and what a look at files finds wrong."""

import json
import os
import runpy
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from sana_wm_core.convert import convert
from sana_wm_core.hub import BIDIRECTIONAL, fetch_folder
from sana_wm_core.inventory import look, problem_of, safetensors_size
from sana_wm_core.layouts import layout_of, open_world
from sana_wm_core.releases import NEEDS, RELEASES, Weights, parts_of, release_of
from sana_wm_core.weights import load_transformer, read_checkpoint

SCRIPT = Path(__file__).resolve().parents[3] / "scripts" / "tiny_models.py"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    runpy.run_path(str(SCRIPT))["write_all"](folder)
    return folder


def same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].dtype == b[name].dtype and torch.equal(a[name], b[name]), name


@pytest.mark.parametrize(
    "model, file",
    [
        ("SANA-WM_bidirectional", "dit/sana_wm_1600m_720p.safetensors"),
        ("SANA-WM_chunk_causal", "dit/sana_wm_chunk_causal_1600m_720p.safetensors"),
        ("SANA-WM_streaming", "sana_dit/model.pt"),
    ],
)
def test_there_and_back_is_exact(tiny, tmp_path, model, file):
    there, back = tmp_path / "there", tmp_path / "back"
    assert convert(tiny / model, there) == "diffusers" and convert(there, back) == "nvlabs"
    read = load_file if file.endswith("safetensors") else read_checkpoint
    same(read(back / file), read(tiny / model / file))
    assert layout_of(there) == "diffusers" and layout_of(back) == layout_of(tiny / model)
    originals = [p.relative_to(tiny / model) for p in (tiny / model).rglob("*") if p.is_file()]
    for path in originals:
        if path.name in ("config.json", Path(file).name) and path.parent.name in ("dit", "sana_dit"):
            continue
        assert (back / path).read_bytes() == (tiny / model / path).read_bytes(), path
    ours = load_transformer(there / "transformer").state_dict()
    same(ours, load_transformer(tiny / model / file).state_dict())
    assert ours.keys() == load_transformer(back / file).state_dict().keys()


def test_diffusers_reads_what_was_converted(tiny, tmp_path):
    from diffusers import FlowMatchEulerDiscreteScheduler, SanaWMTransformer3DModel

    convert(tiny / "SANA-WM_bidirectional", tmp_path / "there")
    theirs = SanaWMTransformer3DModel.from_pretrained(tmp_path / "there" / "transformer")
    expected = SanaWMTransformer3DModel.from_pretrained(tiny / "SANA-WM_bidirectional-diffusers" / "transformer")
    same(theirs.state_dict(), expected.state_dict())
    scheduler = FlowMatchEulerDiscreteScheduler.from_pretrained(tmp_path / "there" / "scheduler")
    assert scheduler.config["shift"] == 9.8
    world = open_world(tmp_path / "there")
    assert world.layout == "diffusers" and world.pipeline.defaults.shift == 9.8 and world.refiner.complete


def test_from_diffusers_and_back(tiny, tmp_path):
    source = tiny / "SANA-WM_bidirectional-diffusers"
    assert convert(source, tmp_path / "nv", "nvlabs") == "nvlabs"
    convert(tmp_path / "nv", tmp_path / "back")
    files = "transformer/diffusion_pytorch_model.safetensors"
    same(load_file(source / files), load_file(tmp_path / "back" / files))
    assert open_world(tmp_path / "nv").pipeline.defaults.shift == 9.8


@pytest.mark.parametrize(
    "text, expected",
    [
        ("", ("flow_euler_ltx", 9.8, 3, ())),
        ("model: SanaMSVideoCamCtrl_1600M_P1_D20\n", ("flow_euler_ltx", 9.8, 3, ())),
        ("scheduler: {flow_shift: 9.95, vis_sampler: flow_dpm-solver}\n", ("flow_euler_ltx", 9.95, 3, ())),
        (
            "scheduler: {inference_flow_shift: 8.0, vis_sampler: chunk_flow_euler}\nmodel: {chunk_size: 5}\n",
            ("chunk_flow_euler", 8.0, 5, ()),
        ),
        (
            "scheduler: {vis_sampler: self_forcing, denoising_step_list: [1000, 500, 0]}\n",
            ("self_forcing", 9.8, 3, (1000.0, 500.0, 0.0)),
        ),
    ],
)
def test_what_a_config_decides(tiny, tmp_path, text, expected):
    (tmp_path / "config.yaml").write_text(text)
    own = open_world(tiny / "SANA-WM_bidirectional", config=tmp_path / "config.yaml").pipeline.defaults
    assert (own.sampler, own.shift, own.chunk, own.step_list) == expected
    assert own.fixed_steps == bool(own.step_list)


def test_a_step_list_that_does_not_end_is_refused(tiny, tmp_path):
    (tmp_path / "config.yaml").write_text("scheduler: {denoising_step_list: [1000, 500]}\n")
    with pytest.raises(ValueError, match="end with 0"):
        open_world(tiny / "SANA-WM_streaming", config=tmp_path / "config.yaml")


def test_what_cannot_be_converted(tiny, tmp_path):
    source = tiny / "SANA-WM_chunk_causal"
    full = tmp_path / "full"
    full.mkdir()
    (full / "file").write_text("mine")
    broken = tmp_path / "broken"
    shutil.copytree(source, broken)
    weights = next((broken / "dit").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:1000])
    for arguments, word in (
        ((source, full), "not empty"),
        ((source, tmp_path / "x", "nvlabs"), "already"),
        ((source, tmp_path / "x", "onnx"), "diffusers, nvlabs"),
        ((tmp_path / "absent", tmp_path / "x"), "no such folder"),
        ((broken, tmp_path / "x"), "damaged"),
    ):
        with pytest.raises(ValueError, match=word) as caught:
            convert(*arguments)
        assert "\n" not in str(caught.value)
    assert sorted(os.listdir(tmp_path)) == ["broken", "full"] and os.listdir(full) == ["file"]


def test_a_record_cannot_point_outside(tiny, tmp_path):
    convert(tiny / "SANA-WM_chunk_causal", tmp_path / "there")
    origin = tmp_path / "there" / "nvlabs" / "origin.json"
    origin.write_text(json.dumps(json.loads(origin.read_text()) | {"weights": "../../../escaped.safetensors"}))
    convert(tmp_path / "there", tmp_path / "back")
    assert (tmp_path / "back" / "dit" / "escaped.safetensors").is_file()


def test_training_checkpoints_open_without_running_anything(tiny, tmp_path):
    names = read_checkpoint(tiny / "SANA-WM_streaming" / "sana_dit" / "model.pt")
    assert all(name.startswith("model.") for name in names) and "model.x" not in names
    for held in ({"state_dict": {"a": torch.ones(2)}}, {"a": torch.ones(2)}):
        torch.save(held, tmp_path / "m.pt")
        assert list(read_checkpoint(tmp_path / "m.pt")) == ["a"]
    for held, word in (({"generator": {}}, "no model"), ([1], "no model"), ({"x": Path("a")}, "more than weights")):
        torch.save(held, tmp_path / "m.pt")
        with pytest.raises(ValueError, match=word):
            read_checkpoint(tmp_path / "m.pt")


def test_files_are_checked_by_what_they_say_of_themselves(tiny, tmp_path):
    weights = tiny / "SANA-WM_bidirectional" / "dit" / "sana_wm_1600m_720p.safetensors"
    assert safetensors_size(weights) == weights.stat().st_size and problem_of(weights, verify=True) is None
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(weights.read_bytes()[:-1])
    assert "expected" in problem_of(cut)
    (tmp_path / "empty.json").write_text("")
    assert "empty" in problem_of(tmp_path / "empty.json")
    (tmp_path / "cut.pt").write_bytes((tiny / "SANA-WM_streaming/sana_dit/model.pt").read_bytes()[:-100])
    assert "cut short" in problem_of(tmp_path / "cut.pt")
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    assert "gone" in problem_of(tmp_path / "link")


def test_a_look_into_the_cache(tmp_path):
    part = Weights("weights", "some/model", ("dit/*",), 1.0, "none")
    assert not look(part, cache=tmp_path).ready
    home = tmp_path / "models--some--model"
    (home / "blobs").mkdir(parents=True)
    (home / "snapshots/1/dit").mkdir(parents=True)
    content = b"content"
    import hashlib

    name = hashlib.sha256(content).hexdigest()
    (home / "blobs" / name).write_bytes(content)
    (home / "snapshots/1/dit/a.json").symlink_to(home / "blobs" / name)
    (home / "snapshots/1/README.md").write_text("not asked for")
    found = look(part, verify=True, cache=tmp_path)
    assert found.ready and found.files == 1 and found.bytes == len(content)
    (home / "blobs" / name).write_bytes(b"changed")
    assert look(part, cache=tmp_path).ready
    assert "differs" in look(part, verify=True, cache=tmp_path).problems[0]
    (home / "blobs" / "x.incomplete").write_bytes(b"")
    assert "not finished" in look(part, cache=tmp_path).problems[0]
    index = home / "snapshots/1/dit/model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "one.safetensors"}}))
    assert any("one.safetensors: missing" in text for text in look(part, cache=tmp_path).problems)


def test_every_release_is_described():
    assert RELEASES.keys() == NEEDS.keys()
    for hub_id in RELEASES:
        assert release_of(hub_id) == release_of(hub_id.partition("/")[2]) == hub_id
        assert all(part.licence and part.patterns for part in parts_of(hub_id))
        assert not any(part.second_stage for part in parts_of(hub_id, refiner=False))
    assert release_of("chunk-causal") == release_of("chunk_causal")
    with pytest.raises(ValueError, match="streaming"):
        release_of("SANA-WM_future")


def test_only_what_is_missing_is_downloaded(tmp_path, monkeypatch):
    """The codec of the bidirectional release, fetched for another one, does not pass for the whole release."""
    asked = []

    def snapshot(hub_id, allow_patterns, local_files_only=False):
        if not local_files_only:
            asked.append(tuple(allow_patterns))
            for pattern in allow_patterns:
                file = tmp_path / pattern.replace("**/*", "transformer/x").replace("*", "x")
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text("x")
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    for _ in range(2):
        fetch_folder(BIDIRECTIONAL, "codec")
    assert asked == [("vae/*",)]
    for _ in range(2):
        fetch_folder(BIDIRECTIONAL)
    assert len(asked) == 2 and "dit/*.safetensors" in asked[1]
    fetch_folder(BIDIRECTIONAL, "refiner")
    assert len(asked) == 3 and "refiner/*" in asked[2]
