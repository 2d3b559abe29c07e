"""The pipelines on an imaginary GPU: tensors without memory that believe to be on one refuse to meet those of the CPU.

What this cannot show is what a GPU computes; it shows that everything a GPU would compute with has been brought there.
"""

import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sana_wm_core import pipeline as whole
from sana_wm_core.layouts import open_world
from sana_wm_core.sampling import sampler
from sana_wm_core.streaming import session as stream
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

sys.path.insert(0, str(Path(__file__).parent))
from device_crossings import Crossings


@pytest.fixture
def values_unread(monkeypatch):
    """Values cannot be read: pictures come out black, and numbers that are only shown are zero."""

    def black(video):
        assert video.device.type == "cuda"
        return np.zeros((video.shape[1], *video.shape[2:], 3), np.uint8)

    monkeypatch.setattr(whole, "to_pixels", black)
    monkeypatch.setattr(stream, "to_pixels", black)
    monkeypatch.setattr(stream, "fingerprint", lambda model: "imagined")
    monkeypatch.setattr(stream, "require_model", lambda state, model: None)
    monkeypatch.setattr(sampler, "float", lambda tensor: 0.0, raising=False)


@contextmanager
def imagine(name):
    """A bundled world, its weights replaced by imaginary ones of the same shapes."""
    pipeline = open_world(name, dtype=torch.bfloat16).pipeline
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        for part in (pipeline.transformer, pipeline.text_encoder, pipeline.codec):
            for module in part.modules():
                for held in (module._parameters, module._buffers):
                    for key, tensor in held.items():
                        if tensor is not None:
                            there = torch.empty(tensor.shape, dtype=tensor.dtype, device="cuda")
                            held[key] = nn.Parameter(there, False) if held is module._parameters else there
        pipeline._device = torch.device("cuda")
        yield pipeline


def picture():
    return Image.fromarray(np.zeros((96, 160, 3), np.uint8))


def test_a_whole_clip_stays_on_the_gpu(values_unread):
    noted = []
    with imagine("pocket") as pipeline:
        for steps in (1, 2):
            with Crossings() as crossings:
                clip = pipeline(picture(), "a room", action="w-16", frames=17, steps=steps)
            assert clip.latents.device.type == "cuda" and clip.video.shape == (17, 96, 160, 3)
            noted.append(crossings.found)
    # Text, picture, camera, noise and levels are brought there, once: the number of steps changes nothing.
    assert noted[0] == noted[1] and set(noted[0]) == {"aten._to_copy.default"} and len(noted[0]) < 10


def test_a_stream_stays_on_the_gpu(values_unread):
    with imagine("pocket-streaming") as pipeline:
        session = stream.Session.start(pipeline, picture(), "a room")
        session.advance()
        for _ in range(2):
            with Crossings() as crossings:
                piece = session.advance()
            assert piece.latents.device.type == "cuda"
            # Camera, rays, noise and levels.
            assert crossings.found == ["aten._to_copy.default"] * 4


def test_what_is_forgotten_on_the_cpu_is_found(values_unread):
    with imagine("pocket") as pipeline:
        embed = pipeline.transformer.get_submodule("transformer.x_embedder").proj
        embed.bias = nn.Parameter(torch.zeros(len(embed.bias)))
        with pytest.raises(RuntimeError, match="cpu"):
            pipeline(picture(), "a room", action="w-16", frames=17, steps=1)
