"""An index of video files: the features of their clips in one file, searched by cosine similarity with faiss.

Features (N, S * F) hold S streams side by side. Each stream is centred by the mean of the index, as retrieval centres
a set by its own, and L2-normalised. The inner product of two rows is then the sum of the streams' similarities, which
is how `merge_2stream_prob.py` fuses them.
"""

import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from zipfile import BadZipFile

import faiss
import numpy as np
import torch
import torch.nn.functional as F

from eval.retrieval import fingerprint
from tools.search.answer import Answer, Hit
from tools.search.clips import ClipSettings, EncoderSpec, State, file_state, find_videos
from tools.search.encoder import Encoder, describe, embed, load_encoder
from utils.console import Progress, inline, one_line, say
from utils.errors import CheckpointError, OptionError
from utils.files import atomic_write, lock, remove_partial

FILE = "index.npz"
SAVE_SECONDS = 120.0  # what a process that is killed loses at most


@dataclass(frozen=True, eq=False)
class Video:
    """A video file as it was read."""

    path: str  # absolute
    state: State  # of the file then
    features: np.ndarray  # of its clips, float32 (n, S * F), as the encoders gave them
    seconds: np.ndarray  # start and end of each clip, float64 (n, 2)


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
    left_out: dict[str, tuple[State, str]]  # path of each file that cannot be used: its state, and why
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
        old = cls.open(folder) if (folder / FILE).is_file() else cls(folder, settings, [], [], {})
        old.settings.require_same(settings)
        files = {video.path for video in old.videos} | old.left_out.keys()
        before = [place for place in old.places if place not in files or os.path.lexists(place)]  # a file may be gone
        all_places = list(dict.fromkeys([*before, *map(os.path.abspath, places)]))
        states = find_videos(all_places)
        kept = [video for video in old.videos if states.get(video.path) == video.state]
        left_out = {path: entry for path, entry in old.left_out.items() if states.get(path) == entry[0]}
        index = cls(folder, settings, all_places, kept.copy(), left_out, batch_size)
        known = {video.path for video in kept} | left_out.keys()
        todo = {path: state for path, state in states.items() if path not in known}
        folder.mkdir(parents=True, exist_ok=True)
        start = time.monotonic()
        with lock(folder, "indexing"):
            remove_partial(folder)
            try:
                if todo:
                    index._read(todo, workers)
            finally:  # an interruption keeps what was embedded
                index.save()
        for path, (_, problem) in sorted(index.left_out.items()):
            say(inline(f"left out {path}: {problem}"))
        if not index.videos:
            raise OptionError(f"{', '.join(all_places) or 'no folder was named'}: no video file there that can be "
                              "used, so there is nothing to search: nothing was written")
        clips, seconds = len(index) - sum(len(video.seconds) for video in kept), time.monotonic() - start
        say(f"{len(index.videos) - len(kept)} files new or changed, {len(kept)} as before, "
            f"{len(old.videos) - len(kept)} changed or gone, {len(index.left_out)} left out")
        say(f"{clips} new clips in {seconds:.1f} s: {clips / seconds:.3g} clips/s" if clips else "no new clips")
        say(f"index of {index.about}")
        return index

    def _read(self, files: dict[str, State], workers: int) -> None:
        saved = time.monotonic()
        with Progress(len(files), "index") as progress:
            for path, found in embed(list(files), self.settings, self.encoders, workers):
                if isinstance(found, str):
                    self.left_out[path] = files[path], found
                else:
                    self.videos.append(Video(path, files[path], *found))
                progress.step()
                if time.monotonic() - saved > SAVE_SECONDS:
                    self.save()
                    saved = time.monotonic()

    def save(self) -> None:
        """Write the index, if anything can be found in it."""
        if not self.videos:
            return
        self.videos.sort(key=lambda video: video.path)
        about = {"settings": asdict(self.settings), "places": self.places, "left_out": self.left_out,
                 "videos": [(video.path, video.state, len(video.seconds)) for video in self.videos]}
        with atomic_write(self.folder / FILE) as file:
            np.savez(file, about=np.array(json.dumps(about)), features=self._all("features"),
                     seconds=self._all("seconds"))

    @classmethod
    def open(cls, folder: str | Path, checkpoints: Sequence[str | Path] = ()) -> "VideoIndex":
        """Open the index of a folder.

        Args:
            checkpoints: where they are now, if they have moved; one a stream.

        Raises:
            OptionError: there is no index, or it has another number of streams.
            CheckpointError: the index is damaged.
        """
        path = Path(folder) / FILE
        if not path.is_file():
            raise OptionError(f"there is no index in {folder}: make one with python -m tools.search index CHECKPOINT "
                              f"VIDEO_DIR --out {folder}")
        try:
            with np.load(path) as arrays:
                about, features, seconds = json.loads(str(arrays["about"])), arrays["features"], arrays["seconds"]
        except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
            raise CheckpointError(f"{path} is damaged ({one_line(str(error))}): remove it, and make the index again"
                                  ) from error
        specs = about["settings"].pop("encoders")
        if checkpoints and len(checkpoints) != len(specs):
            raise OptionError(f"the index has {len(specs)} streams: name as many checkpoints")
        for spec, moved in zip(specs, checkpoints, strict=False):
            spec["path"] = os.path.abspath(moved)
        ends = np.cumsum([clips for *_, clips in about["videos"]])[:-1]
        videos = [Video(path, tuple(state), *rows) for (path, state, _), *rows in zip(
            about["videos"], np.split(features, ends), np.split(seconds, ends), strict=True)]
        left_out = {path: (tuple(state), problem) for path, (state, problem) in about["left_out"].items()}
        settings = ClipSettings(tuple(EncoderSpec(**spec) for spec in specs), **about["settings"])
        return cls(Path(folder), settings, about["places"], videos, left_out)

    def __len__(self) -> int:
        """Return the number of clips."""
        return sum(len(video.seconds) for video in self.videos)

    @property
    def about(self) -> str:
        """Describe the index in words."""
        return f"{len(self)} clips of {len(self.videos)} videos, {' and '.join(map(str, self.settings.encoders))}"

    def search(self, video: str | Path, k: int = 10, *, exclude_self: bool = False) -> Answer:
        """Find the k clips most similar to any clip of a video, which need not be in the index.

        A video longer than a clip is cut as those of the index are, and each clip of the index is compared with the
        piece of the query that is most similar to it.

        Args:
            exclude_self: leave out the video's own clips, where it is in the index; otherwise they are marked.

        Raises:
            OptionError: the video cannot be decoded.
            CheckpointError: the checkpoint is gone, or is another one.
        """
        query, own = self._query(os.path.abspath(video))
        pieces, streams = self._unit(query.features), self.settings.encoders
        count = min(k + exclude_self * sum(len(each.seconds) for each in own), len(self))
        sims, rows = self._nearest.search(pieces, count)  # (Q, count), the best first
        video_of, seconds = [each for each in self.videos for _ in each.seconds], self._all("seconds")
        best: dict[int, int] = {}  # row -> piece of the query that is most similar to it, best first
        for place in np.argsort(-sims, axis=None, kind="stable"):
            best.setdefault(int(rows.flat[place]), int(place) // count)
        found = [row for row in best if not (exclude_self and video_of[row] in own)][:k]
        hits = []
        for rank, row in enumerate(found, start=1):
            parts = (pieces[best[row]] * self._nearest.reconstruct(row)).reshape(len(streams), -1).sum(axis=1)
            by_stream = {spec.view: float(part) for spec, part in zip(streams, parts, strict=True)}
            path, (start, end), (query_start, query_end) = video_of[row].path, seconds[row], query.seconds[best[row]]
            hits.append(Hit(rank, float(parts.sum()), by_stream, path, self._name(path), float(start), float(end),
                            float(query_start), float(query_end), video_of[row] in own))
        return Answer(query.path, len(query.seconds), hits, self.about)

    def _name(self, path: str) -> str:
        """Return a path from the innermost of the places that it lies in, whose own name comes first."""
        holding = [place for place in self.places if Path(path).is_relative_to(place)]
        return os.path.relpath(path, os.path.dirname(max(holding, key=len)))

    def _query(self, path: str) -> tuple[Video, list[Video]]:
        """Return a query's clips, and the videos of the index that are the same file."""
        state, target = file_state(path), os.path.realpath(path)
        own = [video for video in self.videos
               if video.path == path or (video.state == state and os.path.realpath(video.path) == target)]
        if own and own[0].state == state:
            return replace(own[0], path=path), own
        [(_, found)] = embed([path], self.settings, self.encoders)
        if isinstance(found, str):
            raise OptionError(f"{path} cannot be searched for: {found}")
        return Video(path, state, *found), own

    @cached_property
    def encoders(self) -> list[Encoder]:
        """The encoders, loaded at their first use.

        Raises:
            CheckpointError: a checkpoint is gone, or is another one.
        """
        for spec in self.settings.encoders:
            if not os.path.isfile(spec.path) or fingerprint(spec.path) != spec.sha256:
                raise CheckpointError(f"{spec.path} is gone, or is not the checkpoint that the index was made with "
                                      f"(sha256 {spec.sha256[:12]}...): name that one with --checkpoint")
        return [load_encoder(spec, self.batch_size) for spec in self.settings.encoders]

    @cached_property
    def _nearest(self) -> faiss.IndexFlatIP:
        units = self._unit(self._all("features"))
        index = faiss.IndexFlatIP(units.shape[1])
        index.add(units)
        return index

    def _all(self, name: str) -> np.ndarray:
        """Return the features or seconds of all clips."""
        return np.concatenate([getattr(video, name) for video in self.videos])

    @cached_property
    def _centre(self) -> np.ndarray:
        features = self._all("features")
        return features.mean(axis=0) if len(features) > 1 else np.zeros_like(features[0])  # one is its own mean

    def _unit(self, features: np.ndarray) -> np.ndarray:
        """Centre features (N, S * F), and L2-normalise the part of each stream."""
        rows = torch.from_numpy(features - self._centre).unflatten(1, (len(self.settings.encoders), -1))
        return F.normalize(rows, dim=2).flatten(1).numpy()
