"""What a search answers: its hits as a table, as JSON and as a page."""

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import cv2
import numpy as np

from process_data.src.video_io import VideoError, next_frame, opened, silence_decoder
from tools import pages
from tools.pictures import data_uri, film_strip
from utils.console import inline, table

STRIP_FRAMES, STRIP_HEIGHT = 4, 160  # of a picture, half of them in a row; pixels of a row


@dataclass(frozen=True)
class Hit:
    """A clip that was found."""

    rank: int  # from 1
    similarity: float  # cosine of centred features, -1 to 1; with two streams the sum, -2 to 2
    by_stream: dict[str, float]  # the same of each stream, by its view
    path: str  # of the video
    name: str  # its path, from the indexed folder on
    start: float  # seconds in the video
    end: float
    query_start: float  # seconds in the query, of its clip that is most similar
    query_end: float
    is_query: bool  # the video is the query itself


@dataclass(frozen=True)
class Answer:
    """The most similar clips, best first."""

    query: str  # path
    query_clips: int  # that the query was cut into
    hits: Sequence[Hit]
    about: str  # the index in words
    notes: Sequence[tuple[str, bool]] = ()  # what to know of the similarities, and whether it is a warning

    def table(self) -> str:
        """Return a table for the console."""
        names = [name for name, _ in self._facts(self.hits[0])] if self.hits else []
        return table(["video", *names], [
            [f"{hit.rank} {inline(hit.name)}{' (the query)' if hit.is_query else ''}",
             *(value for _, value in self._facts(hit))] for hit in self.hits])

    def as_json(self) -> dict[str, Any]:
        """Return the same for a file: {"query": path, "about": ..., "notes": [...], "hits": [{...}, ...], ...}."""
        return asdict(self) | {"notes": [text for text, _ in self.notes]}

    def gallery(self, path: str | Path) -> Path:
        """Write the page, in place of a file of that name; its pictures are read from the videos now.

        A click plays the video from the clip's time on, where the browser can; its path is relative to the page.
        """
        path = Path(path)
        end = max((hit.query_end for hit in self.hits), default=0.0)
        query = _card(path, self.query, 0.0, end, name=Path(self.query).name, rank=0, facts=[], is_query=True)
        clips = [_card(path, hit.path, hit.start, hit.end, name=hit.name, rank=hit.rank, facts=self._facts(hit),
                       is_query=hit.is_query) for hit in self.hits]
        pages.write(path, "search.html", query=query, clips=clips, about=self.about, notes=self.notes)
        return path

    def _facts(self, hit: Hit) -> list[tuple[str, str]]:
        """Fields of a hit, as shown in the table and on the page."""
        similarities = {"similarity": hit.similarity} | (hit.by_stream if len(hit.by_stream) > 1 else {})
        times = {"time": time_span(hit.start, hit.end)}
        if self.query_clips > 1:
            times["time in query"] = time_span(hit.query_start, hit.query_end)
        return [*((name, f"{value:.4f}") for name, value in similarities.items()), *times.items()]


def _card(page: Path, video: str, start: float, end: float, **shown: Any) -> dict[str, Any]:
    """Return what a page shows of a part of a video: its URL, relative to the page, its pictures, and the rest."""
    relative = os.path.relpath(os.path.abspath(video), os.path.abspath(page.parent))
    link = f"{quote(os.fsencode(relative))}#t={start:.2f},{end:.2f}"
    return {"link": link, "strip": clip_strip(video, start, end), **shown}


def clip_strip(path: str, start: float, end: float) -> str:
    """Return frames from equal parts of a clip (seconds in the video) in two rows, as a data URI; "" for no video."""
    silence_decoder()
    frames = []
    try:
        with opened(Path(path)) as capture:
            for seconds in start + (end - start) * (np.arange(STRIP_FRAMES) + 0.5) / STRIP_FRAMES:
                capture.set(cv2.CAP_PROP_POS_MSEC, 1000 * float(seconds))
                if (frame := next_frame(capture, STRIP_HEIGHT)) is not None:
                    frames.append(frame[..., ::-1])
    except (VideoError, cv2.error):
        pass  # it was there when it was indexed: the page says that it is gone
    if not frames:
        return ""
    rows = np.stack(frames + frames[-1:] * (STRIP_FRAMES - len(frames))).reshape(2, -1, *frames[0].shape)
    return data_uri(np.concatenate([film_strip(row, STRIP_HEIGHT) for row in rows]))


def time_span(start: float, end: float) -> str:
    """Format seconds as "0:12.0-0:22.0"; minutes go on beyond 59."""
    minutes = [divmod(round(10 * seconds), 600) for seconds in (start, end)]
    return "-".join(f"{minute}:{tenths // 10:02d}.{tenths % 10}" for minute, tenths in minutes)
