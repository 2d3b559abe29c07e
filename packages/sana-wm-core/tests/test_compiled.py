"""Compiled blocks: the same numbers, no break in a graph, and no compiling again once the window is full."""

import copy
import os

import torch
from sana_wm_core.compiled import compile_blocks
from sana_wm_core.config import TransformerConfig
from sana_wm_core.model import SanaWMTransformer
from sana_wm_core.model.memory import Memory, Window, after_chunk
from torch._dynamo.utils import counters
from torch._inductor.runtime.cache_dir_utils import default_cache_dir


def test_compiled_blocks_give_the_same_and_settle(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")
    torch.manual_seed(0)
    sizes = {"in_channels": 4, "num_layers": 2, "hidden_size": 32, "linear_head_dim": 16, "num_attention_heads": 2}
    config = TransformerConfig(**sizes, caption_channels=8, mlp_ratio=1.0, softmax_every_n=2, softmax_dtype="model")
    plain = SanaWMTransformer(config).eval()
    plain.init_weights()
    compiled = copy.deepcopy(plain)
    # "eager" runs the captured graphs as they are: what may differ then is what was captured.
    compile_blocks(compiled, folder=tmp_path, backend="eager")
    counters.clear()
    graphs, memories = [], [None, None]
    for chunk in range(6):
        frames = 3 + (chunk == 0)
        outs = []
        for i, model in enumerate((plain, compiled)):
            out, memories[i] = stream_chunk(model, frames, memories[i], seed=chunk)
            outs.append(out)
        assert torch.equal(*outs) and outs[0].std() > 0
        graphs.append(counters["stats"]["unique_graphs"])
    assert not counters["graph_break"]
    assert graphs[0] >= 2 and graphs[3] == graphs[5], graphs


@torch.no_grad()
def stream_chunk(model: SanaWMTransformer, frames: int, memory: Memory | None, seed: int):
    noise = torch.Generator().manual_seed(seed)
    latents, text = torch.randn(1, 4, frames, 2, 3, generator=noise), torch.randn(1, 1, 5, 8, generator=noise)
    kept: list = []
    out = model(latents, torch.full((1, 1, frames), 500.0), text, torch.ones(1, 5), memory=memory, kept=kept)
    return out.sample, after_chunk(memory, kept, frames, Window(2, True))


def test_what_was_compiled_outlives_a_restart_unless_the_user_chose_a_folder(tmp_path, monkeypatch):
    model = torch.nn.Module()
    model.blocks = torch.nn.ModuleList()
    for before, after in (
        (default_cache_dir(), str(tmp_path / ".cache" / "sana-wm" / "compiled")),  # as PyTorch sets it by itself
        (str(tmp_path / "mine"), str(tmp_path / "mine")),
    ):
        monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", before)
        monkeypatch.setenv("HOME", str(tmp_path))
        compile_blocks(model)
        assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == after
