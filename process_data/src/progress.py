"""How far a long step has got: a bar on a terminal, else a plain line every half minute and at the end."""

import sys
import time

from tqdm import tqdm

from process_data.src.console import complain, printable
from utils.terminal import has_bars

PERIOD = 30.0  # seconds between lines


class Progress:
    """Progress of a step over `total` videos; a context manager, `step` is called after each video."""

    def __init__(self, total: int, title: str) -> None:
        self._total, self._title, self._done = total, title, 0
        self._told = time.monotonic()
        self._plain = not has_bars(sys.stderr)
        self._bar = tqdm(total=total, desc=printable(title), unit="video", smoothing=0.05, disable=self._plain)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def step(self) -> None:
        """One more video is done."""
        self._done += 1
        self._bar.update()
        if self._plain and (self._done == self._total or time.monotonic() - self._told >= PERIOD):
            self._told = time.monotonic()
            complain(f"{self._title}: {self._done} of {self._total} videos")
