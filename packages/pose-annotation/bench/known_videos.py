"""Motion and scene cuts of videos with known answers (annotate.md 7.5), and ffmpeg's own motion beside ours.

    python packages/pose-annotation/bench/known_videos.py dog-example.mp4 cosmos-example.mp4 bikes.mp4

One JSON line a video. Known: dog-example 17.724, cosmos-example 6.411, bikes 6.128; scenes of bikes start at 0, 30, 76,
137, 187 and 242, the others have one.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import av
import numpy as np
from pose_annotation.scores import MotionMeter
from pose_annotation.video import _luma
from pose_annotation.windows import SceneFinder


def main() -> None:
    """Decode every frame once, at the source's rate and size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("videos", nargs="+", type=Path)
    for path in parser.parse_args().videos:
        meter, finder, starts, ours, theirs = MotionMeter(), SceneFinder(), [0], [], []
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            graph = av.filter.Graph()
            source, motion, sink = graph.add_buffer(template=stream), graph.add("vmafmotion"), graph.add("buffersink")
            source.link_to(motion)
            motion.link_to(sink)
            graph.configure()
            for number, frame in enumerate(container.decode(stream)):
                ours.append(meter.measure(_luma(frame)))
                starts += [number] if finder.feed(frame.to_ndarray(format="rgb24")) else []
                graph.push(frame)
                theirs.append(float(graph.pull().metadata["lavfi.vmafmotion.score"]))
        # ffmpeg prints two decimals a frame.
        worst = float(np.abs(np.round(ours, 2) - theirs).max())
        line = {"video": path.name, "frames": len(ours), "motion": round(float(np.mean(ours)), 3)}
        line |= {"ffmpeg": round(float(np.mean(theirs)), 3), "worst_frame": round(worst, 4), "scene_starts": starts}
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
