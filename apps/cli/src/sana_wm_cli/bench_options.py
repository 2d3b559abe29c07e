"""The options that every scoring command of the benchmark has, written once."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

if TYPE_CHECKING:
    from wm_bench.cache import Cache
    from wm_bench.scoring import Options

Estimators = Annotated[
    list[str] | None,
    typer.Option(
        "--estimator",
        help="Where cameras come from: pycolmap (default), pose-annotation, oracle, pi3:FOLDER, 'command:...', none.",
    ),
]


@dataclasses.dataclass(frozen=True)
class Scoring:
    """What to measure and where results are kept, as flags."""

    estimator: Estimators = None
    every: Annotated[float, typer.Option("--every", help="Seconds between sampled poses.")] = 0.25
    floors: Annotated[bool, typer.Option(help="Also run each estimator on the exact render.")] = True
    lpips_weights: Annotated[
        Path | None, typer.Option("--lpips-weights", help="AlexNet with the LPIPS v0.1 heads.")
    ] = None
    vbench_python: Annotated[
        Path | None, typer.Option("--vbench-python", help="Python of an environment that has vbench.")
    ] = None
    ffmpeg: Annotated[Path | None, typer.Option("--ffmpeg", help="An ffmpeg with libvmaf, for VMAF.")] = None
    cache: Annotated[
        Path | None, typer.Option("--cache", help="Folder of kept results; default: the user's cache folder.")
    ] = None
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Measure everything again, keep nothing.")] = False

    def options(self) -> Options:
        """What the flags ask for. Raises ValueError for values out of range."""
        from wm_bench.camera_following import PoseRules
        from wm_bench.scoring import Options

        if not 0.02 <= self.every <= 10:
            raise ValueError(f"--every is {self.every:g}; allowed: 0.02 to 10 seconds; example: 0.25")
        return Options(
            estimators=estimator_specs(self.estimator),
            poses=PoseRules(every_s=self.every),
            lpips_weights=self.lpips_weights,
            floors=self.floors,
            vbench_python=self.vbench_python,
            ffmpeg=self.ffmpeg,
        )

    def kept(self) -> Cache:
        """Where results are kept."""
        from wm_bench.cache import Cache, default_folder

        return Cache(None if self.no_cache else self.cache or default_folder())


def estimator_specs(flags: list[str] | None) -> tuple[str, ...]:
    """Estimators by name; pycolmap where none is named, nothing for "none"."""
    specs = tuple(flags) if flags else ("pycolmap",)
    return () if specs == ("none",) else specs


def with_scoring(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the flags of Scoring in place of its parameter `scoring`."""
    hints = get_type_hints(command, include_extras=True)
    own = inspect.signature(command).parameters.values()
    shared = get_type_hints(Scoring, include_extras=True)
    parameters = [p.replace(annotation=hints[p.name]) for p in own if p.name != "scoring"] + [
        inspect.Parameter(f.name, inspect.Parameter.KEYWORD_ONLY, default=f.default, annotation=shared[f.name])
        for f in dataclasses.fields(Scoring)
    ]

    @functools.wraps(command)
    def called(**values: Any) -> None:
        flags = {f.name: values.pop(f.name) for f in dataclasses.fields(Scoring)}
        command(**values, scoring=Scoring(**flags))

    # Typer builds a command's flags from the signature, not from the function's own words.
    called.__dict__["__signature__"] = inspect.Signature(parameters)
    called.__annotations__ = {p.name: p.annotation for p in parameters}
    return called
