"""Which CUDA stream waits for what, seen through streams that do nothing but take notes; no GPU has run them."""

from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import torch
from sana_wm_core.streaming.overlap import Sampled, overlapped


class NotedStream:
    """Stands in for a CUDA stream."""

    def __init__(self):
        self.notes = []

    def wait_stream(self, other):
        self.notes.append(("waits for", other))

    def record_event(self):
        self.notes.append("marks")
        return self, len(self.notes)

    def wait_event(self, event):
        self.notes.append(("waits for", event))

    def synchronize(self):
        self.notes.append("is done")


def test_every_stream_waits_for_what_it_reads(monkeypatch):
    made, caller = [], NotedStream()

    def new_stream(device):
        made.append(NotedStream())
        return made[-1]

    @contextmanager
    def inside(stream):
        stream.notes.append("works")
        yield

    monkeypatch.setattr(torch.cuda, "Stream", new_stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: caller)
    monkeypatch.setattr(torch.cuda, "stream", inside)

    def sample(state, track, poses):
        return Sampled(SimpleNamespace(track=track), poses)

    def hold(track):
        return track + 1, np.zeros((8, 4, 4), np.float32)

    start = SimpleNamespace(track=0)
    results = list(overlapped(start, [hold] * 3, sample, lambda s: s.state.track, torch.device("cuda")))
    assert results == [1, 2, 3]
    sampler, finisher = made
    # Whatever the caller began, such as reading a new caption, comes before each chunk.
    assert sampler.notes == [("waits for", caller), "works", "marks"] * 3
    marks = [(sampler, 3), (sampler, 6), (sampler, 9)]
    each = [step for mark in marks for step in (("waits for", mark), "works", "is done")]
    assert finisher.notes == [("waits for", caller), *each]
