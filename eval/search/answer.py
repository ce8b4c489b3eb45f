"""What a search finds, as a table, as JSON, and as an HTML gallery."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.report import table
from eval.search import gallery
from utils.console import inline
from utils.files import replace


@dataclass(frozen=True)
class Hit:
    """A clip that was found.

    rank: from 1. similarity: cosine of centred features, -1 to 1; of two streams the sum, -2 to 2. by_stream: of each,
    by name. path: of the video. name: its path from the indexed folder on. start, end, query_start, query_end: seconds
    in the video, and in the query of its clip that is most similar. is_query: whether the video is the query itself.
    """

    rank: int
    similarity: float
    by_stream: dict[str, float]
    path: str
    name: str
    start: float
    end: float
    query_start: float
    query_end: float
    is_query: bool


@dataclass(frozen=True)
class Answer:
    """The most similar clips, best first.

    query: path of the video that asked. query_clips: pieces that it was cut into. about: the index in words.
    """

    query: str
    query_clips: int
    hits: Sequence[Hit]
    about: str

    def table(self) -> str:
        """A table for the console."""
        streams = list(self.hits[0].by_stream) if self.hits and len(self.hits[0].by_stream) > 1 else []
        cut = self.query_clips > 1
        rows = [[str(hit.rank), f"{hit.similarity:.4f}", *(f"{hit.by_stream[name]:.4f}" for name in streams),
                 times(hit.start, hit.end), *([times(hit.query_start, hit.query_end)] if cut else []),
                 inline(hit.name) + (" (the query)" if hit.is_query else "")] for hit in self.hits]
        width = max((len(row[-1]) for row in rows), default=0)
        rows = [[*row[:-1], row[-1].ljust(width)] for row in rows]
        header = ["rank", "similarity", *streams, "time", *(["time in query"] if cut else []), "video".ljust(width)]
        return "\n".join(line.rstrip() for line in table(header, rows).splitlines())

    def as_json(self) -> dict[str, Any]:
        """The same for a file: {"query": path, "about": ..., "hits": [{"rank": 1, "similarity": ..., ...}, ...]}."""
        return {"query": self.query, "about": self.about, "hits": [vars(hit) for hit in self.hits]}

    def html(self) -> str:
        """A page that needs no other file: each clip with a film strip of its frames, read from the videos now."""
        rows = [gallery.Row(title=inline(hit.name), link=Path(hit.path).as_uri() + f"#t={hit.start:.3f}",
                            frames=gallery.film_strip(hit.path, hit.start, hit.end), rank=hit.rank,
                            facts=self._facts(hit), is_query=hit.is_query) for hit in self.hits]
        end = max((hit.query_end for hit in self.hits), default=0.0)
        query = gallery.Row(title=inline(Path(self.query).name), link=Path(self.query).as_uri(),
                            frames=gallery.film_strip(self.query, 0.0, end), rank=0, facts=[], is_query=True)
        return gallery.page(query, rows, inline(self.about))

    def _facts(self, hit: Hit) -> list[tuple[str, str]]:
        streams = hit.by_stream if len(hit.by_stream) > 1 else {}
        facts = [("similarity", f"{hit.similarity:.4f}"), *((name, f"{value:.4f}") for name, value in streams.items()),
                 ("time", times(hit.start, hit.end))]
        return facts + ([("in the query", times(hit.query_start, hit.query_end))] if self.query_clips > 1 else [])

    def gallery(self, path: str | Path) -> Path:
        """Write the page; a file of that name is replaced."""
        replace(Path(path), self.html().encode())
        return Path(path)

    def __str__(self) -> str:
        return self.table()

    def _repr_html_(self) -> str:
        """The gallery inside of a notebook."""
        return gallery.frame(self.html())


def times(start: float, end: float) -> str:
    """Seconds as "0:12.0-0:22.0", with hours where there are some."""
    return f"{_clock(start)}-{_clock(end)}"


def _clock(seconds: float) -> str:
    tenths = round(10 * seconds)
    minutes, tenths = divmod(tenths, 600)
    hours, minutes = divmod(minutes, 60)
    clock = f"{minutes:02d}" if hours else f"{minutes}"
    return (f"{hours}:" if hours else "") + f"{clock}:{tenths // 10:02d}.{tenths % 10}"
