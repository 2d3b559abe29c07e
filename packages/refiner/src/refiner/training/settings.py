"""How the refiner's adapters are trained: a value that can be read from a table and named field by field."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from refiner.training.adapter import RefinerLora
from refiner.training.objective import SigmaLaw, TruncatedFlow

# Fields that change neither what is learnt nor in which order; a resumed run may have others.
_FREE = {"train.steps", "train.log_every", "train.save_every", "train.recompute"}


@dataclass(frozen=True)
class RefinerTraining:
    """How the adapters are trained. Rate, steps and batch of the released refiner are not published.

    Attributes:
        steps: Optimiser steps.
        batch: Pairs of a step, one pass each.
        learning_rate: Of AdamW, constant after `warmup` steps.
        clip: Largest gradient norm.
        reference: Latent frames at the start that are seen clean and carry no loss.
        augment: The first stage's latents are mixed with noise by a share drawn from 0 to this; 0 = never.
        fps: Frames per second of the videos; positions in time are seconds.
        recompute: Keep only the input of every block and compute the rest again in the backward pass.
    """

    lora: RefinerLora = field(default_factory=RefinerLora)
    path: TruncatedFlow = field(default_factory=TruncatedFlow)
    law: SigmaLaw = field(default_factory=SigmaLaw)
    steps: int = 1000
    batch: int = 1
    learning_rate: float = 1e-4
    warmup: int = 20
    clip: float = 1.0
    reference: int = 1
    augment: float = 0.0
    fps: float = 16.0
    recompute: bool = True
    seed: int = 0
    log_every: int = 10
    save_every: int = 100

    def __post_init__(self) -> None:
        for name, least in (("steps", 1), ("batch", 1), ("reference", 1), ("log_every", 1), ("save_every", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"refiner training: {name}={getattr(self, name)} must be at least {least}")
        if not 0 <= self.augment < 1 or not 0 < self.learning_rate <= 1 or not self.clip > 0:
            raise ValueError(
                f"refiner training: augment={self.augment:g} must be in [0, 1), learning_rate="
                f"{self.learning_rate:g} in (0, 1], clip={self.clip:g} above 0; for example 0, 1e-4, 1"
            )

    def table(self) -> dict[str, dict[str, Any]]:
        """The same as sections lora, path, law and train, as a .toml file would have them."""
        whole = asdict(self)
        out: dict[str, dict[str, Any]] = {name: whole.pop(name) for name in _SECTIONS}
        return out | {"train": whole}

    def differences(self, before: dict[str, dict[str, Any]]) -> list[str]:
        """The fields, with both values, in which a run that goes on must not differ from the table it began with."""
        now = json.loads(json.dumps(self.table()))
        out = []
        for section, values in now.items():
            for name, value in values.items():
                old = before.get(section, {}).get(name)
                if f"{section}.{name}" not in _FREE and old != value:
                    out.append(f"{section}.{name}: {old} -> {value}")
        return out


_SECTIONS: dict[str, type] = {"lora": RefinerLora, "path": TruncatedFlow, "law": SigmaLaw}


def from_table(table: dict[str, Any]) -> RefinerTraining:
    """Settings from sections lora, path, law and train; what is left out keeps its default.

    Raises:
        ValueError: An unknown section or field, or a value it cannot have; it is named, with what is allowed.
    """
    kinds: dict[str, type] = {**_SECTIONS, "train": RefinerTraining}
    given: dict[str, dict[str, Any]] = {}
    for section, values in table.items():
        if section not in kinds or not isinstance(values, dict):
            raise ValueError(f"refiner training: no section {section}; there are {', '.join(kinds)}")
        known = {f.name: str(f.type) for f in fields(kinds[section]) if f.name not in _SECTIONS}
        for name, value in values.items():
            if name not in known:
                raise ValueError(f"refiner training: unknown field {section}.{name}; there are {', '.join(known)}")
            given.setdefault(section, {})[name] = _checked(f"{section}.{name}", value, known[name])
    parts = {name: kind(**given.get(name, {})) for name, kind in _SECTIONS.items()}
    return RefinerTraining(**parts, **given.get("train", {}))


def _checked(name: str, value: Any, kind: str) -> Any:
    if kind == "float" and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value).__name__ != kind:
        words = {"int": "a whole number, such as 4", "float": "a number, such as 0.5", "bool": "true or false"}
        raise ValueError(f"refiner training: {name}={value!r} must be {words[kind]}")
    return value
