"""The HTML gallery of an answer: one file, with pictures inside, that loads nothing and runs nothing.

Names of files are others': the template escapes whatever it is given.
"""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import jinja2
import numpy as np

from process_data.src.errors import VideoError
from process_data.src.pool import silence_decoder
from process_data.src.video_io import next_frame, opened

FRAMES, SHORT_SIDE, QUALITY = 5, 108, 80  # of a film strip: pictures, pixels, JPEG quality


@dataclass(frozen=True)
class Row:
    """A clip on the page. frames: data URIs, none where the video cannot be read. rank: 0 for the query."""

    title: str
    link: str
    frames: Sequence[str]
    rank: int
    facts: Sequence[tuple[str, str]]
    is_query: bool


def film_strip(path: str, start: float, end: float) -> list[str]:
    """Frames from the midst of equal parts of a clip (seconds in the video) as data URIs; [] where there are none."""
    silence_decoder()
    times = start + (end - start) * (np.arange(FRAMES) + 0.5) / FRAMES
    found = []
    try:
        with opened(Path(path)) as capture:
            for seconds in times:
                capture.set(cv2.CAP_PROP_POS_MSEC, 1000 * float(seconds))
                frame = next_frame(capture, SHORT_SIDE)
                if frame is not None:
                    found.append(_data_uri(frame))
    except (VideoError, cv2.error):
        return []  # it was there when it was indexed: the page says that it is not now
    return found


def _data_uri(frame: np.ndarray) -> str:
    coded = cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1]
    return "data:image/jpeg;base64," + base64.b64encode(coded.tobytes()).decode()


def page(query: Row, rows: Sequence[Row], about: str) -> str:
    """The page as text."""
    return _template("gallery.html").render(query=query, rows=rows, about=about)


def frame(html: str) -> str:
    """A page inside of another one, which its styles leave alone."""
    return _template("frame.html").render(page=html)


def _template(name: str) -> jinja2.Template:
    loader = jinja2.FileSystemLoader(Path(__file__).with_name("templates"))
    return jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
                              lstrip_blocks=True).get_template(name)
