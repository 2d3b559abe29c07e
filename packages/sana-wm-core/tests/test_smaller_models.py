"""Fewer bits, blocks that wait in main memory, smaller copies on disk, and the lens of a picture without one."""

import importlib.util
import math
import runpy
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from sana_wm_core.config import TransformerConfig
from sana_wm_core.fidelity import camera_response, quantize_and_check, response_error
from sana_wm_core.lens import estimate_lens, focal_lengths, picture_size
from sana_wm_core.model import SanaWMTransformer
from sana_wm_core.offload import offload_blocks
from sana_wm_core.pocket import WEIGHTS as POCKET
from sana_wm_core.precision import quantize
from sana_wm_core.shrink import shrink
from sana_wm_core.stored import SCALE, is_scale, restored, stored_shape, to_float4, to_float8
from sana_wm_core.weights import WEIGHTS, load_transformer

SCRIPT = Path(__file__).resolve().parents[3] / "scripts" / "tiny_models.py"


@pytest.fixture(scope="module", autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


def model(seed=0):
    torch.manual_seed(seed)
    values = {"in_channels": 4, "num_layers": 2, "caption_channels": 8, "mlp_ratio": 1.0, "softmax_every_n": 2}
    values |= {"hidden_size": 32, "linear_head_dim": 16, "num_attention_heads": 2, "softmax_dtype": "model"}
    network = SanaWMTransformer(TransformerConfig(**values)).eval()
    for name, p in network.named_parameters():
        noise = torch.randn(p.shape)
        p.copy_(1 + 0.2 * noise if "norm" in name else noise * (0.3 if p.ndim < 2 else p[0].numel() ** -0.5))
    return network


def call(network):
    g = torch.Generator().manual_seed(1)
    camera = torch.eye(4).flatten().expand(1, 3, 16)
    camera = torch.cat([camera, torch.tensor([2.0, 2.0, 1.0, 1.0]).expand(1, 3, 4)], dim=-1)
    text = network.read_text(torch.randn(1, 1, 5, 8, generator=g), torch.ones(1, 5))
    return network(
        torch.randn(1, 4, 3, 2, 2, generator=g),
        torch.full((1, 1, 3), 500.0),
        text,
        camera_conditions=camera,
        chunk_plucker=torch.randn(1, 48, 3, 2, 2, generator=g),
    ).sample


@pytest.mark.parametrize("precision, least_db", [("fp8", 20), ("fp4", 8)])
def test_linear_layers_in_fewer_bits(precision, least_db):
    pytest.importorskip("torchao")
    network = model()
    before, kept = call(network), {n: p.clone() for n, p in network.named_parameters() if "cam" in n or "beta" in n}
    changed = quantize(network, precision)
    after = call(network)
    # qkv, proj, gate, three of the text and two of the feed-forward, in both blocks
    assert changed == 16
    noise = (after - before).square().mean()
    assert noise > 0 and 10 * torch.log10(before.square().mean() / noise) > least_db
    now = dict(network.named_parameters())
    assert kept and all(torch.equal(now[name], tensor) for name, tensor in kept.items())


def test_precisions_that_cannot_be():
    with pytest.raises(ValueError, match="fp8"):
        quantize(model(), "int4")
    assert quantize(model(), "bf16") == 0
    pytest.importorskip("torchao")
    with pytest.raises(ValueError, match="changes nothing"):
        quantize(torch.nn.Linear(8, 8), "fp8")


def test_torchao_is_loaded_in_silence():
    pytest.importorskip("torchao")
    code = "import torch; from sana_wm_core.precision import import_torchao as load; load('torchao.optim')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == done.stderr == ""


def test_precision_without_torchao_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    with pytest.raises(ValueError, match=r"sana-wm-core\[quant\]"):
        quantize(model(), "fp8")


def test_waiting_blocks_give_the_same_and_are_at_home_afterwards():
    network = model()
    before = call(network)
    homes = [p.data_ptr() for p in network.blocks.parameters()]
    offload_blocks(network, "blocks", torch.device("cpu"))
    assert torch.equal(call(network), before) and torch.equal(call(network), before)
    assert [p.data_ptr() for p in network.blocks.parameters()] == homes


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_waiting_blocks_visit_the_gpu_one_at_a_time():
    network, seen = model(), []
    offload_blocks(network, "blocks", torch.device("cuda"))
    for block in network.blocks:
        block.attn.register_forward_pre_hook(
            lambda *_: seen.append([b.attn.qkv.weight.device.type for b in network.blocks])
        )
    text = network.read_text(torch.randn(1, 1, 5, 8, device="cuda"), torch.ones(1, 5, device="cuda"))
    network(torch.randn(1, 4, 3, 2, 2, device="cuda"), torch.full((1, 1, 3), 500.0, device="cuda"), text)
    assert seen == [["cuda", "cpu"], ["cpu", "cuda"]]
    assert {p.device.type for p in network.blocks.parameters()} == {"cpu"}


def test_waiting_blocks_go_home_after_an_error():
    network = model()
    homes = [p.data_ptr() for p in network.blocks.parameters()]
    offload_blocks(network, "blocks", torch.device("cpu"))
    with pytest.raises((RuntimeError, AttributeError, TypeError)):
        network.blocks[0](*[None] * 6)
    assert [p.data_ptr() for p in network.blocks.parameters()] == homes
    assert call(network).isfinite().all()


def test_float8_rows_come_back_close():
    weight = torch.randn(6, 5, generator=torch.Generator().manual_seed(0)) * torch.logspace(-3, 3, 6)[:, None]
    stored = to_float8(weight)
    back = restored("w", *file_of("w", stored), (6, 5))
    assert stored[""].dtype == torch.float8_e4m3fn and stored[SCALE].shape == (6, 1)
    assert ((back - weight).abs() <= weight.abs().amax(1, keepdim=True) / 16).all()
    assert torch.equal(to_float8(torch.zeros(2, 3))[""].float(), torch.zeros(2, 3))


def file_of(name, stored):
    """Names and a reader, as an open file of weights has them."""
    held = {name + end: tensor for end, tensor in stored.items()}
    return held.keys(), held.__getitem__


def test_float4_groups_come_back_close():
    g = torch.Generator().manual_seed(0)
    weight = torch.randn(6, 48, generator=g) * torch.logspace(-3, 3, 6)[:, None]
    stored = to_float4(weight)
    assert stored[""].shape == (6, 24) and stored[""].dtype == torch.uint8 and stored[SCALE].shape == (6, 3)
    assert stored_shape("w", file_of("w", stored)[0], (6, 48, 1, 1)) == (6, 24)
    back = restored("w", *file_of("w", stored), (6, 48))
    largest = weight.unflatten(1, (3, 16)).abs().amax(2).repeat_interleave(16, 1)
    # Half the widest step of the format, and what float8 rounds off its scale; the faintest row falls below both.
    assert ((back - weight).abs()[1:] <= largest[1:] * (1 / 6 + 1 / 15)).all()
    on_grid = torch.tensor([0.0, 0.5, 1.0, -1.5, 2.0, 3.0, -4.0, 6.0] * 2)[None].repeat(3, 1)
    assert torch.equal(restored("w", *file_of("w", to_float4(on_grid)), (3, 16)), on_grid)
    assert restored("w", *file_of("w", to_float4(torch.zeros(2, 16))), (2, 16, 1, 1)).shape == (2, 16, 1, 1)
    assert not restored("w", *file_of("w", to_float4(torch.zeros(2, 16))), (2, 16)).any()
    assert is_scale("w_scale", {"w"}) and is_scale("w_scale_2", {"w"}) and not is_scale("w_scale", {"v"})


def test_float4_is_the_nvfp4_of_torchao():
    nvfp4 = pytest.importorskip("torchao.prototype.mx_formats.nvfp4_tensor")
    weight = torch.randn(32, 64, generator=torch.Generator().manual_seed(3))
    theirs = nvfp4.NVFP4Tensor.to_nvfp4(weight, per_tensor_scale=nvfp4.per_tensor_amax_to_scale(weight.abs().max()))
    ours = restored("w", *file_of("w", to_float4(weight)), (32, 64))
    assert (ours - theirs.dequantize(torch.float32)).abs().max() < 1e-6


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    runpy.run_path(str(SCRIPT))["write_all"](folder)
    return folder


@pytest.mark.parametrize("name", ["SANA-WM_bidirectional", "SANA-WM_streaming", "SANA-WM_bidirectional-diffusers"])
@pytest.mark.parametrize("precision, most, coarse", [("bf16", 0.05, 14), ("fp8", 0.05, 14), ("fp4", 0.5, 4)])
def test_smaller_copies_load_and_stay_close(tiny, tmp_path, name, precision, most, coarse):
    written, error = shrink(tiny / name, tmp_path / "small", precision, limit=most)
    assert 0 < error < most
    assert sum(f.after for f in written) < sum(f.before for f in written) * 0.75
    place = {"SANA-WM_streaming": "sana_dit/model.pt", "SANA-WM_bidirectional": "dit/sana_wm_1600m_720p.safetensors"}
    inside = place.get(name, "transformer")
    before = load_transformer(tiny / name / inside, dtype=torch.float32).state_dict()
    after = load_transformer(tmp_path / "small" / inside, dtype=torch.float32).state_dict()
    assert before.keys() == after.keys()
    changed = [n for n in before if not torch.equal(before[n].bfloat16(), after[n].bfloat16())]
    assert bool(changed) == (precision != "bf16") and not [n for n in changed if "cam" in n or "t_embedder" in n]
    for n in before:
        assert (before[n] - after[n]).abs().max() <= before[n].abs().max() / coarse, n
    for path in (tmp_path / "small").rglob("*.safetensors"):
        names = load_file(path).keys()
        assert not [n for n in names if "vision_tower" in n or "audio" in n]


def test_a_model_that_loses_its_camera_is_not_written(tiny, tmp_path):
    with pytest.raises(ValueError, match=r"answers the camera .* differently.*--allow_camera_error"):
        shrink(tiny / "SANA-WM_chunk_causal", tmp_path / "small", "fp8", limit=1e-9)
    assert not (tmp_path / "small").exists() and not list(tmp_path.glob(".*"))


def test_the_pocket_world_gets_smaller_too(tmp_path):
    written, error = shrink("pocket", tmp_path / "small", "fp8", limit=1.0)
    assert [f.name for f in written] == [f"transformer/{WEIGHTS}"] and 0 < error < 0.5
    assert written[0].after < 0.75 * written[0].before
    whole, small = (load_transformer(folder / "transformer") for folder in (POCKET, tmp_path / "small"))
    assert response_error(camera_response(whole.float()), camera_response(small.float())) == pytest.approx(error)
    for name in ("codec.safetensors", "text.safetensors", "preset.json"):
        assert (tmp_path / "small" / name).read_bytes() == (POCKET / name).read_bytes()
    with pytest.raises(ValueError, match="answers the camera"):
        shrink("pocket", tmp_path / "refused", "fp8", limit=0.9 * error)
    assert not (tmp_path / "refused").exists()


def test_the_camera_probe():
    before = camera_response(model())
    assert before.norm() > 0 and response_error(before, camera_response(model())) == 0
    blind = model()
    for name, parameter in blind.named_parameters():
        if "plucker" in name or "out_proj_cam" in name:
            parameter.zero_()
    assert response_error(before, camera_response(blind)) > 0.9
    other = torch.randn(before.shape, generator=torch.Generator().manual_seed(4)) * before.std()
    for after, low, high in (
        (before * 0.5, 0.499, 0.501),
        (before * 2, 0.499, 0.501),
        (-before, 1.999, 2.001),
        (before + 0.1 * other, 0.005, 0.02),
        (other, 0.8, 1.2),
    ):
        assert low < response_error(before, after) < high
    pytest.importorskip("torchao")
    assert 0 < quantize_and_check(model(), "fp8") < 0.1
    assert quantize_and_check(model(), "bf16") == 0
    with pytest.raises(ValueError, match="fp8 or bf16"):
        quantize_and_check(model(), "fp4", limit=1e-3)


def test_what_cannot_be_shrunk(tiny, tmp_path):
    for source, precision, word in (
        (tmp_path / "absent", "fp8", "no such folder"),
        (tmp_path, "fp8", "no model"),
        (tiny / "SANA-WM_streaming", "int3", "int3"),
    ):
        with pytest.raises(ValueError, match=word):
            shrink(source, tmp_path / "x", precision)
    broken = tmp_path / "broken"
    (broken / "dit").mkdir(parents=True)
    (broken / "dit" / "x.safetensors").write_bytes(b"half")
    with pytest.raises(ValueError, match="damaged"):
        shrink(broken, tmp_path / "x")
    assert not (tmp_path / "x").exists()


class FakePi3X(torch.nn.Module):
    """Sees a plane two metres away through a lens of known focal lengths (pixels of what it is given)."""

    def __init__(self, fx, fy):
        super().__init__()
        self.fx, self.fy = fx, fy

    def forward(self, pixels):
        height, width = pixels.shape[-2:]
        assert width % 14 == height % 14 == 0 and pixels.min() >= 0 and pixels.max() <= 1
        v, u = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
        x, y = (u - width / 2) / self.fx * 2, (v - height / 2) / self.fy * 2
        return {"local_points": torch.stack([x, y, torch.full_like(x, 2.0)], dim=-1)[None, None]}


def test_the_lens_is_recovered():
    picture = Image.new("RGB", (1000, 500))
    width, height = picture_size(1000, 500)
    assert width % 14 == height % 14 == 0 and width * height <= 255_000 and abs(width / height - 2) < 0.1
    lens = estimate_lens(picture, model=FakePi3X(500.0, 400.0))
    np.testing.assert_allclose(lens, [500 * 1000 / width, 400 * 500 / height, 500, 250], rtol=1e-4)
    for focal, word in ((2000.0, "cannot be right"), (100.0, "cannot be right")):
        with pytest.raises(ValueError, match=word):
            estimate_lens(picture, model=FakePi3X(focal, focal))
    with pytest.raises(ValueError, match="in front"):
        focal_lengths(-torch.ones(4, 4, 3))


def test_pi3x_is_used_where_it_is_installed(monkeypatch):
    module = ModuleType("pi3.models.pi3x")
    module.Pi3X = SimpleNamespace(from_pretrained=lambda name: FakePi3X(400.0, 400.0))
    for name in ("pi3", "pi3.models"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    sys.modules["pi3"].__spec__ = importlib.util.spec_from_loader("pi3", None)
    monkeypatch.setitem(sys.modules, "pi3.models.pi3x", module)
    lens = estimate_lens(Image.new("RGB", (504, 504)))
    assert math.isclose(lens[0], 400, rel_tol=1e-4)

    def fail(name):
        raise OSError("no weights")

    module.Pi3X = SimpleNamespace(from_pretrained=fail)
    with pytest.raises(ValueError, match=r"no weights.*--fov"):
        estimate_lens(Image.new("RGB", (504, 504)))


def test_without_pi3x_the_choices_are_named(monkeypatch):
    monkeypatch.setattr("sana_wm_core.lens.can_estimate", lambda: False)
    with pytest.raises(ValueError, match=r"--fov DEGREES.*--intrinsics.*Pi3X"):
        estimate_lens(Image.new("RGB", (504, 504)))
