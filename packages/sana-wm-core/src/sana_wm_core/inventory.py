"""Looks at model files without loading them: what is there, whether it is whole, whether it is what was published."""

from __future__ import annotations

import hashlib
import json
import re
import struct
import zipfile
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

from sana_wm_core.releases import Weights

_SHA256 = re.compile(r"^[0-9a-f]{64}$")


class Found(NamedTuple):
    """A part of a release on this machine.

    Attributes:
        part: What was looked for.
        files: Files that are there.
        bytes: Their size.
        problems: What is wrong, one line each; empty = nothing found wrong.
    """

    part: Weights
    files: int
    bytes: int
    problems: tuple[str, ...]

    @property
    def ready(self) -> bool:
        """Whether the part is there and whole."""
        return self.files > 0 and not self.problems


def cache_folder() -> Path:
    """Where the hub library keeps what it downloads."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def download_part(part: Weights) -> Path:
    """Download a part of a release, going on where an earlier try stopped."""
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(part.repository, allow_patterns=list(part.patterns)))


def look(part: Weights, *, verify: bool = False, cache: Path | None = None) -> Found:
    """Look for a part of a release in the hub's cache on this machine; the network is not asked.

    Args:
        part: What to look for.
        verify: Also compare every large file with the hash it was published under; reads all of it.
        cache: Another cache folder than the hub library's own.
    """
    home = (cache or cache_folder()) / f"models--{part.repository.replace('/', '--')}"
    snapshots = sorted((home / "snapshots").glob("*"), key=lambda path: path.stat().st_mtime)
    if not snapshots:
        return Found(part, 0, 0, ())
    files = [path for path in _files(snapshots[-1]) if _wanted(path.relative_to(snapshots[-1]), part.patterns)]
    problems = [text for path in files if (text := problem_of(path, verify=verify)) is not None]
    problems += [f"{path.name}: download not finished" for path in (home / "blobs").glob("*.incomplete")]
    for path in files:
        problems += _missing_shards(path)
    return Found(part, len(files), sum(path.stat().st_size for path in files if path.exists()), tuple(problems))


def problem_of(path: Path, *, verify: bool = False) -> str | None:
    """What is wrong with a file, in one line, or None.

    The size is compared with what the file says of itself (safetensors, .pt); with verify, the content with the hash
    under which the hub's cache keeps it.
    """
    if not path.exists():
        return f"{path.name}: link to a file that is gone"
    size = path.stat().st_size
    if size == 0:
        return f"{path.name}: empty"
    if path.suffix == ".safetensors":
        expected = safetensors_size(path)
        if expected != size:
            return f"{path.name}: {size} bytes, {expected or 'a readable header'} expected"
    if path.suffix in (".pt", ".pth") and not zipfile.is_zipfile(path):
        return f"{path.name}: cut short"
    published = path.resolve().name
    if verify and _SHA256.match(published):
        with path.open("rb") as opened:
            if hashlib.file_digest(opened, "sha256").hexdigest() != published:
                return f"{path.name}: content differs from the published one"
    return None


def safetensors_size(path: Path) -> int | None:
    """The size a safetensors file must have by its own header; None if there is no readable header."""
    try:
        with path.open("rb") as opened:
            (length,) = struct.unpack("<Q", opened.read(8))
            if length > 100_000_000:
                return None
            header = json.loads(opened.read(length))
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    except (struct.error, ValueError, KeyError, TypeError, IndexError, OSError):
        return None
    return 8 + length + max(ends, default=0)


def _files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or path.is_file():
            yield path


def _wanted(path: Path, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch(path.as_posix(), pattern) for pattern in patterns)


def _missing_shards(path: Path) -> list[str]:
    if not path.name.endswith(".safetensors.index.json") or not path.exists():
        return []
    try:
        shards = sorted(set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError):
        return [f"{path.name}: not a readable index"]
    return [f"{shard}: missing" for shard in shards if not (path.parent / Path(shard).name).exists()]
