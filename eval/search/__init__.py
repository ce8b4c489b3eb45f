"""Search in videos by example: see `index.VideoIndex`, and `python -m eval.search --help`."""

from eval.search.answer import Answer, Hit
from eval.search.index import VideoIndex
from eval.search.plan import Settings

__all__ = ["Answer", "Hit", "Settings", "VideoIndex"]
