"""What is published, where, how large, under which licence, and what running it takes: facts, with their sources."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from sana_wm_core.hub import BIDIRECTIONAL, CHUNK_CAUSAL, STREAMING

GEMMA_2 = "Efficient-Large-Model/gemma-2-2b-it"
_INSIDE = Path(__file__).parent / "pocket"
BUNDLED = {"pocket": _INSIDE / "weights", "pocket-streaming": _INSIDE / "streaming"}  # worlds inside this package
DIFFUSERS = "Efficient-Large-Model/SANA-WM_bidirectional-diffusers"

_CARD = "Apache-2.0 by its model card"
_OTHER_CARD = "see its model card (the bidirectional one says Apache-2.0)"
_LTX = "LTX-2 Community License (derived from LTX-2)"
_GEMMA = "Gemma terms of use, use policy included"


class Weights(NamedTuple):
    """A part of a release.

    Attributes:
        what: What it is.
        repository: Hub id.
        patterns: Its files there.
        gigabytes: Published size; None = not published.
        licence: In one line.
        second_stage: Whether only refining needs it.
    """

    what: str
    repository: str
    patterns: tuple[str, ...]
    gigabytes: float | None
    licence: str
    second_stage: bool = False


class Need(NamedTuple):
    """What running a release took where it was published; not measured here.

    Attributes:
        setting: What was run.
        gigabytes: Peak GPU memory.
        speed: Time, as published.
        source: Who says so.
    """

    setting: str
    gigabytes: float
    speed: str
    source: str


_VAE = Weights("LTX-2 video VAE", BIDIRECTIONAL, ("vae/*",), 2.0, _LTX)
_TEXT = Weights(
    "Gemma-2-2b-it, first text encoder", GEMMA_2, ("*.json", "*.safetensors", "tokenizer.model"), 5.0, _GEMMA
)
_REFINER = (
    Weights("refiner", BIDIRECTIONAL, ("refiner/transformer/*", "refiner/connectors/*"), 38.0, _LTX, True),
    Weights("Gemma-3-12B, the refiner's text encoder", BIDIRECTIONAL, ("refiner/text_encoder/*",), 46.0, _GEMMA, True),
)

RELEASES: dict[str, tuple[Weights, ...]] = {
    BIDIRECTIONAL: (
        Weights("world model, 60 steps", BIDIRECTIONAL, ("config.yaml", "dit/*.safetensors"), 10.0, _CARD),
        _VAE,
        _TEXT,
        *_REFINER,
    ),
    CHUNK_CAUSAL: (
        Weights("chunk-causal world model", CHUNK_CAUSAL, ("config.yaml", "dit/*.safetensors"), 10.0, _OTHER_CARD),
        _VAE,
        _TEXT,
        *_REFINER,
    ),
    STREAMING: (
        Weights("4-step streaming world model", STREAMING, ("*.yaml", "sana_dit/*"), None, _OTHER_CARD),
        Weights("causal LTX-2 VAE", STREAMING, ("ltx2_causal_vae/*", "ltx2_causal_vae/**/*"), 2.0, _LTX),
        _TEXT,
        Weights("refiner", STREAMING, ("refiner_diffusers/**/*",), 38.0, _LTX, True),
        Weights("Gemma-3-12B, the refiner's text encoder", STREAMING, ("gemma3_12b/*",), 46.0, _GEMMA, True),
    ),
    DIFFUSERS: (
        Weights("world model", DIFFUSERS, ("model_index.json", "scheduler/*", "transformer/*"), 10.0, _CARD),
        Weights("LTX-2 video VAE", DIFFUSERS, ("vae/*",), 2.0, _LTX),
        Weights("Gemma-2-2b-it, text encoder", DIFFUSERS, ("text_encoder/*", "tokenizer/*"), 5.0, _GEMMA),
    ),
}

_PAPER, _DOCS = "paper, 60 s clip", "upstream documentation"
NEEDS: dict[str, tuple[Need, ...]] = {
    BIDIRECTIONAL: (
        Need("stage 1, 961 frames", 51.1, "about 1200 s on one H100", _PAPER),
        Need("with refiner, 961 frames", 74.7, "about 1300 s on one H100", _PAPER),
    ),
    CHUNK_CAUSAL: (Need("stage 1, 961 frames", 51.1, "not published", _PAPER),),
    STREAMING: (
        Need("with refiner, bf16", 47.3, "1.09x realtime on one H100", _DOCS),
        Need("with refiner, fp8", 35.4, "about 1.00x realtime on one H100", _DOCS),
        Need("with refiner, fp4", 29.4, "1.16x realtime on one GB200", _DOCS),
    ),
    DIFFUSERS: (Need("stage 1, 961 frames", 51.1, "about 1200 s on one H100", _PAPER),),
}

_SHORT = {
    "bidirectional": BIDIRECTIONAL,
    "chunk_causal": CHUNK_CAUSAL,
    "streaming": STREAMING,
    "diffusers": DIFFUSERS,
}


def release_of(name: str) -> str:
    """The hub id of a release by its id, its repository's name, or a short name.

    Raises:
        ValueError: None of the releases.
    """
    plain = name.removeprefix("hf://").rstrip("/")
    for hub_id in RELEASES:
        if plain in (hub_id, hub_id.partition("/")[2]):
            return hub_id
    found = _SHORT.get(plain.replace("-", "_"))
    if found is None:
        raise ValueError(f"{name}: not a released model; allowed are {', '.join(_SHORT)} and their hub ids")
    return found


def parts_of(hub_id: str, *, refiner: bool = True) -> list[Weights]:
    """What a release consists of, with or without its second stage."""
    return [part for part in RELEASES[hub_id] if refiner or not part.second_stage]
