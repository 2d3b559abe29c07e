"""What a run can do so far, to look at: one clip, always the same, sampled on cadence and written as a video."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sana_wm_core.codecs import VideoCodec
from sana_wm_core.pipeline import to_pixels
from sana_wm_core.sampling.choice import choose_sampler
from sana_wm_core.sampling.sampler import Conditions
from sana_wm_core.training.draws import stream
from sana_wm_core.video import write_video

if TYPE_CHECKING:
    from sana_wm_core.training.stage_loop import StageTrainer


class SampleWriter:
    """Samples a held-out clip (or the first training clip) and writes samples/step-....mp4 into the run's folder.

    Args:
        codec: Decoder of the latents.
        steps: Sampler steps, where there is no step list; without guidance, so one forward pass each.
    """

    def __init__(self, codec: VideoCodec, steps: int) -> None:
        self.codec, self.steps = codec, steps

    @torch.no_grad()
    def __call__(self, trainer: StageTrainer) -> Path:
        """Write the video of this moment."""
        number = trainer.held_out[0] if trainer.held_out else trainer.order.step(0)[0]
        folder = trainer.out / "samples"
        folder.mkdir(exist_ok=True)
        path = folder / f"step-{trainer.steps_done:08d}.mp4"
        trainer.model.eval()
        pixels = to_pixels(self.codec.decode(self.latents(trainer, number))[0])
        write_video(path, pixels)
        return path

    def latents(self, trainer: StageTrainer, number: int) -> Tensor:
        """The model's clip for a training clip's first frame, caption and camera, (1, c, t, y, x)."""
        law = trainer.stage.objective
        batch = trainer.batches([number], trainer.steps_done, draws=-1)
        given = batch.conditions
        cameras = {k: given[k] for k in ("camera_conditions", "chunk_plucker") if given[k] is not None}
        conditions = Conditions(given["encoder_hidden_states"], given["encoder_attention_mask"], camera=cameras)
        noise = torch.randn(batch.clean.shape, generator=stream(trainer.stage.train.seed, -1, batch.ids[0], "sample"))
        student = trainer.stage.distill
        name = "flow_euler_ltx"
        if law.chunk_frames:
            name = "self_forcing" if student or law.clean_past else "chunk_flow_euler"
        sampler = choose_sampler(
            name, steps=self.steps, guidance=1.0, shift=law.shift, chunk=law.chunk_frames, chunk_rule=law.chunk_rule,
            step_list=student.step_list if student else (),
        )  # fmt: skip
        return sampler(trainer.velocity, batch.clean[:, :, :1], noise.to(batch.clean), conditions)
