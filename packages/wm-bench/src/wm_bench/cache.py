"""Results kept by what they were made from, never by file name; outside the user's folders."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from camera_control.files import replacing


def content_key(parts: dict[str, Any] | list[Any]) -> str:
    """SHA-256 of everything a result depends on."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, allow_nan=True).encode()).hexdigest()


def default_folder() -> Path:
    """WMBENCH_CACHE, or wm-bench in the user's cache folder."""
    if "WMBENCH_CACHE" in os.environ:
        return Path(os.environ["WMBENCH_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "wm-bench"


class Cache:
    """A folder of JSON files named by content keys; None keeps results in memory, for as long as this object lives.

    Numbers come back bit for bit: JSON writes the shortest text that reads as the same float. A damaged file counts as
    absent.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._memory: dict[str, str] = {}

    def get(self, parts: dict[str, Any]) -> dict[str, Any] | None:
        """The kept result, or None."""
        try:
            if self._folder is None:
                kept = json.loads(self._memory.get(content_key(parts), ""))
            else:
                kept = json.loads(self._path(parts).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return kept["result"] if isinstance(kept, dict) and kept.get("parts") == _plain(parts) else None

    def put(self, parts: dict[str, Any], result: dict[str, Any]) -> None:
        """Keep a result. Raises ValueError when the folder cannot be written."""
        text = json.dumps({"parts": _plain(parts), "result": result})
        if self._folder is None:
            self._memory[content_key(parts)] = text
            return
        with replacing(self._path(parts)) as temporary:
            temporary.write_text(text, encoding="utf-8")

    def _path(self, parts: dict[str, Any]) -> Path:
        assert self._folder is not None
        key = content_key(parts)
        return self._folder / key[:2] / f"{key}.json"


def _plain(parts: dict[str, Any]) -> Any:
    return json.loads(json.dumps(parts, sort_keys=True))
