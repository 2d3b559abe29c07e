"""Recorded passes give what plain ones give, and nothing in a pass would keep a GPU from recording it."""

import copy
import sys
from pathlib import Path

import pytest
import torch
from sana_wm_core.config import TransformerConfig
from sana_wm_core.graphs import MOST_FORMS, replay_passes
from sana_wm_core.model import SanaWMTransformer
from sana_wm_core.model.memory import Window
from sana_wm_core.sampling.sampler import Conditions
from sana_wm_core.sampling.student import ChunkSampler, cut_camera
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_leaves

sys.path.insert(0, str(Path(__file__).parent))
from device_crossings import Crossings

SIZES = {"in_channels": 4, "num_layers": 2, "hidden_size": 32, "linear_head_dim": 16, "num_attention_heads": 2}
CONFIG = TransformerConfig(**SIZES, caption_channels=8, mlp_ratio=1.0, softmax_every_n=2, softmax_dtype="model")
STEPS = (1000.0, 900.0, 600.0, 0.0)
CHUNKS = [(0, 4), (4, 7), (7, 10), (10, 13), (13, 16)]


class Again:
    """Stands in for a GPU: a recording holds nothing until it is replayed, and each replay writes over the last."""

    def __init__(self):
        self.recorded = self.replayed = 0

    def __call__(self, work):
        made = work()
        places = tree_leaves(made)
        for place in places:
            place.fill_(float("nan"))
        self.recorded += 1

        def replay():
            self.replayed += 1
            for place, new in zip(places, tree_leaves(work()), strict=True):
                place.copy_(new)

        return made, replay


def make_model(device="cpu"):
    torch.manual_seed(0)
    with torch.device(device):
        model = SanaWMTransformer(CONFIG)
    if device == "cpu":
        model.init_weights()
    return model.eval().requires_grad_(False)


def walk(model, guidance, window, device="cpu"):
    """Latents and memory after every chunk."""
    torch.manual_seed(1)
    with torch.device(device):
        noise, picture = torch.randn(1, 4, 16, 2, 3), torch.randn(1, 4, 1, 2, 3)
        pose = torch.cat([torch.eye(4).flatten(), torch.tensor([2.0, 2.0, 1.5, 1.0])]).expand(1, 16, 20).clone()
        pose[..., 11] = torch.arange(16) / 4
        camera = {"camera_conditions": pose, "chunk_plucker": torch.randn(1, 48, 16, 2, 3)}
        text, mask = torch.randn(2, 1, 5, 8), torch.ones(1, 5)
        given = Conditions(text[:1], mask, text[1:], mask, camera)
    sampler = ChunkSampler(STEPS, guidance, 3, window)
    read, memory, found = sampler.read(model, given), None, []
    for a, b in CHUNKS:
        part = cut_camera(given.camera, a, b)
        first = picture if a == 0 else None
        latents, memory = sampler.chunk(model, noise[:, :, a:b], read, part, memory, first)
        found.append((latents, memory))
    return found


# Of five chunks each walks three levels down and is handed over once (the first in one form, the others in two), and
# looks back at 0, 4, 7, 7, 7 latent frames, or at 0, 4, 7, 6, 6 without the sink.
@pytest.mark.parametrize(
    ("guidance", "window", "recorded", "replayed"),
    [(1.0, Window(2, True), 4, 3 + 2 + 8 + 2), (3.0, Window(2, False), 5, 3 + 2 + 2 + 5 + 1)],
)
def test_replayed_passes_give_the_same_bits(guidance, window, recorded, replayed):
    plain = make_model()
    other, record = copy.deepcopy(plain), Again()
    replay_passes(other, record)
    wanted, got = walk(plain, guidance, window), walk(other, guidance, window)
    for (latents, memory), (same, remembered) in zip(wanted, got, strict=True):
        assert torch.equal(latents, same) and latents.std() > 0
        # Compared at the end: what an early chunk left behind was not written over by later replays.
        for block, also in zip(memory.blocks, remembered.blocks, strict=True):
            assert block.keys() == also.keys() and all(torch.equal(block[name], also[name]) for name in block)
    assert (record.recorded, record.replayed) == (recorded, replayed)


def test_a_window_without_end_does_not_pile_up_recordings():
    model = make_model()
    replay_passes(model, Again())
    passes = model.forward
    text = ChunkSampler().read(model, Conditions(torch.randn(1, 1, 5, 8), torch.ones(1, 5), None, None, {}))
    for frames in range(1, MOST_FORMS + 4):
        for _ in range(2):
            with torch.no_grad():
                model(torch.randn(1, 4, frames, 2, 3), torch.zeros(1, 1, frames), text, kept=[])
    assert len(passes.seen) == MOST_FORMS and all(passes.seen.values())


def test_whole_clips_and_gradients_stay_plain():
    model, record = make_model(), Again()
    wanted = make_model()
    replay_passes(model, record)
    given = (torch.randn(1, 4, 3, 2, 3), torch.zeros(1, 1, 3), torch.randn(1, 1, 5, 8), torch.ones(1, 5))
    for _ in range(3):
        assert torch.equal(model(*given).sample, wanted(*given).sample)
        model(*given[:3], mask=given[3], kept=[])
    assert record.recorded == 0


def test_a_model_on_the_cpu_is_refused():
    with pytest.raises(ValueError, match="CUDA graphs need a model on a CUDA device; this one is on cpu"):
        replay_passes(make_model())


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_a_pass_on_a_gpu_waits_for_nothing(guidance):
    # Tensors without memory that believe to be on a GPU: reading a value of one raises, and crossings are noted.
    crossings = Crossings()

    class Watched(torch.nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model

        def forward(self, *args, **more):
            with crossings:
                return self.model(*args, **more)

    with FakeTensorMode():
        model = make_model("cuda")
        found = walk(Watched(model), guidance, Window(2, True), "cuda")
    assert all(latents.device.type == "cuda" for latents, _ in found)
    assert not crossings.found


@pytest.mark.skipif(not torch.cuda.is_available(), reason="records on a GPU; none is here")
def test_graphs_on_a_gpu_give_what_plain_passes_give():
    plain = make_model().cuda()
    replayed = copy.deepcopy(plain)
    replay_passes(replayed)
    wanted, got = walk(plain, 1.0, Window(2, True), "cuda"), walk(replayed, 1.0, Window(2, True), "cuda")
    for (latents, _), (same, _) in zip(wanted, got, strict=True):
        torch.testing.assert_close(same, latents, rtol=1e-4, atol=1e-4)
