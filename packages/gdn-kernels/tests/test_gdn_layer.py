"""The layer: chunks equal the whole, every parameter learns, the example's model recalls, bad input is named."""

import importlib.util
from pathlib import Path

import gdn_cases as cases
import pytest
import torch
from gdn_kernels import FrameGDN

WIDTH = 64  # narrower heads have denominators near zero, which magnify rounding
EXAMPLE = Path(__file__).parents[1] / "examples" / "recall_video.py"


def _layer(taps: int) -> FrameGDN:
    torch.manual_seed(1)
    layer = FrameGDN(WIDTH, 2, taps=taps).double()
    if layer.filter is not None:
        torch.nn.init.normal_(layer.filter)
    return layer


@pytest.mark.parametrize("taps", [0, 1, 4])
def test_streaming_equals_the_whole_clip(taps: int) -> None:
    layer, s = _layer(taps), 3
    lengths = (2, 1, 3, 2)
    x = torch.randn(2, sum(lengths) * s, WIDTH, dtype=torch.float64)
    starts = torch.zeros(sum(lengths), dtype=torch.bool)
    starts[[0, 2, 3, 6]] = True
    angle = torch.rand(sum(lengths) * s, WIDTH // 4, dtype=torch.float64)
    whole = layer(x, sum(lengths), rope=(angle.cos(), angle.sin()), chunk_starts=starts)
    state, parts, at = None, [], 0
    for frames in lengths:
        here = slice(at * s, (at + frames) * s)
        out, state = layer.stream(x[:, here], frames, state, rope=(angle[here].cos(), angle[here].sin()))
        parts.append(out)
        at += frames
    assert cases.error(torch.cat(parts, 1), whole) < 1e-11


def test_every_parameter_gets_a_gradient() -> None:
    layer = _layer(4)
    layer(torch.randn(1, 12, WIDTH, dtype=torch.float64), 4).square().sum().backward()
    for name, parameter in layer.named_parameters():
        assert parameter.grad is not None and parameter.grad.norm() > 0, name


def test_the_example_learns_to_recall() -> None:
    spec = importlib.util.spec_from_file_location("recall_video", EXAMPLE)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    errors = example.train(90, size=16)
    assert 0.7 < errors[0] < 2 and sum(errors[-5:]) / 5 < 0.2


def test_bad_shapes_are_named() -> None:
    with pytest.raises(ValueError, match="heads = 3 does not divide channels = 16"):
        FrameGDN(16, 3)
    with pytest.raises(ValueError, match="multiple of frames = 4"):
        FrameGDN(16, 2)(torch.zeros(1, 10, 16), 4)
    layer = FrameGDN(16, 2)
    _, state = layer.stream(torch.zeros(2, 6, 16), 2)
    with pytest.raises(ValueError, match=r"state.keys has shape \(2, 6, 16\); expected \(1, a multiple of 3, 16\)"):
        layer.stream(torch.zeros(1, 6, 16), 2, state)
    with pytest.raises(ValueError, match=r"initial_state.kv has shape \(2, 2, 8, 8\)"):
        layer.stream(torch.zeros(1, 6, 16), 2, state._replace(keys=None))
