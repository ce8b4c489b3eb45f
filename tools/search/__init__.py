"""Search in videos by example: an index of the features of their clips in one file, compared by faiss.

Features (N, S * F) hold S streams side by side. Each stream is centred by the mean of the index, as retrieval centres
a set by its own, and L2-normalised. The inner product of two rows is then the sum of the streams' similarities, which
is how `merge_2stream_prob.py` fuses them.
"""

import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote
from zipfile import ZipFile

import faiss
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from engine import checkpoint
from eval.network import Encoder, load_encoder
from eval.retrieval import fingerprint
from tools.pictures import clip_strip, write_page
from tools.search.check import VIDEOS, Note, check_encoders
from tools.search.clips import ClipSettings, EncoderSpec, describe, embed, find_videos, state_of
from utils.console import inline, say, table, track, warn
from utils.errors import CheckpointError, OptionError
from utils.files import atomic_write, lock, remove_partial

FILE = "index.pt"
SAVE_SECONDS = 120.0  # between saves of an unfinished index
PAIRS = 2000  # random pairs of clips, to give similarities a scale
SAME = 1e-5  # features this close to their mean, relative to their length, differ by rounding alone


@dataclass(frozen=True)
class Hit:
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
    query_clips: int  # number of clips the query was cut into
    hits: Sequence[Hit]
    about: str  # the index in words
    notes: Sequence[Note] = ()  # how to read the similarities

    def table(self) -> str:
        names = [*self._facts(self.hits[0])] if self.hits else []
        return table(["video", *names], [
            [f"{hit.rank} {inline(hit.name)}{' (the query)' if hit.is_query else ''}", *self._facts(hit).values()]
            for hit in self.hits])

    def as_json(self) -> dict[str, Any]:
        """Return the answer as JSON data: {"query": path, "about": ..., "notes": [...], "hits": [{...}, ...], ...}."""
        return asdict(self) | {"notes": [text for text, _ in self.notes]}

    def gallery(self, path: str | Path) -> Path:
        """Write an HTML page, replacing an earlier one, with pictures of the clips.

        A click plays the video from the start of the clip if the browser can; its path is relative to the page.
        """
        path = Path(path)

        def card(video: str, start: float, end: float, **shown: Any) -> dict[str, Any]:
            relative = os.path.relpath(os.path.abspath(video), os.path.abspath(path.parent))
            link = f"{quote(os.fsencode(relative))}#t={start:.2f},{end:.2f}"
            return {"link": link, "strip": clip_strip(video, start, end), **shown}
        end = max((hit.query_end for hit in self.hits), default=0.0)
        query = card(self.query, 0.0, end, name=Path(self.query).name, rank=0, facts={}, is_query=True)
        clips = [card(hit.path, hit.start, hit.end, name=hit.name, rank=hit.rank, facts=self._facts(hit),
                      is_query=hit.is_query) for hit in self.hits]
        write_page(path, "search.html", query=query, clips=clips, about=self.about, notes=self.notes)
        return path

    def _facts(self, hit: Hit) -> dict[str, str]:
        similarities = {"similarity": hit.similarity} | (hit.by_stream if len(hit.by_stream) > 1 else {})
        facts = {name: f"{value:.4f}" for name, value in similarities.items()} | {"time": time_span(hit.start, hit.end)}
        return facts | ({"time in query": time_span(hit.query_start, hit.query_end)} if self.query_clips > 1 else {})


def time_span(start: float, end: float) -> str:
    """Format seconds as "0:12.0-0:22.0"; minutes go on beyond 59."""
    minutes = [divmod(round(10 * seconds), 600) for seconds in (start, end)]
    return "-".join(f"{minute}:{tenths // 10:02d}.{tenths % 10}" for minute, tenths in minutes)


@dataclass(frozen=True, eq=False)
class Video:
    path: str  # absolute
    state: tuple[int, int]  # of the file then, see `state_of`
    features: Tensor  # of its clips, float32 (n, S * F), as the encoders gave them
    seconds: Tensor  # start and end of each clip, float64 (n, 2)


@dataclass(eq=False)
class VideoIndex:
    """Clips of many videos, and the encoders that made their features; made by :meth:`build` or :meth:`open`."""

    folder: Path
    settings: ClipSettings
    places: list[str]  # folders and files that the videos come from
    videos: list[Video]  # by path
    batch_size: int = 32  # windows in a batch of the encoders
    checks: list[Note] | None = None  # of the encoders

    @classmethod
    def build(cls, settings: str | Path | ClipSettings, places: Sequence[str | Path],
              folder: str | Path = "video_index", *, batch_size: int = 32, workers: int = 0) -> "VideoIndex":
        """Build an index, or update an existing one: read new and changed files, drop those that are gone.

        Args:
            settings: encoders and how to cut clips, or just the path of a checkpoint.
            places: folders and files to add to those that the index has already.
            workers: processes that decode; 0 for this one.
        """
        folder = Path(folder)
        settings = settings if isinstance(settings, ClipSettings) else ClipSettings((describe(settings),))
        old = cls.open(folder) if (folder / FILE).is_file() else cls(folder, settings, [], [])
        if str(old.settings) != str(settings):
            raise OptionError(f"the index was made with {old.settings}, not {settings}: give these, or another --out")
        files = {video.path for video in old.videos}
        known = [place for place in old.places if place not in files or os.path.lexists(place)]  # a file may be gone
        found = list(dict.fromkeys([*known, *map(os.path.abspath, places)]))
        states = {path: state_of(path) for path in find_videos(found)}
        kept = [video for video in old.videos if states.get(video.path) == video.state]
        index = cls(folder, settings, found, kept.copy(), batch_size, old.checks)
        folder.mkdir(parents=True, exist_ok=True)
        with lock(folder, "indexing"):
            remove_partial(folder)
            problems = index._read(states, workers)
            if index.checks is None or len(kept) < min(VIDEOS, len(index.videos)):
                paths = np.random.default_rng(0).permutation([video.path for video in index.videos]).tolist()
                index.checks = check_encoders(paths, settings, index.encoders)
                index.save()
        for path, problem in problems.items():
            say(inline(f"left out {path}: {problem}"))
        if not index.videos:
            raise OptionError(f"{', '.join(found) or 'no folder was named'}: no usable video files, so there is "
                              "nothing to search: nothing was written")
        say(f"{len(index.videos) - len(kept)} files new or changed, {len(kept)} as before\nindex of {index.about}")
        for text, bad in [*index._constant(), *(index.checks or [])]:
            (warn if bad else say)(text)
        return index

    def _read(self, states: dict[str, tuple[int, int]], workers: int) -> dict[str, str]:
        """Read new files, save the index even if interrupted, and return why files were left out."""
        todo = sorted(states.keys() - {video.path for video in self.videos})
        before, saved = len(self), time.monotonic()
        start, problems = saved, dict[str, str]()
        try:
            for path, found in track(embed(todo, self.settings, self.encoders, workers) if todo else (), len(todo),
                                     "index"):
                if isinstance(found, str):
                    problems[path] = found
                else:
                    self.videos.append(Video(path, states[path], *found))
                if time.monotonic() - saved > SAVE_SECONDS:
                    self.save()
                    saved = time.monotonic()
        finally:
            self.save()
        clips, seconds = len(self) - before, time.monotonic() - start
        say(f"{clips} new clips in {seconds:.1f} s: {clips / seconds:.3g} clips/s" if clips else "no new clips")
        return problems

    def save(self) -> None:
        self.videos.sort(key=lambda video: video.path)
        if self.videos:
            checkpoint.save(self.folder / FILE, {
                "settings": asdict(self.settings), "places": self.places, "checks": self.checks,
                "files": [(video.path, video.state, len(video.seconds)) for video in self.videos],
                "features": self._all("features"), "seconds": self._all("seconds")})

    @classmethod
    def open(cls, folder: str | Path) -> "VideoIndex":
        path = Path(folder) / FILE
        if not path.is_file():
            raise OptionError(f"there is no index in {folder}: make one with python -m tools.search index CHECKPOINT "
                              f"VIDEO_DIR --out {folder}")
        saved = checkpoint.load(path, require=("settings", "places", "files", "features", "seconds"))
        clips = [count for *_, count in saved["files"]]
        videos = [Video(name, state, features, seconds) for (name, state, _), features, seconds in zip(
            saved["files"], saved["features"].split(clips), saved["seconds"].split(clips), strict=True)]
        specs = tuple(EncoderSpec(**spec) for spec in saved["settings"].pop("encoders"))
        return cls(Path(folder), ClipSettings(specs, **saved["settings"]), saved["places"], videos,
                   checks=saved.get("checks"))

    def __len__(self) -> int:
        """Return the number of clips."""
        return sum(len(video.seconds) for video in self.videos)

    @property
    def about(self) -> str:
        return f"{len(self)} clips of {len(self.videos)} videos, {' and '.join(map(str, self.settings.encoders))}"

    def search(self, video: str | Path, k: int = 10, *, exclude_self: bool = False) -> Answer:
        """Find the k clips most similar to any clip of a video, which need not be in the index.

        A long video is cut into clips like the indexed ones, and each indexed clip is compared with the most similar
        of these. The query's own clips are marked, or left out.
        """
        path = os.path.abspath(video)
        own = [each for each in self.videos if os.path.realpath(each.path) == os.path.realpath(path)]
        if own and own[0].state == state_of(path):
            query = own[0]
        else:
            [(_, made)] = embed([path], self.settings, self.encoders)
            if isinstance(made, str):
                raise OptionError(f"{path} cannot be used as a query: {made}")
            query = Video(path, state_of(path), *made)
        pieces, rows = self._unit(query.features), self._rows
        sims, nearest = faiss.knn(rows, pieces, 1, metric=faiss.METRIC_INNER_PRODUCT)  # of each clip: (N, 1), (N, 1)
        clips = [(each, span) for each in self.videos for span in each.seconds.tolist()]
        order = [row for row in np.argsort(-sims[:, 0], kind="stable") if not (exclude_self and clips[row][0] in own)]
        hits = []
        for rank, row in enumerate(order[:k], start=1):
            (found, (start, end)), piece = clips[row], nearest[row, 0]
            query_start, query_end = query.seconds[piece].tolist()
            parts = (pieces[piece] * rows[row]).reshape(len(self.settings.encoders), -1).sum(axis=1).tolist()
            by_stream = {spec.view: part for spec, part in zip(self.settings.encoders, parts, strict=True)}
            hits.append(Hit(rank, sum(parts), by_stream, found.path, self._name(found.path), start, end, query_start,
                            query_end, found in own))
        notes = [*self._constant(), *self._meaning(), *(self.checks or [])]
        return Answer(path, len(query.seconds), hits, self.about, notes)

    def export(self, path: str | Path) -> None:
        """Write an npz of N clips: file (N,) str, seconds (N, 2) float64, and raw feature (N, S * F) float32."""
        arrays = {"file": np.array([video.path for video in self.videos for _ in video.seconds]),
                  "seconds": self._all("seconds").numpy(), "feature": self._all("features").numpy()}
        with atomic_write(Path(path)) as file, ZipFile(file, "w") as archive:
            for name, array in arrays.items():  # np.savez takes none with the name "file"
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, array, allow_pickle=False)

    def _meaning(self) -> list[Note]:
        """Give similarities a scale: those of random pairs of clips of different videos."""
        owners = np.repeat(np.arange(len(self.videos)), [len(video.seconds) for video in self.videos])
        one, two = np.random.default_rng(0).integers(len(owners), size=(2, PAIRS))
        one, two = (rows[owners[one] != owners[two]] for rows in (one, two))
        if not len(one):
            return []
        middle, high = np.percentile((self._rows[one] * self._rows[two]).sum(axis=1), [50, 99])
        most = len(self.settings.encoders)
        return [(f"similarity is the cosine of centred features, from {-most} to {most}: half of all random pairs of "
                 f"this index are above {middle:.2f}, and one in a hundred is above {high:.2f}", False)]

    def _constant(self) -> list[Note]:
        """Warn of collapsed encoders, which give every clip the same feature."""
        rows = self._all("features").unflatten(1, (len(self.settings.encoders), -1))
        away = (rows - rows.mean(dim=0)).norm(dim=2).mean(dim=0)  # of each encoder
        same = (away <= SAME * rows.norm(dim=2).mean(dim=0)).tolist() if len(self) > 1 else []
        return [(f"the {spec.view} encoder gives every clip the same feature, so its similarities are noise: train it "
                 "longer, or take published weights", True) for spec, one in zip(
                     self.settings.encoders, same, strict=False) if one]

    def _name(self, path: str) -> str:
        """Return a path relative to the parent of the innermost of the places that hold it."""
        holding = [place for place in self.places if Path(path).is_relative_to(place)]
        return os.path.relpath(path, os.path.dirname(max(holding, key=len)))

    @cached_property
    def encoders(self) -> list[Encoder]:
        """The encoders, loaded at their first use."""
        for spec in self.settings.encoders:
            if not os.path.isfile(spec.path) or fingerprint(spec.path) != spec.sha256:
                raise CheckpointError(f"{spec.path} is gone, or is not the checkpoint that the index was made with "
                                      f"(sha256 {spec.sha256[:12]}...): if it has moved, give its new place to index")
        return [load_encoder(spec.path, self.batch_size, net=spec.net, seq_len=spec.seq_len, ds=spec.ds,
                             img_dim=spec.img_dim) for spec in self.settings.encoders]

    def _all(self, what: str) -> Tensor:
        return torch.cat([getattr(video, what) for video in self.videos])

    @cached_property
    def _rows(self) -> np.ndarray:
        return self._unit(self._all("features"))

    def _unit(self, features: Tensor) -> np.ndarray:
        centre = self._all("features").mean(dim=0) if len(self) > 1 else 0.0  # a single clip would be its own mean
        rows = (features - centre).unflatten(1, (len(self.settings.encoders), -1))
        return F.normalize(rows, dim=2).flatten(1).numpy()
