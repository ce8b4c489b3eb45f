"""Search in videos by example: see `index.VideoIndex`, and `python -m tools.search --help`."""

from tools.search.clips import ClipSettings, describe
from tools.search.index import Answer, Hit, VideoIndex

__all__ = ["Answer", "ClipSettings", "Hit", "VideoIndex", "describe"]
