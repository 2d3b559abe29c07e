"""Progress on the terminal, on stderr so that stdout stays clean."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType


class Display:
    """A line with the stage at hand; while sampling, a bar with the time left."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
        from rich.progress import TimeRemainingColumn as TimeLeftColumn

        columns = (
            TextColumn("{task.description:<20}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeLeftColumn(),
        )
        self._console = Console(stderr=True)
        self._progress = Progress(
            *columns, console=self._console, transient=True, disable=not self._console.is_terminal
        )
        self._task = self._progress.add_task("", total=None)

    def __enter__(self) -> Display:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def stage(self, name: str) -> None:
        """Show what is being done now."""
        self._progress.reset(self._task, description=name, total=None)

    def step(self, done: int, steps: int) -> None:
        """Show finished steps of the stage."""
        self._progress.update(self._task, completed=done, total=steps)


@contextmanager
def quiet_libraries(used: bool = True) -> Iterator[None]:
    """Keep other libraries' progress bars and chatter off the terminal; their errors still come through.

    Args:
        used: Whether they will be imported at all; the pocket world starts seconds sooner without them.
    """
    if not used:
        yield
        return
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    for library in (diffusers_logging, transformers_logging):
        library.disable_progress_bar()
        library.set_verbosity_error()
    logging.getLogger("sana_wm_core").setLevel(logging.WARNING)
    yield
