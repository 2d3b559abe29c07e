"""Decide which clips are kept: stored scores against ranges kept as data, so that a new threshold needs no new run."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

MODES = ("lenient", "strict")


@dataclass(frozen=True)
class Verdict:
    """Whether a clip is kept, why not, and which scores it lacks."""

    kept: bool
    reasons: tuple[str, ...]
    unknown: tuple[str, ...]


@dataclass(frozen=True)
class Policy:
    """Inclusive ranges for every source, by score name, and the flags that reject a clip.

    `mode` "strict" rejects a clip that lacks a score its source has a range for, as the released trainer does;
    "lenient" keeps it and lists the score as unknown.
    """

    camera: Mapping[str, tuple[float, float]]
    sources: Mapping[str, Mapping[str, tuple[float, float]]]
    reject_flags: tuple[str, ...]
    mode: str = "lenient"
    name: str = "the policy given"

    @property
    def title(self) -> str:
        """What to call it where a person reads it."""
        return f"{self.name} ({self.mode})"

    def require_source(self, source: str) -> None:
        """Raise ValueError when there is no row for this source."""
        if source not in self.sources:
            raise ValueError(f"source is {source!r}; allowed: {', '.join(sorted(self.sources))}; example: 'video'")

    def judge(
        self, scores: Mapping[str, float | None], flags: Iterable[str], source: str, *, metric: bool = False
    ) -> Verdict:
        """Judge one clip. `metric` says that a scale was fused, so that its variation must be known."""
        self.require_source(source)
        reasons = [f"flag {flag}" for flag in sorted(flags) if flag in self.reject_flags]
        unknown = []
        for name, (low, high) in {**self.camera, **self.sources[source]}.items():
            value = scores.get(name)
            if value is None or math.isnan(value):
                if name == "scale_variation" and not metric:
                    continue
                unknown.append(name)
                if self.mode == "strict":
                    reasons.append(f"{name} unknown")
            elif not low <= value <= high:
                reasons.append(f"{name} {value:.4g} outside {low:g}..{high:g}")
        return Verdict(not reasons, tuple(reasons), tuple(sorted(unknown)))


def load_policy(path: str | Path | None = None, mode: str = "lenient") -> Policy:
    """Read a policy from a TOML file; without one, the paper's table. Raises ValueError when malformed."""
    if mode not in MODES:
        raise ValueError(f"policy mode is {mode!r}; allowed: {', '.join(MODES)}; example: 'strict'")
    name = "the built-in policy" if path is None else str(path)
    try:
        text = (files("pose_annotation") / "policy.toml").read_text() if path is None else Path(path).read_text()
        data = tomllib.loads(text)
        camera = {key: _range(value) for key, value in data["camera"].items()}
        sources = {s: {key: _range(value) for key, value in table.items()} for s, table in data["source"].items()}
        flags = tuple(str(flag) for flag in data["flags"]["reject"])
    except OSError as error:
        raise ValueError(f"cannot read policy {name}: {error.strerror}; allowed: a TOML file") from None
    except (tomllib.TOMLDecodeError, KeyError, TypeError, ValueError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{name} is no policy ({error}); allowed: tables [camera], [flags], [source.NAME] of ranges; "
            "example: flow = [3.0, 80.0]"
        ) from None
    return Policy(camera, sources, flags, mode, "the built-in policy" if path is None else Path(path).name)


def _range(value: object) -> tuple[float, float]:
    if not isinstance(value, list) or len(value) != 2:
        raise ValueError(f"{value!r} is no range")
    low, high = float(value[0]), float(value[1])
    if not low <= high:
        raise ValueError(f"range {low:g}..{high:g} is empty")
    return low, high
