"""OpenCV on one thread, as clips run side by side in processes; loosely typed: it accepts more than it declares."""

from __future__ import annotations

from typing import Any

import cv2 as _cv2

cv2: Any = _cv2
cv2.setNumThreads(1)
