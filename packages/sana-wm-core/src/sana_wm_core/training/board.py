"""Metrics for TensorBoard, beside metrics.jsonl, where a stage asks for it and the library is there."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Board:
    """Writes every metric of a run as a scalar under its own name, into the run's folder.

    Args:
        run: Folder of the run.

    Raises:
        ValueError: The tensorboard package is not installed.
    """

    def __init__(self, run: Path) -> None:
        try:
            writer: Any = importlib.import_module("torch.utils.tensorboard").SummaryWriter
        except ImportError as error:
            raise ValueError(
                "train.tensorboard needs the tensorboard package: `pip install tensorboard`, or leave it out; "
                "metrics.jsonl holds the same numbers"
            ) from error
        self._writer = writer(str(run / "tensorboard"))

    def log(self, metrics: Mapping[str, float]) -> None:
        """Write the metrics of a step."""
        step = int(metrics["step"])
        for name, value in metrics.items():
            if name != "step":
                self._writer.add_scalar(name, value, step)
        self._writer.flush()
