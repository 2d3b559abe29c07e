"""Training recipes: TOML files beside the code, changed with `section.field=value`."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sana_wm_core.config import TransformerConfig
from sana_wm_core.pocket.codec import PocketCodecConfig
from sana_wm_core.pocket.text import PocketTextConfig
from sana_wm_core.training.codec import CodecTrainConfig
from sana_wm_core.training.config import TrainConfig

PRESETS = Path(__file__).parent.parent / "presets"


class Recipe(BaseModel):
    """Everything a pocket-size run needs to be repeated."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    codec: PocketCodecConfig = Field(default_factory=PocketCodecConfig)
    codec_train: CodecTrainConfig = Field(default_factory=CodecTrainConfig)
    text: PocketTextConfig = Field(default_factory=PocketTextConfig)
    model: TransformerConfig
    train: TrainConfig = Field(default_factory=TrainConfig)
    sampling: dict[str, float] = Field(default_factory=dict, description="Sampler fields of the pocket preset.")


def load_recipe(name: str, changes: list[str] | None = None) -> Recipe:
    """Read a preset by name or a TOML file by path and apply `section.field=value` changes.

    Raises:
        ValueError: Unknown preset, malformed change, or a field the models refuse; the message says which.
    """
    path = Path(name) if name.endswith(".toml") else PRESETS / f"{name}.toml"
    if not path.is_file():
        known = sorted(p.stem for p in PRESETS.glob("*.toml"))
        raise ValueError(f"no preset {name!r}; there are {known}, or give a .toml file, for example my_run.toml")
    try:
        table: dict[str, Any] = tomllib.loads(path.read_text())
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path}: not TOML ({error})") from error
    for change in changes or []:
        key, equals, value = change.partition("=")
        section, dot, field = key.strip().partition(".")
        if not (equals and dot and field):
            raise ValueError(f"--set {change!r} must read section.field=value, for example train.iterations=200")
        table.setdefault(section, {})[field] = _value(value.strip())
    try:
        return Recipe.model_validate(table)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"{path.name}: {where}={first.get('input')!r}: {first['msg']}") from error


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"x = {text}")["x"]
    except tomllib.TOMLDecodeError:
        return text
