"""Search in videos by example: see `index.VideoIndex`, and `python -m tools.search --help`."""

from tools.search.answer import Answer, Hit
from tools.search.clips import ClipSettings, describe
from tools.search.index import VideoIndex

__all__ = ["Answer", "ClipSettings", "Hit", "VideoIndex", "describe"]
