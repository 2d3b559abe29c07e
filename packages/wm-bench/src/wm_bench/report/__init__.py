"""A score sheet as files one can read: JSON, CSV, Markdown and one self-contained HTML page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from wm_bench.report.clips import ClipStrip, pick_strips
from wm_bench.report.page import score_page
from wm_bench.report.tables import score_csv, score_markdown
from wm_bench.report.write import write_text
from wm_bench.sheet import Sheet, write_sheet

__all__ = ["ClipStrip", "pick_strips", "write_report"]


def write_report(sheet: Sheet, folder: Path, strips: Sequence[ClipStrip] = ()) -> list[Path]:
    """Write score.json, scores.csv (a line per scene and number), summary.md and report.html into a folder."""
    return [
        write_sheet(sheet, folder / "score.json"),
        write_text(folder / "scores.csv", score_csv(sheet)),
        write_text(folder / "summary.md", score_markdown(sheet)),
        write_text(folder / "report.html", score_page(sheet, strips)),
    ]
