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
    path, table = read_preset(name, changes)
    try:
        return Recipe.model_validate(table)
    except ValidationError as error:
        raise ValueError(one_line(path, error)) from error


def read_preset(name: str, changes: list[str] | None = None) -> tuple[Path, dict[str, Any]]:
    """The table of a preset or a TOML file with changes applied, and where it was read.

    Raises:
        ValueError: Unknown preset, not TOML, or a malformed change.
    """
    path = Path(name) if name.endswith(".toml") else PRESETS / f"{name}.toml"
    if not path.is_file():
        known = sorted(p.stem for p in PRESETS.glob("*.toml"))
        raise ValueError(f"no preset {name!r}; there are {known}, or give a .toml file, for example my_run.toml")
    try:
        table: dict[str, Any] = tomllib.loads(path.read_text())
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path}: not TOML ({error})") from error
    apply_changes(table, changes, path)
    return path, table


def apply_changes(table: dict[str, Any], changes: list[str] | None, path: Path) -> None:
    """Apply `section.field=value` changes to the table of a preset, in place.

    Raises:
        ValueError: A malformed change.
    """
    for change in changes or []:
        key, equals, value = change.partition("=")
        section, dot, field = key.strip().partition(".")
        if not (equals and dot and field):
            raise ValueError(f"--set {change!r} must read section.field=value, for example train.iterations=200")
        inside = table.setdefault(section, {})
        if not isinstance(inside, dict):
            raise ValueError(f"--set {change!r}: {section} is a single value in {path.name}, not a section")
        inside[field] = _value(value.strip())


def one_line(path: Path, error: ValidationError) -> str:
    """What is wrong with a preset, in one line naming the field, its value and what is allowed."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"]) or "fields"
    if first["type"] == "extra_forbidden":
        return f"{path.name}: unknown field {where}={first.get('input')!r}; see the fields in the preset of that name"
    if first["type"] == "value_error":
        return f"{path.name}: {where}: {first['msg'].removeprefix('Value error, ')}"
    return f"{path.name}: {where}={first.get('input')!r}: {first['msg']}"


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"x = {text}")["x"]
    except tomllib.TOMLDecodeError:
        return text
