"""Writing text so that a reader never sees half of it."""

from __future__ import annotations

from pathlib import Path

from camera_control.files import replacing


def write_text(path: Path, text: str) -> Path:
    """Write UTF-8 text through a temporary file. Raises ValueError when the folder cannot be written."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path
