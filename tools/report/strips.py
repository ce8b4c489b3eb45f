"""Film strips of the clips that a page shows."""

import math
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

from dataset import catalog
from dataset.lmdb_reader import LmdbReader
from dataset.residual import ResidualReader
from tools import pictures
from utils.console import one_line
from utils.errors import DataError

FRAMES, HIGHEST, LOWEST, QUALITY = 4, 96, 36, 60  # of a film strip: frames, height in pixels, JPEG quality
STRIP_PIXELS = 2.7e7  # of all strips of a page: about 8 MB of base64


@dataclass(frozen=True)
class Source:
    """A stream of a part of a dataset."""

    name: str  # "train rgb" or the like
    kind: str  # "rgb", "flow" or "residual"
    reader: LmdbReader | ResidualReader


@dataclass
class Strips:
    """Film strips of a page, each stored once however often it is shown."""

    images: dict[str, str] = field(default_factory=dict)  # as data URIs by id, once made
    failed: Counter[str] = field(default_factory=Counter)  # how many could not be read, by reason
    _wanted: dict[tuple[str, str], tuple[str, Source]] = field(default_factory=dict)

    def want(self, source: Source | None, video: str) -> str:
        """Return the id of the strip of "Class/video", "" without a source."""
        if source is None:
            return ""
        return self._wanted.setdefault((source.name, video), (f"s{len(self._wanted)}", source))[0]

    def make(self) -> None:
        """Make all strips, the smaller the more there are."""
        pixels = STRIP_PIXELS / FRAMES / max(1, len(self._wanted))  # of a frame, 4:3
        height = round(min(HIGHEST, max(LOWEST, math.sqrt(pixels * 3 / 4))))
        for (_, video), (identity, source) in self._wanted.items():
            try:
                count = source.reader.num_frames(video)
                frames = source.reader.frames(video, pictures.evenly_spaced(count, FRAMES))
            except (DataError, OSError) as error:
                self.failed[one_line(str(error).replace(video, "..."))] += 1
                continue
            if source.kind == "flow":
                frames = pictures.flow_to_colour(pictures.flow_from_frames(frames))
            strip = pictures.film_strip(frames, min(height, frames.shape[1]))
            self.images[identity] = pictures.data_uri(strip, QUALITY)


def sources(dataset: str, second_view: str, data_root: str, part: str) -> dict[str, Source]:
    """Return the streams of a part, "train" or "test", by name, "rgb" and "flow", as far as their LMDBs are there."""
    spec = replace(catalog.parse(dataset), second_view=second_view)
    readers = zip(spec.streams, spec.readers(Path(data_root), train=part == "train"), strict=True)
    return {stream: Source(f"{part} {stream}", second_view if stream == "flow" else "rgb", reader)
            for stream, reader in readers if Path(reader.path).exists()}
