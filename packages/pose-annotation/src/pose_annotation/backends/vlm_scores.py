"""Entities and quality by a model that sees and writes: the paper's two passes, through any captioner's model."""

from __future__ import annotations

import json
import re

import numpy as np
from numpy.typing import NDArray

from pose_annotation.captions import Captioner

QUESTION = (
    "Look at these frames of one video. Answer with one JSON object and nothing else: "
    '{"people": N, "vehicles": N, "animals": N, "good": true or false}. The numbers count what is clearly visible in '
    "the busiest frame. good is false for text overlays, logos, split screens, heavy blur, artefacts or a game's menu."
)


class VlmScores:
    """`entities` (people, vehicles and animals together) and `vlm_quality` (1 or 0), None when it answers otherwise."""

    version = "1"

    def __init__(self, model: Captioner) -> None:
        self.name, self.weights_id = f"vlm:{model.name}", model.weights_id
        self.licence = str(getattr(model, "licence", "unknown"))
        self._model = model

    def score(self, frames: NDArray[np.uint8], fps: float, source_width: int) -> dict[str, float | None]:
        """Ask once; a model that does not keep to the form has given no score."""
        found = re.search(r"\{[^{}]*\}", self._model.caption(frames, QUESTION))
        try:
            answer = json.loads(found.group()) if found else {}
            counts = [answer[name] for name in ("people", "vehicles", "animals")]
            if not isinstance(answer["good"], bool) or any(type(c) is not int or c < 0 for c in counts):
                raise ValueError
        except (KeyError, ValueError):
            return {"entities": None, "vlm_quality": None}
        return {"entities": float(sum(counts)), "vlm_quality": float(answer["good"])}
