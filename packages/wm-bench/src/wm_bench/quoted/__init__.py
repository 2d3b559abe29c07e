"""Numbers that others published, as data: quoted, never measured here, and never ranked beside a score sheet.

Tables 2 and 8 and the efficiency columns are the SANA-WM paper's (arXiv 2605.15178); i2v is its ablation on VBench-I2V
(its Tables 3 and 10); later are rows of later papers on the same benchmark. A `doubt` names cells that contradict the
row's own overall value, which is kept as published.
"""

from __future__ import annotations

import csv
from importlib.resources import files

TABLES = ("table2", "table8", "efficiency", "i2v", "later")

Cell = float | str | None
_WORDS = {"split", "method", "params", "resolution", "doubt", "source", "model"}


def quoted(table: str) -> list[dict[str, Cell]]:
    """Rows of a published table; None where the source prints nothing.

    Raises ValueError for a table that is not here.
    """
    if table not in TABLES:
        raise ValueError(f"table is {table!r}; allowed: {', '.join(TABLES)}; example: 'table2'")
    text = (files("wm_bench.quoted") / f"{table}.csv").read_text(encoding="utf-8")
    return [{name: _cell(name, value) for name, value in row.items()} for row in csv.DictReader(text.splitlines())]


def _cell(name: str, text: str) -> Cell:
    if name in _WORDS:
        return text
    return float(text) if text else None
