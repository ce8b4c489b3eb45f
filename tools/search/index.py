"""An index of video files: the features of their clips in one file, searched by cosine similarity with faiss.

Features (N, S * F) hold S streams side by side. Each stream is centred by the mean of the index, as retrieval centres
a set by its own, and L2-normalised. The inner product of two rows is then the sum of the streams' similarities, which
is how `merge_2stream_prob.py` fuses them.
"""

import json
import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from zipfile import BadZipFile

import faiss
import numpy as np
import torch
import torch.nn.functional as F

from eval.retrieval import fingerprint
from process_data.src.video_io import looks_like_video, name_passed_over, walk
from tools.search.answer import Answer, Hit
from tools.search.clips import ClipSettings, Encoder, EncoderSpec, describe, embed, load_encoder
from utils.console import Progress, inline, one_line, say
from utils.errors import CheckpointError, OptionError
from utils.files import atomic_write, lock, remove_partial

FILE = "index.npz"
SAVE_SECONDS = 120.0  # what a process that is killed loses at most
State = tuple[int, int]  # of a file: bytes (-1 if it cannot be read), and time of the last change in ns


@dataclass(frozen=True, eq=False)
class Video:
    """A video file as it was read."""

    path: str  # absolute
    state: State  # of the file then
    features: np.ndarray  # of its clips, float32 (n, S * F), as the encoders gave them
    seconds: np.ndarray  # start and end of each clip, float64 (n, 2)
    problem: str = ""  # why it cannot be used, and so has no clips


@dataclass(eq=False)
class VideoIndex:
    """Clips of many videos, and the encoders that made their features; made by :meth:`build` or :meth:`open`.

        index = VideoIndex.build("epoch299.pth.tar", ["videos"], "video_index")
        index.search("clip.mp4", k=10)
    """

    folder: Path
    settings: ClipSettings
    places: list[str]  # folders and files that the videos come from
    videos: list[Video]  # by path
    batch_size: int = 32  # windows in a batch of the encoders

    @classmethod
    def build(cls, settings: str | Path | ClipSettings, places: Sequence[str | Path],
              folder: str | Path = "video_index", *, batch_size: int = 32, workers: int = 0) -> "VideoIndex":
        """Make an index, or bring the one that is there up to date, and print what was done.

        Only new and changed files are read, by their sizes and times; clips of files that are gone are dropped.

        Args:
            settings: of the clips, or just a checkpoint.
            places: folders, searched with all below, and files; those that the index has already may be left out.
            folder: of the index.
            batch_size: windows in a batch.
            workers: processes that decode; 0 decodes in this one.

        Raises:
            OptionError: a place is not there, no video can be used, or the index was made with something else.
            CheckpointError: the checkpoint or the index is damaged.
        """
        folder = Path(folder)
        settings = settings if isinstance(settings, ClipSettings) else ClipSettings((describe(settings),))
        old = cls.open(folder) if (folder / FILE).is_file() else cls(folder, settings, [], [])
        if str(old.settings) != str(settings):
            raise OptionError(f"the index was made with {old.settings}, not {settings}: give these, or another --out")
        files = {video.path for video in old.videos}
        known = [place for place in old.places if place not in files or os.path.lexists(place)]  # a file may be gone
        found = list(dict.fromkeys([*known, *map(os.path.abspath, places)]))
        states = find_videos(found)
        kept = [video for video in old.videos if states.get(video.path) == video.state]
        index = cls(folder, settings, found, kept.copy(), batch_size)
        folder.mkdir(parents=True, exist_ok=True)
        with lock(folder, "indexing"):
            remove_partial(folder)
            index._read(states, workers)
        for video in index.videos:
            if video.problem:
                say(inline(f"left out {video.path}: {video.problem}"))
        if not len(index):
            raise OptionError(f"{', '.join(found) or 'no folder was named'}: no video file there that can be used, so "
                              "there is nothing to search: nothing was written")
        say(f"{len(index.videos) - len(kept)} files new or changed, {len(kept)} as before\nindex of {index.about}")
        return index

    def _read(self, states: dict[str, State], workers: int) -> None:
        """Read the files that the index does not have yet, and save it; an interruption keeps what was read."""
        todo = sorted(states.keys() - {video.path for video in self.videos})
        before, start = len(self), time.monotonic()
        saved = start
        try:
            with Progress(len(todo), "index") as progress:
                for path, found in embed(todo, self.settings, self.encoders, workers) if todo else ():
                    rows = found if isinstance(found, tuple) else (np.empty((0, 0)), np.empty((0, 2)), found)
                    self.videos.append(Video(path, states[path], *rows))
                    progress.step()
                    if time.monotonic() - saved > SAVE_SECONDS:
                        self.save()
                        saved = time.monotonic()
        finally:
            self.save()
        clips, seconds = len(self) - before, time.monotonic() - start
        say(f"{clips} new clips in {seconds:.1f} s: {clips / seconds:.3g} clips/s" if clips else "no new clips")

    def save(self) -> None:
        """Write the index, if anything can be found in it."""
        if not len(self):
            return
        self.videos.sort(key=lambda video: video.path)
        about = {"settings": asdict(self.settings), "places": self.places,
                 "videos": [(video.path, video.state, video.problem, len(video.seconds)) for video in self.videos]}
        with atomic_write(self.folder / FILE) as file:
            np.savez(file, about=np.array(json.dumps(about)), features=self._all("features"),
                     seconds=self._all("seconds"))

    @classmethod
    def open(cls, folder: str | Path) -> "VideoIndex":
        """Open the index of a folder.

        Raises:
            OptionError: there is no index.
            CheckpointError: the index is damaged.
        """
        path = Path(folder) / FILE
        if not path.is_file():
            raise OptionError(f"there is no index in {folder}: make one with python -m tools.search index CHECKPOINT "
                              f"VIDEO_DIR --out {folder}")
        try:
            with np.load(path) as arrays:
                about, features, seconds = json.loads(str(arrays["about"])), arrays["features"], arrays["seconds"]
            ends = np.cumsum([clips for *_, clips in about["videos"]])[:-1]
            videos = [Video(name, tuple(state), rows, times, problem) for (name, state, problem, _), rows, times in zip(
                about["videos"], np.split(features, ends), np.split(seconds, ends), strict=True)]
        except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
            raise CheckpointError(f"{path} is damaged, or of an earlier version ({one_line(str(error))}): remove it, "
                                  "and make the index again") from error
        specs = tuple(EncoderSpec(**spec) for spec in about["settings"].pop("encoders"))
        return cls(Path(folder), ClipSettings(specs, **about["settings"]), about["places"], videos)

    def __len__(self) -> int:
        """Return the number of clips."""
        return sum(len(video.seconds) for video in self.videos)

    @property
    def about(self) -> str:
        """Describe the index in words."""
        usable = sum(not video.problem for video in self.videos)
        return f"{len(self)} clips of {usable} videos, {' and '.join(map(str, self.settings.encoders))}"

    def search(self, video: str | Path, k: int = 10, *, exclude_self: bool = False) -> Answer:
        """Find the k clips most similar to any clip of a video, which need not be in the index.

        A video longer than a clip is cut as those of the index are, and each clip of the index is compared with the
        clip of the query that is most similar to it.

        Args:
            video: the query.
            k: number of clips.
            exclude_self: leave out the query's own clips, where it is in the index; otherwise they are marked.

        Raises:
            OptionError: the video cannot be decoded.
            CheckpointError: the checkpoint is gone, or is another one.
        """
        path = os.path.abspath(video)
        own = [each for each in self.videos if os.path.realpath(each.path) == os.path.realpath(path)]
        if own and own[0].state == file_state(path) and not own[0].problem:
            query = own[0]
        else:
            [(_, made)] = embed([path], self.settings, self.encoders)
            if isinstance(made, str):
                raise OptionError(f"{path} cannot be searched for: {made}")
            query = Video(path, file_state(path), *made)
        pieces, rows = self._unit(query.features), self._rows
        count = min(k + exclude_self * sum(len(each.seconds) for each in own), len(rows))
        sims, near = faiss.knn(pieces, rows, count, metric=faiss.METRIC_INNER_PRODUCT)  # (Q, count), the best first
        best: dict[int, int] = {}  # row -> clip of the query that is most similar to it; the best row first
        for place in np.argsort(-sims, axis=None, kind="stable"):
            best.setdefault(int(near.flat[place]), int(place) // count)
        videos, seconds = [each for each in self.videos for _ in each.seconds], self._all("seconds")
        found = [row for row in best if not (exclude_self and videos[row] in own)][:k]
        hits = []
        for rank, row in enumerate(found, start=1):
            parts = (pieces[best[row]] * rows[row]).reshape(len(self.settings.encoders), -1).sum(axis=1).tolist()
            by_stream = {spec.view: part for spec, part in zip(self.settings.encoders, parts, strict=True)}
            (start, end), (query_start, query_end) = seconds[row].tolist(), query.seconds[best[row]].tolist()
            hits.append(Hit(rank, sum(parts), by_stream, videos[row].path, self._name(videos[row].path), start, end,
                            query_start, query_end, videos[row] in own))
        return Answer(path, len(query.seconds), hits, self.about)

    def _name(self, path: str) -> str:
        """Return a path from the innermost of the places that it lies in, whose own name comes first."""
        holding = [place for place in self.places if Path(path).is_relative_to(place)]
        return os.path.relpath(path, os.path.dirname(max(holding, key=len)))

    @cached_property
    def encoders(self) -> list[Encoder]:
        """The encoders, loaded at their first use.

        Raises:
            CheckpointError: a checkpoint is gone, or is another one.
        """
        for spec in self.settings.encoders:
            if not os.path.isfile(spec.path) or fingerprint(spec.path) != spec.sha256:
                raise CheckpointError(f"{spec.path} is gone, or is not the checkpoint that the index was made with "
                                      f"(sha256 {spec.sha256[:12]}...): if it has moved, give its new place to index")
        return [load_encoder(spec, self.batch_size) for spec in self.settings.encoders]

    def _all(self, name: str) -> np.ndarray:
        """Return the features or seconds of all clips."""
        return np.concatenate([getattr(video, name) for video in self.videos if not video.problem])

    @cached_property
    def _centre(self) -> np.ndarray:
        features = self._all("features")
        return features.mean(axis=0) if len(features) > 1 else np.zeros_like(features[0])  # one is its own mean

    @cached_property
    def _rows(self) -> np.ndarray:
        return self._unit(self._all("features"))

    def _unit(self, features: np.ndarray) -> np.ndarray:
        """Centre features (N, S * F), and L2-normalise the part of each stream."""
        rows = torch.from_numpy(features - self._centre).unflatten(1, (len(self.settings.encoders), -1))
        return F.normalize(rows, dim=2).flatten(1).numpy()


def find_videos(places: Iterable[str]) -> dict[str, State]:
    """Return the state of each file by path: single files, and the videos in and below folders, but for hidden ones.

    Files that are passed over are named.
    """
    found: set[str] = set()
    others: list[Path] = []
    for place in places:
        if not os.path.lexists(place):
            raise OptionError(f"there is no {place}: check the path and its disk, or make a new index without it")
        if not os.path.isdir(place):
            found.add(place)
            continue
        files = list(walk(Path(place)))
        found.update(str(path) for path in files if looks_like_video(path.name))
        others += [path for path in files if not looks_like_video(path.name)]
    name_passed_over(others)
    return {path: file_state(path) for path in sorted(found)}


def file_state(path: str) -> State:
    """Return what changes when a file does, without reading it."""
    try:
        found = os.stat(path)
    except OSError:
        return -1, 0
    return found.st_size if os.access(path, os.R_OK) else -1, found.st_mtime_ns
