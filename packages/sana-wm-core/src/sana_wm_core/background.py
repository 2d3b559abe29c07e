"""Writes a growing video beside the work that makes it, so that a GPU never waits for the encoder."""

from __future__ import annotations

import threading
from queue import Queue

import numpy as np

from sana_wm_core.video import GrowingVideo


class BackgroundVideo:
    """A growing video whose frames are encoded in a thread of their own, in order.

    Args:
        video: The video; written to by nobody else.
        waiting: Pieces that may wait for the encoder before `append` does.
    """

    def __init__(self, video: GrowingVideo, waiting: int = 2) -> None:
        self.video = video
        self._error: BaseException | None = None
        self._pieces: Queue[np.ndarray | None] = Queue(maxsize=waiting)
        self._thread = threading.Thread(target=self._write, name="video writer", daemon=True)
        self._thread.start()

    def __enter__(self) -> BackgroundVideo:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        try:
            self.close()
        except Exception:
            # What went wrong first is what the user should read.
            if kind is None:
                raise

    def append(self, frames: np.ndarray) -> None:
        """Hand over frames (f, H, W, 3) uint8; they must not be changed afterwards.

        Raises:
            ValueError, OSError: What went wrong with earlier frames.
        """
        self._raise()
        self._pieces.put(frames)

    def close(self) -> None:
        """Wait until everything is written and finish the file; calling it again does nothing.

        Raises:
            ValueError, OSError: What went wrong with frames handed over before.
        """
        if self._thread.is_alive():
            self._pieces.put(None)
            self._thread.join()
        try:
            self.video.close()
        finally:
            self._raise()

    def _write(self) -> None:
        while (piece := self._pieces.get()) is not None:
            # After an error the rest is taken and dropped, so that nobody waits for room in the queue.
            if self._error is None:
                try:
                    self.video.append(piece)
                except BaseException as error:
                    self._error = error

    def _raise(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            raise error
