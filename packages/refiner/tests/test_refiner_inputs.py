"""What the refiner refuses, in one line that says what to do; and adapters folded into it."""

import json
import re

import pytest
import torch
from refiner import Refiner, load_refiner, load_text, load_transformer, merge_lora
from refiner_cases import build
from safetensors.torch import load_file, save_file


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("refiner")
    build(path)
    return path


@pytest.fixture
def copy(folder, tmp_path):
    import shutil

    return shutil.copytree(folder, tmp_path / "copy")


@pytest.mark.parametrize(
    "options, word",
    [
        ({"sink": 0}, "sink"),
        ({"block": 0}, "blocks"),
        ({"window": 1}, "window"),
        ({"fps": 0}, "frame rate"),
        ({"sigmas": (0.9, 0.5)}, "end with 0"),
        ({"sigmas": (0.5, 0.9, 0.0)}, "fall"),
        ({"sigmas": (1.5, 0.0)}, "at most 1"),
        ({"sigmas": (0.0,)}, "fall"),
        ({"sigmas": (float("nan"), 0.0)}, "fall"),
    ],
)
def test_numbers_that_fit_no_clip(options, word):
    with pytest.raises(ValueError, match=word) as caught:
        Refiner(torch.nn.Identity(), torch.zeros(1, 1, 1), torch.ones(1, 1), **options)
    assert "\n" not in str(caught.value)


def test_a_clip_that_is_all_sink(folder):
    model, text = load_refiner(folder, dtype=torch.float32)
    text.length = 128
    refiner = Refiner(model, *text.encode("x"))
    for call in (refiner, lambda z: refiner.chunk(z, {})):
        with pytest.raises(ValueError, match="sink"):
            call(torch.zeros(1, 8, 1, 2, 3))


@pytest.mark.parametrize("part", ["transformer", "connectors", "text_encoder"])
@pytest.mark.parametrize("damage", ["cut", "absent", "gap", "config", "shape"])
def test_damaged_parts_are_named(copy, part, damage):
    weights, config = next((copy / part).glob("*.safetensors")), copy / part / "config.json"
    if damage == "cut":
        weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    elif damage == "absent":
        weights.unlink()
    elif damage == "config":
        config.write_text("{half")
    else:
        state = load_file(weights)
        skipped = ("audio", "vision", "projector")
        name = next(n for n in sorted(state) if "s.1." in n and not any(word in n for word in skipped))
        if damage == "gap":
            del state[name]
        else:
            state[name] = torch.zeros(3, 3)
        save_file(state, weights, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=re.escape(str(copy / part))) as caught:
        load_refiner(copy, dtype=torch.float32)
    assert "\n" not in str(caught.value)


def test_missing_folders_say_what_to_give(copy, tmp_path):
    with pytest.raises(ValueError, match="--refiner_root"):
        load_transformer(tmp_path / "nothing")
    with pytest.raises(ValueError, match="--refiner_gemma_root"):
        load_text(copy, tmp_path / "nothing")
    config = copy / "connectors" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"text_proj_in_factor": 3, "caption_channels": 24}))
    gemma = copy / "text_encoder" / "config.json"
    values = json.loads(gemma.read_text())
    values["text_config"] |= {"num_hidden_layers": 1, "layer_types": values["text_config"]["layer_types"][:1]}
    gemma.write_text(json.dumps(values))
    with pytest.raises(ValueError, match="layers"):
        load_text(copy)


def test_a_newer_ltx_is_refused(copy):
    config = copy / "transformer" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"cross_attn_mod": True}))
    with pytest.raises(ValueError, match=r"LTX-2\.3"):
        load_transformer(copy / "transformer")


@pytest.mark.parametrize("style", ["peft", "kohya"])
def test_an_adapter_is_folded_in_and_taken_out(folder, tmp_path, style):
    model = load_transformer(folder / "transformer", dtype=torch.float32)
    name = "transformer_blocks.1.attn1.to_q"
    before = model.get_submodule(name).weight.clone()
    down, up = torch.randn(4, before.shape[1]), torch.randn(before.shape[0], 4)
    if style == "peft":
        state, alpha = {f"transformer.{name}.lora_A.weight": down, f"transformer.{name}.lora_B.weight": up}, 4.0
    else:
        alpha = 2.0
        state = {
            f"diffusion_model.{name}.lora_down.weight": down,
            f"diffusion_model.{name}.lora_up.weight": up,
            f"diffusion_model.{name}.alpha": torch.tensor(alpha),
        }
    save_file(state, tmp_path / "a.safetensors")
    assert merge_lora(model, tmp_path / "a.safetensors", 0.5) == 1
    torch.testing.assert_close(model.get_submodule(name).weight, before + 0.5 * alpha / 4 * up @ down)
    merge_lora(model, tmp_path / "a.safetensors", -0.5)
    torch.testing.assert_close(model.get_submodule(name).weight, before, atol=1e-5, rtol=1e-5)


def test_adapters_that_do_not_fit_leave_the_model_alone(folder, tmp_path):
    model = load_transformer(folder / "transformer", dtype=torch.float32)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    q = "transformer_blocks.0.attn1.to_q"
    good = {f"{q}.lora_A.weight": torch.ones(2, 32), f"{q}.lora_B.weight": torch.ones(32, 2)}
    wrong = [
        ({}, "no adapter"),
        ({"stray.weight": torch.ones(1)}, "stray"),
        ({f"{q}.lora_A.weight": torch.ones(2, 32)}, "half"),
        (good | {f"{q}.lora_B.weight": torch.ones(31, 2)}, "32"),
        (good | {"nowhere.lora_A.weight": torch.ones(2, 32), "nowhere.lora_B.weight": torch.ones(32, 2)}, "nowhere"),
    ]
    for state, word in wrong:
        with pytest.raises(ValueError, match=word):
            merge_lora(model, state)
    (tmp_path / "bad.safetensors").write_bytes(b"half")
    for path in (tmp_path / "bad.safetensors", tmp_path / "absent.safetensors"):
        with pytest.raises(ValueError, match="adapter"):
            merge_lora(model, path)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
