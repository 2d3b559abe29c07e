"""Captions that describe the place and never the camera: the rule, the linter and the captioners.

The camera is controlled by a path, so a caption that says "the camera pans left" would contradict it. The linter finds
such sentences; what is left after removing them counts when it is most of the text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

PROMPT = (
    "Describe this place in two to four sentences: what is there, how it is laid out, materials, light, weather, and "
    "what moves by itself. Write about the scene only. Do not mention a camera, a viewer, a view changing, or any "
    "motion through the scene."
)
MOST_REMOVED = 0.4

_SHOT = r"(?:camera|shot|viewpoint|perspective|footage|video|frame|lens|drone|viewer|view|we)"
_PATTERNS = [
    r"\bcamera\b",
    r"\b(?:pans?|panned|panning)\b(?! (?:of|on|in|with|full|and|for)\b)"
    r"(?=\s*(?:across|left|right|up|down|slowly|to|over|around|out|in|along|from|$|[.,;]))",
    r"\b(?:tilts?|tilting)\s+(?:up|down|upwards?|downwards?)\b",
    r"\bzoom(?:s|ed|ing)?\b",
    r"\bdoll(?:y|ies|ying)\b(?=\s+(?:in|out|shot|forward|back|zoom|left|right|move|along))",
    r"\btruck(?:s|ing)?\s+(?:left|right|shot)\b",
    r"\btracking\s+shots?\b",
    r"\b(?:crane|aerial|handheld|steadicam|establishing|pov|point[- ]of[- ]view|first[- ]person|panning|wide|"
    r"close[- ]up)\s+shots?\b",
    r"\bfirst[- ]person\b",
    r"\borbit(?:s|ing)?\s+(?:around|shot|the|left|right)\b",
    rf"\b{_SHOT}\s+(?:\w+ly\s+)?(?:moves?|moving|follows?|following|glides?|gliding|turns?|turning|rotates?|rotating|"
    r"tracks?|tracking|advances?|advancing|approaches|approaching|sweeps?|sweeping|flies|flying|pushes|pushing|pulls|"
    r"pulling|rises?|rising|descends?|descending|shifts?|shifting|travels?|travelling|traveling|drifts?|drifting|pans?|"
    r"tilts?|circles?|circling|walks?|walking|enters?|entering|pass(?:es)?|passing)\b",
    r"\bwe\s+(?:see|move|turn|walk|fly|go|look|enter|pass|head|travel)\b",
    r"\b(?:move|moves|moving|go|goes|going|glide|gliding|travel|travelling|traveling)\s+(?:slowly\s+|steadily\s+)?"
    r"(?:forwards?|backwards?|ahead|sideways|through\s+the\s+scene)\b",
    r"\bturn(?:s|ing)?\s+(?:to\s+the\s+)?(?:left|right)\s+(?:to\s+(?:reveal|show|face)|as\s+(?:we|the\s+view))\b",
    r"^(?:turn(?:s|ing)?)\s+(?:to\s+the\s+)?(?:left|right)\b",
    r"\bfl(?:y|ies|ying)[- ]through\b",
    r"\b(?:walk(?:ing)?|walks)\s+(?:tour|forward|through\s+the\s+scene)\b",
    r"\b(?:strafes?|strafing)\b",
    r"\bas\s+(?:we|the\s+view)\s+\w+",
]
_CAMERA = re.compile("|".join(_PATTERNS))


@dataclass(frozen=True)
class CaptionCheck:
    """What the linter found: words that give a camera away, the text without those sentences, the share removed.

    `accepted` is false when more than 40 % of the text went, or nothing is left.
    """

    found: tuple[str, ...]
    text: str
    removed: float
    accepted: bool


def check_caption(text: str) -> CaptionCheck:
    """Find sentences about the camera and take them out. Reference: annotate.md 2.9."""
    sentences = [s for s in re.split(r"(?<=[.!?])\s+", " ".join(text.split())) if s]
    found, kept = [], []
    for sentence in sentences:
        match = _CAMERA.search(sentence.lower())
        if match:
            found.append(match.group().strip())
        else:
            kept.append(sentence)
    total = sum(len(s) for s in sentences)
    removed = 1.0 - sum(len(s) for s in kept) / total if total else 0.0
    return CaptionCheck(tuple(found), " ".join(kept), removed, bool(kept) and removed <= MOST_REMOVED)


class Captioner(Protocol):
    """Writes a caption for frames (f, H, W, 3) uint8."""

    name: str
    version: str
    weights_id: str

    def caption(self, frames: NDArray[np.uint8], prompt: str) -> str:
        """One caption; `prompt` is what to ask a model for."""
        ...


class NoCaptioner:
    """No model: an empty caption, marked as such."""

    name = "none"
    version = "1"
    weights_id = "none"

    def caption(self, frames: NDArray[np.uint8], prompt: str) -> str:
        """The empty caption."""
        return ""


def write_caption(captioner: Captioner, frames: NDArray[np.uint8]) -> dict[str, object]:
    """Caption frames, asking once more when the linter takes out too much; the record says what happened.

    Keys: text, source, accepted, removed, found. An empty text is accepted only from the captioner "none".
    """
    if isinstance(captioner, NoCaptioner):
        return {"text": "", "source": "none", "accepted": True, "removed": 0.0, "found": []}
    check = check_caption(captioner.caption(frames, PROMPT))
    if not check.accepted:
        again = PROMPT + " Your last answer spoke about the camera; leave every such sentence out."
        check = check_caption(captioner.caption(frames, again))
    text = check.text if check.accepted else ""
    return {
        "text": text, "source": captioner.name, "accepted": check.accepted,
        "removed": round(check.removed, 4), "found": list(check.found),
    }  # fmt: skip
