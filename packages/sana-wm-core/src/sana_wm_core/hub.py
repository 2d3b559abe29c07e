"""Fetches published models, and says exactly what is missing when it cannot."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Literal, NamedTuple

_LOG = logging.getLogger(__name__)


class Published(NamedTuple):
    """What generating needs of a published repository.

    Attributes:
        patterns: Files to download.
        contents: What they are, for people.
        needed: Patterns of which each must have a file before nothing needs to be downloaded.
    """

    patterns: tuple[str, ...]
    contents: str
    needed: tuple[str, ...]


Part = Literal["first stage", "refiner", "codec"]

_FULL = ("model_index.json", "scheduler/*", "text_encoder/*", "tokenizer/*", "transformer/*", "vae/*")
_NVLABS = ("config.yaml", "dit/*.safetensors", "vae/*")
_GEMMA = ("*.json", "*.safetensors", "tokenizer.model")

BIDIRECTIONAL = "Efficient-Large-Model/SANA-WM_bidirectional"
CHUNK_CAUSAL = "Efficient-Large-Model/SANA-WM_chunk_causal"
STREAMING = "Efficient-Large-Model/SANA-WM_streaming"
_REFINER = Published(
    ("refiner/*", "refiner/**/*"),
    "refiner/ with transformer/, connectors/ (38 GB) and Gemma-3 (46 GB)",
    ("refiner/transformer/*", "refiner/connectors/*", "refiner/text_encoder/*"),
)
_STREAMING_REFINER = Published(
    ("refiner_diffusers/**/*", "gemma3_12b/*"),
    "refiner_diffusers/ (38 GB) and gemma3_12b/ (46 GB)",
    ("refiner_diffusers/transformer/*", "refiner_diffusers/connectors/*", "gemma3_12b/*"),
)
_VAE = Published(("vae/*",), "vae/ (2 GB)", ("vae/*",))

# Refiner and its text encoder (84 GB more) are fetched on their own, only when they are used.
_PUBLISHED = {
    BIDIRECTIONAL: Published(
        _NVLABS,
        "config.yaml, dit/sana_wm_1600m_720p.safetensors (10 GB), vae/ (2 GB); 12 GB in all",
        ("dit/*.safetensors", "vae/*"),
    ),
    CHUNK_CAUSAL: Published(
        ("config.yaml", "dit/*.safetensors"),
        "config.yaml, dit/sana_wm_chunk_causal_1600m_720p.safetensors (10 GB); its codec comes from " + BIDIRECTIONAL,
        ("dit/*.safetensors",),
    ),
    STREAMING: Published(
        ("*.yaml", "sana_dit/*", "ltx2_causal_vae/*", "ltx2_causal_vae/**/*"),
        "sana_dit/model.pt (size not published), ltx2_causal_vae/ (2 GB)",
        ("sana_dit/*", "ltx2_causal_vae/*"),
    ),
    "Efficient-Large-Model/SANA-WM_bidirectional-diffusers": Published(
        _FULL,
        "model_index.json, scheduler/, transformer/ (10 GB), vae/ (2 GB), text_encoder/, tokenizer/ (5 GB); 17 GB",
        ("transformer/*", "vae/*", "text_encoder/*"),
    ),
    "Efficient-Large-Model/gemma-2-2b-it": Published(
        _GEMMA, "Gemma-2-2b-it, the text encoder (5 GB)", ("*.safetensors",)
    ),
}


def published(hub_id: str, part: Part = "first stage") -> Published:
    """What generating needs of a part of a repository."""
    if part == "codec":
        return _VAE
    if part == "refiner":
        return _STREAMING_REFINER if hub_id == STREAMING else _REFINER
    unknown = Published((*_FULL, *_NVLABS), "its transformer, vae, text encoder (size unknown)", ())
    return _PUBLISHED.get(hub_id, unknown)


def fetch_folder(hub_id: str, part: Part = "first stage") -> Path:
    """Return the local folder of a hub repository, downloading what generating needs if it is not there yet.

    Args:
        hub_id: owner/name.
        part: What is wanted of it.

    Raises:
        ValueError: Not on this machine and not reachable; says what would be downloaded, its size, and where to put it.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    known = published(hub_id, part)
    patterns = list(known.patterns)
    try:
        local = Path(snapshot_download(hub_id, allow_patterns=patterns, local_files_only=True))
        # A snapshot made for one part says nothing about the others.
        if any(local.iterdir()) and all(next(local.glob(pattern), None) for pattern in known.needed):
            return local
    except (LocalEntryNotFoundError, OSError):
        pass
    _LOG.warning("downloading %s: %s", hub_id, known.contents)
    try:
        return Path(snapshot_download(hub_id, allow_patterns=patterns))
    except KeyboardInterrupt:
        raise
    except Exception as error:
        raise ValueError(_cannot(hub_id, known.contents, error)) from error


def fetch_file(path: str | Path) -> Path:
    """Return a local path for a file or folder given as a path or as hf://owner/name/path/in/repository.

    Raises:
        FileNotFoundError: No such local path.
        ValueError: A hub file that is neither here nor reachable.
    """
    text = str(path)
    if not text.startswith("hf://"):
        local = Path(path).expanduser()
        if not local.exists():
            raise FileNotFoundError(f"{local}: no such file; give a local path or hf://owner/name/path")
        return local
    parts = text.removeprefix("hf://").split("/")
    if len(parts) < 3 or not all(parts):
        raise ValueError(f"{text}: expected hf://owner/name/path, such as hf://{next(iter(_PUBLISHED))}/config.yaml")
    from huggingface_hub import hf_hub_download

    hub_id, inside = "/".join(parts[:2]), "/".join(parts[2:])
    try:
        return Path(hf_hub_download(hub_id, inside))
    except KeyboardInterrupt:
        raise
    except Exception as error:
        raise ValueError(_cannot(hub_id, inside, error)) from error


def _cannot(hub_id: str, contents: str, error: Exception) -> str:
    from huggingface_hub import constants

    cache = Path(constants.HF_HUB_CACHE) / f"models--{hub_id.replace('/', '--')}"
    reason = " ".join(str(error).split()) or type(error).__name__
    return (
        f"{hub_id} is not on this machine and cannot be downloaded ({type(error).__name__}: {reason[:120]}). "
        f"Needed from it: {contents}. On a machine with a network run 'hf download {hub_id}' and copy {cache} here, "
        "or put the files into any folder and pass it as --model FOLDER"
    )
