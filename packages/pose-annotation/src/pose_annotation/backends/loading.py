"""Import what a backend needs, or say in one line how to get it; weights are files the user names, never fetched."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from pose_annotation.backends import Missing
from pose_annotation.outputs import digest_of


def require(module: str, how: str) -> Any:
    """Import a module. Raises Missing with `how` to install it."""
    try:
        return importlib.import_module(module)
    except ImportError:
        raise Missing(f"{module} is not installed; allowed: {how}, or another backend") from None


def weights_id(path: Path) -> str:
    """A name for local weights: the folder or file, and a digest of the sizes in it. Raises Missing when not there."""
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    if not files:
        raise Missing(f"no weights at {path}; allowed: a local file or folder; nothing is downloaded")
    return f"{path.name}-{digest_of([[p.name, p.stat().st_size] for p in files])}"
