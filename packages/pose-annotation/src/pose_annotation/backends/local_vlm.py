"""A vision-language model of transformers from a local folder, as captioner and judge; nothing is downloaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pose_annotation.backends.loading import require, weights_id
from pose_annotation.opencv import cv2


class LocalVlm:
    """Any image-text-to-text model with a chat template, such as Qwen3-VL; answers are greedy, so they repeat.

    Raises Missing when transformers, torch or the folder's weights are not here.
    """

    version = "1"

    def __init__(
        self, folder: str | Path, *, device: str = "cpu", frames: int = 8, width: int = 512, licence: str = "unknown"
    ) -> None:
        self.weights_id = weights_id(Path(folder))
        self.name, self.licence = f"local:{Path(folder).name}", licence
        self._torch = require("torch", "pip install 'pose-annotation[models]'")
        package = require("transformers", "pip install 'pose-annotation[models]'")
        self._pictures = require("PIL.Image", "pip install 'pose-annotation[models]'")
        local = {"local_files_only": True, "trust_remote_code": False}
        self._processor: Any = package.AutoProcessor.from_pretrained(str(folder), **local)
        model = package.AutoModelForImageTextToText.from_pretrained(str(folder), use_safetensors=True, **local)
        self._model: Any = model.to(device).eval()
        self._device, self._frames, self._width = device, frames, width

    def caption(self, frames: NDArray[np.uint8], prompt: str) -> str:
        """The model's answer to `prompt` about up to 8 of the frames (f, H, W, 3)."""
        picks = np.unique(np.round(np.linspace(0, len(frames) - 1, min(self._frames, len(frames)))).astype(int))
        content: list[dict[str, Any]] = [{"type": "image", "image": self._picture(frames[i])} for i in picks]
        content.append({"type": "text", "text": prompt})
        inputs = self._processor.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=True, add_generation_prompt=True, return_dict=True,
            return_tensors="pt",
        ).to(self._device)  # fmt: skip
        with self._torch.no_grad():
            tokens = self._model.generate(**inputs, max_new_tokens=256, do_sample=False)
        answer = tokens[:, inputs["input_ids"].shape[1] :]
        return str(self._processor.batch_decode(answer, skip_special_tokens=True)[0]).strip()

    def _picture(self, frame: NDArray[np.uint8]) -> Any:
        width = min(self._width, frame.shape[1])
        size = (width, round(frame.shape[0] * width / frame.shape[1]))
        return self._pictures.fromarray(cv2.resize(frame, size, interpolation=cv2.INTER_AREA))
