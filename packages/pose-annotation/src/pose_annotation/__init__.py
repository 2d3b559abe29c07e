"""Camera poses, lenses, scores and verdicts from ordinary video.

Start with `pipeline.annotate_video` for one video, `runner.run_manifest` for many, `solve.solve_camera` for tracks of
your own, `exporters.export_folder` for other programs' files.
"""

from importlib.metadata import version

__version__ = version("pose-annotation")
