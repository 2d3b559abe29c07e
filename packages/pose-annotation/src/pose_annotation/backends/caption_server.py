"""Captions from any server that speaks OpenAI's chat protocol, such as vllm; nothing is sent but a few small frames."""

from __future__ import annotations

import base64
import json
import urllib.error
import urllib.request

import numpy as np
from numpy.typing import NDArray

from pose_annotation.opencv import cv2


class CaptionServer:
    """Asks `model` at `url` (ending in /v1) about up to 8 frames, 512 pixels wide at most.

    Raises ValueError, in one line, when the server does not answer in the protocol's form.
    """

    version = "1"
    licence = "as the server's model"

    def __init__(self, url: str, model: str, *, frames: int = 8, timeout_s: float = 120.0, key: str = "none") -> None:
        if not url.startswith(("http://", "https://")):
            raise ValueError(f"caption server is {url!r}; allowed: http(s)://...; example: http://127.0.0.1:8000/v1")
        self.url, self.weights_id, self.name = url.rstrip("/"), model, f"server:{model}"
        self._frames, self._timeout_s, self._key = frames, timeout_s, key

    def caption(self, frames: NDArray[np.uint8], prompt: str) -> str:
        """One caption for frames (f, H, W, 3)."""
        picks = np.unique(np.round(np.linspace(0, len(frames) - 1, min(self._frames, len(frames)))).astype(int))
        content: list[dict[str, object]] = [{"type": "text", "text": prompt}]
        content += [{"type": "image_url", "image_url": {"url": _data_url(frames[i])}} for i in picks]
        body = {
            "model": self.weights_id, "messages": [{"role": "user", "content": content}], "temperature": 0, "seed": 0,
            "max_tokens": 256,
        }  # fmt: skip
        request = urllib.request.Request(
            f"{self.url}/chat/completions", json.dumps(body).encode(),
            {"Content-Type": "application/json", "Authorization": f"Bearer {self._key}"},
        )  # fmt: skip
        try:
            with urllib.request.urlopen(request, timeout=self._timeout_s) as answer:
                text = json.loads(answer.read())["choices"][0]["message"]["content"]
        except urllib.error.HTTPError as error:
            raise ValueError(f"caption server {self.url} answered {error.code} {error.reason}") from None
        except (OSError, json.JSONDecodeError, KeyError, IndexError, TypeError) as error:
            raise ValueError(f"caption server {self.url} gave no caption ({type(error).__name__}: {error})") from None
        return str(text)


def _data_url(frame: NDArray[np.uint8]) -> str:
    width = min(512, frame.shape[1])
    small = cv2.resize(frame, (width, round(frame.shape[0] * width / frame.shape[1])), interpolation=cv2.INTER_AREA)
    data = cv2.imencode(".jpg", cv2.cvtColor(small, cv2.COLOR_RGB2BGR))[1].tobytes()
    return "data:image/jpeg;base64," + base64.b64encode(data).decode()
