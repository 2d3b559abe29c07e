"""OpenCV on one thread: clips run side by side in processes, and its stubs know fewer arrays than it accepts."""

from __future__ import annotations

from typing import Any

import cv2 as _cv2

cv2: Any = _cv2
cv2.setNumThreads(1)
