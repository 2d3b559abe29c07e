"""Options that the annotation commands share, and what they become."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from pose_annotation.backends import DepthBackend, PoseBackend, ScoreBackend
    from pose_annotation.captions import Captioner
    from pose_annotation.pipeline import Tools
    from pose_annotation.settings import Request, Settings

Lens = Annotated[str | None, typer.Option("--intrinsics", help="fx,fy,cx,cy in pixels of the source picture.")]
Depth = Annotated[
    Path | None,
    typer.Option(
        "--depth", help="Depth of every frame: .npz with 'depth' or .npy files; metres, or any unit with a model."
    ),
]
Model = Annotated[
    str | None,
    typer.Option("--depth-model", help="NAME:PATH (pi3x, moge, transformers), or two with a plus: shape + metres."),
]
Fusion = Annotated[
    str, typer.Option("--fusion", help="How two depth models become one: ESTIMATOR,TEMPORAL; the paper's is ls,ema.")
]
Pose = Annotated[str, typer.Option("--pose", help="Who finds the poses: own, pycolmap, vipe.")]
Known = Annotated[
    str | None, typer.Option("--known-distance", help="second,second,metres: how far apart the camera was then.")
]
Metres = Annotated[float | None, typer.Option("--camera-height", help="Metres from the camera to level ground.")]
Source = Annotated[str, typer.Option("--source", help="Row of the filter table to judge by.")]
Split = Annotated[str, typer.Option("--split", help="train or val.")]
Licence = Annotated[str, typer.Option("--licence", help="Licence of the video; recorded.")]
Fps = Annotated[float, typer.Option("--fps", help="Frame rate of the clips.")]
Width = Annotated[int, typer.Option("--width", help="Stored clips are at most this wide.")]
Size = Annotated[str | None, typer.Option("--size", help="HEIGHTxWIDTH to crop stored clips to, such as 96x160.")]
SolveWidth = Annotated[int, typer.Option("--solve-width", help="Width at which the camera is solved.")]
WindowSize = Annotated[
    str | None, typer.Option("--window", help="LEAST,MOST,STRIDE frames of a clip; default 17,961,480.")
]
Level = Annotated[
    str | None,
    typer.Option(
        "--lens",
        help="Free lens: fixed (default if one is given), shared_f, per_frame_f (default), per_frame_f_pp, full.",
    ),
]
Captions = Annotated[
    str | None,
    typer.Option("--captions", help="URL,MODEL of an OpenAI-compatible server, or a model's folder; left out, empty."),
]
Scores = Annotated[
    str | None,
    typer.Option("--scores", help="Passes that need weights: dover:FILE.onnx, unimatch:FILE, vlm, joined by a plus."),
]
Policy = Annotated[Path | None, typer.Option("--policy", help="TOML file of thresholds; default: the paper's table.")]
Strict = Annotated[bool, typer.Option("--strict", help="Reject clips that lack a score the policy has a range for.")]


def make_settings(
    fps: float, width: int, size: str | None, solve_width: int, window: str | None, level: str | None
) -> Settings:
    """The settings that the options name. Raises ValueError, in one line."""
    from pose_annotation.settings import Settings
    from pose_annotation.windows import WindowRule

    rule = WindowRule()
    if window is not None:
        values = numbers(window, 3, "--window", "65,65,64")
        assert values is not None
        rule = WindowRule(*(int(v) for v in values))
    return Settings(fps, width, _size(size), solve_width, rule, level)


def make_tools(
    depth: Path | None, captions: str | None, model: str | None = None, pose: str = "own", scores: str | None = None,
    fusion: str = "l1,robust_global",
) -> Tools:  # fmt: skip
    """The backends that the options name. Raises ValueError, in one line, for unknown or missing ones."""
    from pose_annotation.backends.given import GivenDepth
    from pose_annotation.captions import NoCaptioner
    from pose_annotation.pipeline import Tools

    captioner = NoCaptioner() if captions is None else _captioner(captions)
    found = _depth_model(model, fusion) if model is not None else None if depth is None else GivenDepth(depth)
    if depth is not None and found is not None and model is not None:
        # Given depth in a unit of its own; the model knows the metres.
        from pose_annotation.backends.scaled import ScaledDepth

        found = ScaledDepth(GivenDepth(depth, metric=False), found)
    return Tools(captioner=captioner, depth=found, pose=_pose(pose), scorers=_scorers(scores, captioner))


def tools_for(
    captions: str | None, model: str | None, pose: str, scores: str | None, fusion: str, request: Request
) -> Tools:
    """The backends for one row of a manifest, made inside the worker."""
    return make_tools(request.depth, captions, model, pose, scores, fusion)


def _depth_model(text: str, fusion: str) -> DepthBackend:
    """NAME:PATH, or two with a plus between: a consistent depth and the metric one it is scaled to."""
    parts = text.split("+")
    if len(parts) > 2:
        raise ValueError(f"--depth-model is {text!r}; allowed: one or two models; example: pi3x:p.pt+moge:m.pt")
    models = [_one_model(part, text) for part in parts]
    if len(models) == 1:
        return models[0]
    from pose_annotation.backends.fused import FusedDepth

    estimator, _, temporal = fusion.partition(",")
    return FusedDepth(models[0], models[1], estimator, temporal)


def _one_model(part: str, text: str) -> DepthBackend:
    name, _, path = part.partition(":")
    if name not in ("pi3x", "moge", "transformers") or not path:
        raise ValueError(
            f"--depth-model is {text!r}; allowed: pi3x:PATH, moge:PATH, transformers:FOLDER, or two with a plus; "
            "example: pi3x:p.pt+moge:m.pt"
        )
    if name == "pi3x":
        from pose_annotation.backends.pi3x import Pi3X

        return Pi3X(path)
    if name == "moge":
        from pose_annotation.backends.moge import MoGe2

        return MoGe2(path)
    from pose_annotation.backends.transformers_depth import TransformersDepth

    return TransformersDepth(path)


def _pose(name: str) -> PoseBackend | None:
    if name == "own":
        return None
    if name == "pycolmap":
        from pose_annotation.backends.colmap import Colmap

        return Colmap()
    if name == "vipe":
        from pose_annotation.backends.vipe import Vipe

        return Vipe()
    raise ValueError(f"--pose is {name!r}; allowed: own, pycolmap, vipe; example: --pose own")


def _captioner(text: str) -> Captioner:
    """A model's folder on this machine, or URL,MODEL of a server."""
    if Path(text).is_dir():
        from pose_annotation.backends.local_vlm import LocalVlm

        return LocalVlm(text)
    url, _, model = text.rpartition(",")
    if not url or not model:
        raise ValueError(
            f"--captions is {text!r}; allowed: URL,MODEL or a model's folder; example: http://127.0.0.1:8000/v1,qwen3-vl"
        )
    from pose_annotation.backends.caption_server import CaptionServer

    return CaptionServer(url, model)


def _scorers(text: str | None, captioner: Captioner) -> tuple[ScoreBackend, ...]:
    """The passes that --scores names; `vlm` asks the model that writes the captions."""
    from pose_annotation.captions import NoCaptioner

    found: list[ScoreBackend] = []
    for part in text.split("+") if text is not None else []:
        name, _, path = part.partition(":")
        if name == "dover" and path:
            from pose_annotation.backends.dover import Dover

            found.append(Dover(path))
        elif name == "unimatch" and path:
            from pose_annotation.backends.unimatch import UniMatch

            found.append(UniMatch(path))
        elif part == "vlm" and not isinstance(captioner, NoCaptioner):
            from pose_annotation.backends.vlm_scores import VlmScores

            found.append(VlmScores(captioner))
        else:
            raise ValueError(
                f"--scores is {text!r}; allowed: dover:FILE.onnx, unimatch:FILE, vlm (with --captions), joined by a "
                "plus; example: dover:d.onnx+vlm"
            )
    return tuple(found)


def numbers(text: str | None, count: int, option: str, example: str) -> tuple[float, ...] | None:
    """`count` numbers with commas between them; None for None."""
    if text is None:
        return None
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    if len(values) != count:
        raise ValueError(
            f"{option} is {text!r}; allowed: {count} numbers with commas between; example: {option} {example}"
        )
    return values


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    height, _, width = text.partition("x")
    if not (height.isdecimal() and width.isdecimal()):
        raise ValueError(f"--size is {text!r}; allowed: HEIGHTxWIDTH in pixels; example: --size 96x160")
    return int(height), int(width)
