"""The public face of a search: a folder of videos as an index that any video can be looked up in."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from eval import options
from eval.search import files, store
from eval.search.answer import Answer, Hit
from eval.search.embed import Speed, embed
from eval.search.encoders import Encoders
from eval.search.plan import Plan, Settings, refuse_other_checkpoints
from eval.search.store import Contents
from eval.search.update import describe_streams, update
from utils.errors import OptionError

BATCH_SIZE = 32  # windows of a query in a batch


class VideoIndex:
    """Clips of many videos, and the encoders that made their features; get one by :meth:`build` or :meth:`open`.

        from eval.search import VideoIndex
        index = VideoIndex.build("epoch299.pth.tar", ["videos"], "video_index")
        index.search("clip.mp4", k=10)

    Attributes:
        folder: where it lies.
    """

    def __init__(self, folder: Path, contents: Contents, encoders: Encoders | None = None) -> None:
        self.folder, self._contents, self._encoders = folder, contents, encoders

    @classmethod
    def build(cls, checkpoint: str | Path, places: Sequence[str | Path], folder: str | Path = "video_index",
              settings: Settings | None = None) -> "VideoIndex":
        """Make an index, or bring the one that is there up to date, and print what was done.

        Only new and changed files are read, by their sizes and times. Clips of files that are gone are dropped. Files
        that cannot be decoded are named and left out until they change. The index that was there stays as it is until
        the new one is complete; a run after an interruption takes up what was done.

        Args:
            checkpoint: a pretraining or classifier's file. places: folders, searched with all below, and files; those
            that the index is of already may be left out. folder: of the index.

        Raises:
            OptionError: a place is not there, the settings cannot be or are not those of the index, or there is no
                video that can be used. CheckpointError: the checkpoint or the index is damaged, or they do not belong
                together. TrainingError: a loader process was lost.
        """
        contents, encoders = update(os.fspath(checkpoint), [os.fspath(place) for place in places], Path(folder),
                                    settings or Settings())
        return cls(Path(folder), contents, encoders)

    @classmethod
    def open(cls, folder: str | Path, checkpoints: Sequence[str | Path] = ()) -> "VideoIndex":
        """An index that is there.

        Args:
            checkpoints: where they are now, if they have moved; as many as the index has streams.

        Raises:
            OptionError: there is no index, or another number of streams. CheckpointError: the index is damaged.
        """
        contents = store.read(Path(folder))
        if checkpoints and len(checkpoints) != len(contents.plan.checkpoints):
            raise OptionError(f"the index is of {len(contents.plan.checkpoints)} streams: name as many checkpoints")
        if checkpoints:
            moved = Plan(contents.plan.made_from, [os.path.abspath(path) for path in checkpoints])
            contents = replace(contents, plan=moved)
        return cls(Path(folder), contents)

    def __len__(self) -> int:
        """How many clips there are."""
        return self._contents.searched.rows.clips

    def __repr__(self) -> str:
        return f"VideoIndex({os.fspath(self.folder)!r}: {self.about})"

    @property
    def about(self) -> str:
        """The index in words."""
        kind = "HNSW" if self._contents.searched.nearest.is_graph else "exact"
        exactness = f", {self._contents.exactness}" if self._contents.exactness else ""
        return (f"{len(self)} clips of {len(self._contents.files)} videos, {describe_streams(self._contents.plan)}; "
                f"{kind} search{exactness}")

    @property
    def files(self) -> list[str]:
        """Paths of the videos."""
        return [file.path for file in self._contents.files]

    @property
    def left_out(self) -> dict[str, str]:
        """Paths of the files that cannot be used, and why."""
        return {out.file.path: out.reason for out in self._contents.left_out}

    def search(self, video: str | Path, k: int = 10, *, exclude_self: bool = False) -> Answer:
        """The k clips most similar to any clip of a video, which need not be in the index.

        A video longer than a clip is cut as those of the index are, and each clip of the index is compared with that
        piece of the query which it is most similar to.

        Args:
            exclude_self: leave the video's own clips out, where it is in the index; else they are marked.

        Raises:
            OptionError: the video cannot be decoded, or k is below 1. CheckpointError: the checkpoint is not there any
                more, or is another one.
        """
        if k < 1:
            raise OptionError(f"k is {k}: ask for 1 clip or more")
        path = os.path.abspath(os.fspath(video))
        rows = self._contents.searched.rows
        same = [i for i, file in enumerate(self._contents.files) if files.is_same(file, path)]
        own = np.isin(rows.file_of, same)
        features, seconds = self._features(path, own)
        allowed = rows.alive & ~own if exclude_self else rows.alive
        sims, found = self._contents.searched.nearest.search(features, min(k, len(rows)),
                                                             None if allowed.all() else allowed)
        best: dict[int, tuple[float, int]] = {}  # row -> similarity, and the query's clip
        for clip, pairs in enumerate(zip(sims.tolist(), found.tolist(), strict=True)):
            for sim, row in zip(*pairs, strict=True):
                if row >= 0 and sim > best.get(row, (-np.inf, 0))[0]:
                    best[row] = sim, clip
        order = sorted(best, key=lambda row: (-best[row][0], row))[:k]
        hits = [self._hit(rank, row, best[row], features, seconds, own) for rank, row in enumerate(order, start=1)]
        return Answer(path, len(features), hits, self.about)

    def _features(self, path: str, own: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Features (Q, D) and times (Q, 2) of a query's clips: those of the index if the file is as it was then."""
        rows = self._contents.searched.rows
        if own.any():
            first = rows.file_of == rows.file_of[own][0]  # others are links to the same file
            file = self._contents.files[rows.file_of[own][0]]
            if files.state(file.path)[0] == file:
                return np.asarray(rows.features[first]), rows.seconds[first]
        plan = self._contents.plan
        if self._encoders is None:
            refuse_other_checkpoints(plan)
            self._encoders = Encoders(plan.streams, plan.checkpoints, options.devices(None)[0], BATCH_SIZE)
        [found] = embed([Path(path)], plan.recipe, self._encoders, workers=0, windows=2 * BATCH_SIZE, speed=Speed(),
                        quiet=True)
        if found.wrong:
            raise OptionError(f"{path} cannot be searched for: {found.wrong}")
        return found.features, found.seconds

    def _hit(self, rank: int, row: int, best: tuple[float, int], features: np.ndarray, seconds: np.ndarray,
             own: np.ndarray) -> Hit:
        contents = self._contents
        sim, clip = best
        path = contents.files[contents.searched.rows.file_of[row]].path
        parts = contents.searched.nearest.by_stream(features[clip], np.array([row]))[0]
        by_stream = dict(zip((stream.view for stream in contents.plan.streams), parts.tolist(), strict=True))
        start, end = contents.searched.rows.seconds[row].tolist()
        return Hit(rank, sim, by_stream, path, files.shown_name(path, contents.places), start, end,
                   float(seconds[clip, 0]), float(seconds[clip, 1]), bool(own[row]))
