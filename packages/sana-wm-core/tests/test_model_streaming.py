"""Chunk-causal and streaming passes of the transformer: stored vectors, their equality, causality, nothing written."""

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from sana_wm_core.config import TransformerConfig
from sana_wm_core.model import SanaWMTransformer
from sana_wm_core.model.memory import Window, after_chunk
from sana_wm_core.sampling.chunks import bounds, streaming_chunks, training_chunks

GOLDEN = Path(__file__).parent / "golden"
TABLES = json.loads((GOLDEN / "chunks.json").read_text())
TOLERANCE = 2e-5
UNLIMITED = Window(chunks=0, sink=False)
NAMES = {
    "gdn_state_kv": ("state", lambda x: x.mT),
    "gdn_state_z": ("state_z", lambda x: x[..., 0]),
    "cam_state_kv": ("camera_state", lambda x: x.mT),
    "k_conv_tail": ("key_tail", lambda x: x.transpose(0, 1)[None]),
    "cam_k_conv_tail": ("camera_key_tail", lambda x: x.transpose(0, 1)[None]),
    "ffn_tail": ("feed_tail", lambda x: x.permute(0, 2, 3, 1)),
    "k": ("key", lambda x: x),
    "v": ("value", lambda x: x),
    "cam_k": ("camera_key", lambda x: x),
    "cam_v": ("camera_value", lambda x: x),
}


@pytest.fixture(scope="module", autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


def golden_model(context):
    values = json.loads((GOLDEN / "hd32" / "config.json").read_text())
    values = {k: v for k, v in values.items() if k in TransformerConfig.model_fields}
    model = SanaWMTransformer(TransformerConfig(**values, softmax_dtype="model", cam_conv_context=context)).eval()
    model.load_state_dict(load_file(GOLDEN / "hd32" / "weights.safetensors"))
    return model


@pytest.fixture(scope="module")
def models():
    return {context: golden_model(context) for context in ("carried", "local")}


@pytest.fixture(scope="module")
def given():
    stored = load_file(GOLDEN / "hd32" / "conditioning.safetensors")
    return {
        "encoder_hidden_states": stored["encoder_hidden_states"][:, None],
        "encoder_attention_mask": stored["encoder_attention_mask"],
        "camera_conditions": stored["camera_conditions"],
        "chunk_plucker": stored["chunk_plucker"],
    }


def cut(given, a, b):
    camera = {
        "camera_conditions": given["camera_conditions"][:, a:b],
        "chunk_plucker": given["chunk_plucker"][:, :, a:b],
    }
    return given | camera


def stream(model, latents, timesteps, given, chunks, window):
    """Velocities of a clip pass by pass: each chunk is read at its own times, then kept at the same times."""
    memory, out = None, []
    for a, b in chunks:
        kept = []
        part = model(latents[:, :, a:b], timesteps[..., a:b], **cut(given, a, b), memory=memory, kept=kept)
        memory = after_chunk(memory, kept, b - a, window)
        out.append(part.sample)
    return torch.cat(out, dim=2), memory


@pytest.mark.parametrize("context", ["carried", "local"])
def test_chunk_causal_vectors(models, given, context):
    stored = load_file(GOLDEN / "hd32" / "chunk_causal.safetensors")
    starts = stored["chunk_bounds"].tolist()[:-1]
    out = models[context](stored["hidden_states"], stored["timestep"], **given, chunk_index=starts).sample
    assert (out - stored[f"chunk_causal_cam_conv_{context}"]).abs().max() < TOLERANCE


@pytest.mark.parametrize("context", ["carried", "local"])
@pytest.mark.parametrize("window", [Window(), UNLIMITED], ids=["windowed", "unlimited"])
def test_streaming_vectors(models, given, context, window):
    stored = load_file(GOLDEN / "hd32" / "streaming.safetensors")
    model = models[context]
    ends = stored["chunk_bounds"].tolist()
    memory, noisy, clean = None, [], []
    text = model.read_text(given["encoder_hidden_states"], given["encoder_attention_mask"])
    for number, (a, b) in enumerate(pairwise(ends)):
        part = cut(given, a, b) | {"encoder_hidden_states": text}
        x, time = stored["noisy_latents"][:, :, a:b].clone(), torch.full((1, 1, b - a), 727.0)
        if a == 0:
            x[:, :, 0], time[..., 0] = stored["clean_latents"][:, :, 0], 0
        if window == Window() and number == len(ends) - 2:
            compare_blocks(memory.blocks, stored, f"cam_conv_{context}.prefix_for_last_chunk")
        noisy.append(model(x, time, **part, memory=memory, kept=[]).sample)
        kept = []
        clean.append(model(stored["clean_latents"][:, :, a:b], time * 0, **part, memory=memory, kept=kept).sample)
        if number == 1:
            compare_blocks(kept, stored, f"cam_conv_{context}.cache_after_chunk1")
        memory = after_chunk(memory, kept, b - a, window)
    ending = "" if window == Window() else "_unlimited_window"
    for name, parts in (("noisy", noisy), ("clean", clean)):
        wanted = stored[f"cam_conv_{context}.velocity_{name}{ending}"]
        assert (torch.cat(parts, dim=2) - wanted).abs().max() < TOLERANCE, name


def compare_blocks(blocks, stored, prefix):
    compared = 0
    for key, wanted in stored.items():
        if key.startswith(prefix + "."):
            _, number, name = key.rsplit(".", 2)
            ours, turn = NAMES[name]
            torch.testing.assert_close(blocks[int(number[5:])][ours], turn(wanted), atol=TOLERANCE, rtol=0)
            compared += 1
    assert compared >= 9


def random_model(width, context="carried", **own):
    torch.manual_seed(width)
    values = {"in_channels": 4, "num_layers": 2, "caption_channels": 8, "mlp_ratio": 1.0, "softmax_every_n": 2}
    values |= {"hidden_size": 2 * width, "linear_head_dim": width, "num_attention_heads": 2, "softmax_dtype": "model"}
    model = SanaWMTransformer(TransformerConfig(**values, cam_conv_context=context, **own)).eval()
    for name, p in model.named_parameters():
        noise = torch.randn(p.shape)
        p.copy_(1 + 0.2 * noise if "norm" in name else noise * (0.3 if p.ndim < 2 else p[0].numel() ** -0.5))
    return model


def random_input(frames, seed=0):
    generator = torch.Generator().manual_seed(seed)
    c2w = torch.eye(4).repeat(1, frames, 1, 1)
    c2w[..., :3, 3] = 0.3 * torch.randn(1, frames, 3, generator=generator)
    lens = torch.tensor([3.0, 3.0, 1.5, 1.0]).expand(1, frames, 4)
    given = {
        "encoder_hidden_states": torch.randn(1, 1, 3, 8, generator=generator),
        "encoder_attention_mask": torch.ones(1, 3),
        "camera_conditions": torch.cat([c2w.flatten(2), lens], -1),
        "chunk_plucker": torch.randn(1, 48, frames, 2, 3, generator=generator),
    }
    latents = torch.randn(1, 4, frames, 2, 3, generator=generator)
    return latents, torch.randint(0, 1000, (1, 1, frames), generator=generator).float(), given


@pytest.mark.parametrize("width", [16, 24, 48, 112])
@pytest.mark.parametrize("context", ["carried", "local"])
@pytest.mark.parametrize("frames", [4, 11, 28])
def test_streaming_equals_the_whole_sequence(width, context, frames):
    model = random_model(width, context)
    latents, times, given = random_input(frames)
    starts = streaming_chunks(frames)
    assert len(starts) == {4: 1, 11: 3, 28: 9}[frames]
    whole = model(latents, times, **given, chunk_index=starts).sample
    parts, memory = stream(model, latents, times, given, bounds(starts, frames), UNLIMITED)
    assert (whole - parts).abs().max() < 1e-5
    assert memory.frames == frames and memory.chunks == len(starts)


def test_chunks_of_one_frame_still_carry_every_tap():
    model = random_model(16, k_conv_only=False, t_kernel_size=5)
    latents, times, given = random_input(6)
    whole = model(latents, times, **given, chunk_index=range(6)).sample
    parts, _ = stream(model, latents, times, given, bounds(list(range(6)), 6), UNLIMITED)
    assert (whole - parts).abs().max() < 1e-5


def test_the_main_scale_rule_is_an_option():
    latents, times, given = random_input(4)
    dense = random_model(24)(latents, times, **given).sample
    causal = {
        scale: random_model(24, chunk_softmax_scale=scale)(latents, times, **given, chunk_index=[0]).sample
        for scale in ("padded", "head_dim")
    }
    assert (causal["head_dim"] - dense).abs().max() < 1e-6
    assert (causal["padded"] - dense).abs().max() > 1e-3


@pytest.mark.parametrize("context", ["carried", "local"])
def test_later_frames_change_no_earlier_chunk(context):
    model = random_model(16, context)
    latents, times, given = random_input(10)
    other, other_times, other_given = random_input(10, seed=1)
    for name in ("camera_conditions", "chunk_plucker"):
        dim = 1 if name == "camera_conditions" else 2
        other_given[name] = torch.cat([given[name].narrow(dim, 0, 7), other_given[name].narrow(dim, 7, 3)], dim)
    changed = given | {name: other_given[name] for name in ("camera_conditions", "chunk_plucker")}
    mixed = torch.cat([latents[:, :, :7], other[:, :, 7:]], dim=2)
    mixed_times = torch.cat([times[..., :7], other_times[..., 7:]], dim=-1)
    starts = [0, 4, 7]
    one = model(latents, times, **given, chunk_index=starts).sample
    two = model(mixed, mixed_times, **changed, chunk_index=starts).sample
    assert (one[:, :, :7] - two[:, :, :7]).abs().max() < 1e-6
    assert (one[:, :, 7:] - two[:, :, 7:]).abs().max() > 1e-2


def test_a_pass_writes_into_no_memory():
    model = random_model(16)
    latents, times, given = random_input(10)
    _, memory = stream(model, latents[:, :, :7], times[..., :7], given, [(0, 4), (4, 7)], Window())
    copies = [{name: tensor.clone() for name, tensor in block.items()} for block in memory.blocks]
    part = cut(given, 7, 10)
    kept = []
    model(latents[:, :, 7:], times[..., 7:], **part, memory=memory, kept=kept)
    after = after_chunk(memory, kept, 3, Window())
    for before, copy, later in zip(memory.blocks, copies, after.blocks, strict=True):
        for name, tensor in before.items():
            assert torch.equal(tensor, copy[name])
            assert tensor.data_ptr() != later[name].data_ptr()


def test_the_memory_stops_growing():
    model = random_model(16)
    latents, times, given = random_input(22)
    sizes, memory = [], None
    for a, b in bounds(streaming_chunks(22), 22):
        kept = []
        model(latents[:, :, a:b], times[..., a:b], **cut(given, a, b), memory=memory, kept=kept)
        memory = after_chunk(memory, kept, b - a, Window())
        sizes.append(memory.bytes)
    assert sizes[0] < sizes[1] == sizes[2] == sizes[-1]
    assert [number for number, _ in memory.window] == [0, 6]


@pytest.mark.parametrize("case", list(TABLES["chunk_index"]))
def test_training_chunks_table(case):
    rule, size, frames = case.split("/")
    count = int(frames.removeprefix("frames"))
    assert [*training_chunks(count, int(size.removeprefix("size")), rule), count] == TABLES["chunk_index"][case]


@pytest.mark.parametrize("case", list(TABLES["segments"]))
def test_streaming_chunks_table(case):
    frames, size = (int(part.strip("abcdefghijklmnopqrstuvwxyz")) for part in case.split("/"))
    assert [*streaming_chunks(frames, size), frames] == TABLES["segments"][case]


@pytest.mark.parametrize("case", list(TABLES["cache_window"]))
def test_window_table(case):
    chunks, sink = case.removeprefix("cached").split("/sink")
    window = Window(int(chunks), bool(int(sink)))
    for row in TABLES["cache_window"][case]:
        assert window.seen_by(row["chunk"]) == row["context_chunks"]


def test_chunk_starts_must_increase():
    latents, times, given = random_input(6)
    with pytest.raises(ValueError, match=r"must increase, for example \[0, 4, 7\]"):
        random_model(16)(latents, times, **given, chunk_index=[0, 4, 3])
    with pytest.raises(ValueError, match="at least 3 latent frames; got 2"):
        streaming_chunks(2)
    with pytest.raises(ValueError, match="'odd' is not one of uniform"):
        training_chunks(5, 3, "odd")


def test_replaced_memory_moves_whole():
    model = random_model(16)
    latents, times, given = random_input(4)
    _, memory = stream(model, latents, times, given, [(0, 4)], Window())
    moved = memory.to("meta")
    assert all(tensor.is_meta for block in moved.blocks for tensor in block.values())
    assert replace(moved, blocks=memory.blocks) == memory
