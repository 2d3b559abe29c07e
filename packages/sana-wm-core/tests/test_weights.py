"""Reading and writing transformers: both publishers' names, shards, and files that are wrong."""

import json
import subprocess
import sys

import pytest
import torch
from diffusers import SanaWMTransformer3DModel
from safetensors.torch import load_file, save_file
from sana_wm_core.config import TransformerConfig
from sana_wm_core.model import SanaWMTransformer

TINY = {
    "in_channels": 4,
    "num_layers": 2,
    "hidden_size": 16,
    "num_attention_heads": 2,
    "linear_head_dim": 8,
    "caption_channels": 6,
    "softmax_every_n": 2,
    "chunk_plucker_channels": 6,
    "mlp_ratio": 1.0,
}
WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def tiny(tmp_path):
    torch.manual_seed(0)
    model = SanaWMTransformer(TransformerConfig(**TINY))
    model.save_pretrained(tmp_path / "m")
    return model, tmp_path / "m"


def same(one, other):
    one, other = one.state_dict(), other.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def fails(path, *words, **kwargs):
    with pytest.raises(ValueError) as caught:
        SanaWMTransformer.from_pretrained(path, **kwargs)
    text = str(caught.value)
    assert "\n" not in text
    for word in words:
        assert word in text, text


def test_round_trip_and_dtype(tiny):
    model, folder = tiny
    again = SanaWMTransformer.from_pretrained(folder)
    assert same(model, again) and again.config == model.config and not again.training
    assert SanaWMTransformer.from_pretrained(folder.parent, "m", dtype=torch.bfloat16).dtype == torch.bfloat16
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", WEIGHTS]


def test_diffusers_reads_ours_and_we_read_theirs(tiny, tmp_path):
    model, folder = tiny
    peer = SanaWMTransformer3DModel.from_pretrained(folder)
    assert same(model, peer)
    peer.save_pretrained(tmp_path / "peer", max_shard_size="10KB")
    assert (tmp_path / "peer" / f"{WEIGHTS}.index.json").is_file()
    assert same(model, SanaWMTransformer.from_pretrained(tmp_path / "peer"))


def test_only_changed_fields_of_ours_are_written(tmp_path):
    changed = TransformerConfig(**TINY, cam_rms_downscale_gdn=False)
    SanaWMTransformer(changed).save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "config.json").read_text())
    assert stored["cam_rms_downscale_gdn"] is False and "softmax_dtype" not in stored
    assert SanaWMTransformer.from_pretrained(tmp_path).config == changed


def test_nvlabs_names_in_a_single_file(tiny, tmp_path):
    model, folder = tiny
    state = load_file(folder / WEIGHTS)
    names = {"t_embedder.linear_1": "t_embedder.mlp.0", "t_embedder.linear_2": "t_embedder.mlp.2"}
    renamed = {names.get(k.rpartition(".")[0], k.rpartition(".")[0]) + "." + k.rpartition(".")[2]: v
               for k, v in state.items()}  # fmt: skip
    renamed = {k.removeprefix("."): v for k, v in renamed.items()}
    extra = {"pos_embed": torch.zeros(1, 4, 16), "y_embedder.y_embedding": torch.zeros(3, 6)}
    (tmp_path / "nv").mkdir()
    save_file(renamed | extra, tmp_path / "nv" / "dit.safetensors")
    (tmp_path / "nv" / "config.json").write_text(json.dumps(TINY))
    assert same(model, SanaWMTransformer.from_pretrained(tmp_path / "nv" / "dit.safetensors"))


def test_a_single_file_without_config_means_the_released_sizes(tiny, tmp_path):
    state = load_file(tiny[1] / WEIGHTS)
    save_file(state, tmp_path / "alone.safetensors")
    fails(tmp_path / "alone.safetensors", "do not fit", "expected", "more")


def test_wrong_names_and_shapes_name_the_first_three(tiny):
    folder = tiny[1]
    state = load_file(folder / WEIGHTS)
    state["spare.weight"] = torch.zeros(1)
    state["final_layer.linear.bias"] = torch.zeros(5)
    del state["blocks.0.attn.A_log"], state["blocks.1.attn.A_log"]
    save_file(state, folder / WEIGHTS)
    fails(
        folder,
        "spare.weight is unknown",
        "final_layer.linear.bias is (5,), expected (4,)",
        "A_log is missing",
        "1 more",
    )


def test_damaged_files(tiny):
    folder = tiny[1]
    whole = (folder / WEIGHTS).read_bytes()
    for size in (0, 4, 100, len(whole) // 2, len(whole) - 1):
        (folder / WEIGHTS).write_bytes(whole[:size])
        fails(folder, WEIGHTS, "cut short")
    (folder / WEIGHTS).unlink()
    fails(folder, "no weights here", "config.json")
    (folder / f"{WEIGHTS}.index.json").write_text('{"weight_map": {"a": "one.safetensors"}}')
    fails(folder, "1 of 1 weight files missing", "one.safetensors")
    (folder / f"{WEIGHTS}.index.json").write_text("[]")
    fails(folder, "not a readable index")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"num_layers": 2, "speed": 3}', ["unknown field speed=3"]),
        ('{"num_layers": 0}', ["num_layers=0"]),
        ('{"hidden_size": 100, "linear_head_dim": 16}', ["hidden_size=100", "linear_head_dim=16"]),
        ("{", ["not readable JSON"]),
        ("[1]", ["expected named fields"]),
    ],
)
def test_bad_configs(tiny, text, words):
    (tiny[1] / "config.json").write_text(text)
    fails(tiny[1], "config.json", *words)


def test_missing_paths(tmp_path, monkeypatch):
    fails(tmp_path / "none", "no such file or folder", "for example")
    fails(tmp_path, "no such folder", subfolder="transformer")
    (tmp_path / "w.bin").write_bytes(b"x")
    fails(tmp_path / "w.bin", ".safetensors files only")


def test_hub_id_without_network_says_what_to_fetch(monkeypatch):
    import huggingface_hub

    def refuse(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    fails("Efficient-Large-Model/SANA-WM_bidirectional", "sana_wm_1600m_720p.safetensors", "10.6 GB", "hf download")
    fails(
        "Efficient-Large-Model/SANA-WM_bidirectional-diffusers",
        "transformer/config.json and transformer/diffusion_pytorch_model*",
        "10.6 GB",
    )


def test_failed_write_leaves_the_old_weights(tiny, monkeypatch):
    model, folder = tiny
    before = (folder / WEIGHTS).read_bytes()

    def full(*args, **kwargs):
        raise OSError("No space left on device")

    monkeypatch.setattr("sana_wm_core.weights.save_file", full)
    with pytest.raises(OSError, match="No space"):
        model.save_pretrained(folder)
    assert (folder / WEIGHTS).read_bytes() == before
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", WEIGHTS]


def test_loading_a_model_imports_no_compiler_and_no_other_library_of_models():
    """Seconds before the first frame: PyTorch's compiler comes along where something is drawn on the meta device."""
    code = (
        "import sys; from sana_wm_core.pocket import WEIGHTS; from sana_wm_core.weights import load_transformer; "
        "import sana_wm_core.layouts, sana_wm_core.streaming; load_transformer(WEIGHTS / 'transformer'); "
        "print(*{'torch._dynamo', 'sympy', 'diffusers', 'transformers', 'scipy', 'cv2'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [], done.stdout
