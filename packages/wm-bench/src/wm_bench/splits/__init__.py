"""What is scored: the procedural splits, the released one, and how to hand either to a model."""

from __future__ import annotations

from wm_bench.splits.model import CATEGORIES, BenchScene, Split, Truth
from wm_bench.splits.procedural import SPLITS, load_procedural, pick_scenes, scene_ids

__all__ = ["CATEGORIES", "SPLITS", "BenchScene", "Split", "Truth", "load_procedural", "pick_scenes", "scene_ids"]
