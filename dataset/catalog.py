"""Datasets by name: {ucf101,hmdb51,k400,NAME}[-f][-2clip] and {...}-2stream-2clip.

A plain name is RGB, -f flow, -2stream both; -2clip samples two clips a video, for pretraining. NAME is any dataset of
the user's own, see `process_data/src/prepare.py`. What differs between datasets is a row of `KNOWN` or of `MODES`.
Residual frames, see `dataset.residual`, can take the place of flow under the same names.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from dataset.clip_sampler import RandomClips, Sampler, Windows
from dataset.errors import DataError
from dataset.lmdb_reader import LmdbReader
from dataset.residual import PairReader, ResidualReader
from dataset.split_files import read_classes
from dataset.video_dataset import Transform, VideoDataset
from dataset.video_index import IndexRules, read_index

ROOT = Path(__file__).resolve().parents[1]
DATA_ROOT, SPLIT_ROOT = ROOT / "data", ROOT / "process_data" / "data"
STREAMS = {"": ("rgb",), "-f": ("flow",), "-2stream": ("rgb", "flow")}
SECOND_VIEWS = ("flow", "residual")
NAME = re.compile(r"(?P<base>[A-Za-z0-9][\w.-]*?)(?P<streams>-f|-2stream)?(?P<clips>-2clip)?", flags=re.ASCII)


@dataclass(frozen=True)
class BaseSet:
    """What is particular to a dataset; {part} is train or test, {split} 1, 2 or 3.

    Args:
        rgb, flow: LMDBs below the data root. csv: lists in the split folder. test_part: {part} of test videos.
        splits: how many there are, None where any number may be.
        kinetics: rows of unlisted classes are dropped, frame counts are the LMDB's, a video needs a whole clip's frames
            instead of half, and is its own source.
    """

    rgb: str
    flow: str
    csv: str = "{part}_split{split:02d}.csv"
    test_part: str = "test"
    splits: int | None = 3
    kinetics: bool = False


KNOWN = {
    "ucf101": BaseSet("UCF101/ucf101_frame.lmdb", "UCF101/ucf101_tvl1_frame.lmdb"),
    "hmdb51": BaseSet("HMDB51/hmdb51_frame.lmdb", "HMDB51/hmdb51_tvl1_frame.lmdb"),
    "k400": BaseSet("K400/k400_frame_{part}.lmdb", "K400/k400_flow_{part}.lmdb", csv="{part}_split.csv",
                    test_part="val", splits=1, kinetics=True),
}


@dataclass(frozen=True)
class Mode:
    """Which part of a dataset is used, and how.

    Args:
        train: the training videos, or those of the test. windows: all windows, or random clips.
        windowed: frames are decoded once and shared by windows. validation: 30 % of the videos.
        by_epoch: random draws differ between epochs.
    """

    train: bool
    windows: bool = False
    windowed: bool = False
    validation: bool = False
    by_epoch: bool = False


MODES = {
    "train": Mode(train=True, by_epoch=True),
    "val": Mode(train=False, validation=True),
    "test": Mode(train=False, windows=True, windowed=True),
    "query": Mode(train=False, windowed=True),
    "gallery": Mode(train=True, windowed=True),
    "gallery_windows": Mode(train=True, windows=True, windowed=True),
}


@dataclass(frozen=True)
class DatasetSpec:
    """A parsed name.

    Args:
        name: as given. base: the dataset without suffixes. streams: "rgb", "flow" or both. clips: sampled per video.
        files: where they lie. second_view: what the stream "flow" is made of.
    """

    name: str
    base: str
    streams: tuple[str, ...]
    clips: int
    files: BaseSet
    second_view: str = "flow"

    def part(self, *, train: bool) -> str:
        """What a part is called in file names.

        Args:
            train: the training part, or the test part.
        """
        return "train" if train else self.files.test_part

    def lmdbs(self, data_root: Path, *, train: bool) -> list[Path]:
        """The LMDBs that are needed: one of each stream, or of RGB alone where the second view is made from it.

        Args:
            data_root: folder that they lie in. train: see :meth:`part`.
        """
        kinds = ("rgb",) if self.second_view == "residual" else self.streams
        return [data_root / getattr(self.files, kind).format(part=self.part(train=train)) for kind in kinds]

    def readers(self, data_root: Path, *, train: bool) -> list[LmdbReader | ResidualReader]:
        """A reader of each stream; nothing is opened.

        Args:
            data_root, train: see :meth:`lmdbs`.
        """
        paths = self.lmdbs(data_root, train=train)
        if self.second_view == "flow":
            return [LmdbReader(path) for path in paths]
        rgb = PairReader(paths[0])
        return [rgb if stream == "rgb" else ResidualReader(rgb) for stream in self.streams]

    def csv(self, split_root: Path, which_split: int, *, train: bool) -> Path:
        """The list of a split.

        Args:
            split_root: folder of the splits. which_split: number from 1. train: see :meth:`part`.

        Raises:
            DataError: the dataset cannot have such a split.
        """
        if self.files.splits is not None and not 1 <= which_split <= self.files.splits:
            raise DataError(f"{self.base} has no split {which_split}: take --which_split 1"
                            f"{' to ' + str(self.files.splits) if self.files.splits > 1 else ''}")
        return split_root / self.base / self.files.csv.format(part=self.part(train=train), split=which_split)

    def rules(self) -> IndexRules:
        """How the rows of the list are read."""
        kinetics = self.files.kinetics
        return IndexRules(drop_unknown_classes=kinetics, source_by_video=kinetics,
                          csv_counts=tuple(stream == "rgb" and not kinetics for stream in self.streams),
                          length="whole" if kinetics else "half")


def parse(name: str, second_view: str = "flow") -> DatasetSpec:
    """What a dataset's name stands for; whether its files exist is not looked at.

    Args:
        name: see the module. second_view: "flow" or "residual".

    Raises:
        DataError: no such name can be, or its dataset has no second view to choose.
    """
    found = NAME.fullmatch(name)
    if not found:
        raise DataError(f"{name!r} is no dataset name: it may hold letters, digits, '_', '.' and '-'")
    base, streams, clips = found["base"], found["streams"] or "", 2 if found["clips"] else 1
    if streams == "-2stream" and clips == 1:
        raise DataError(f"there is no dataset {name}: two streams come with two clips, {base}-2stream-2clip")
    if second_view not in SECOND_VIEWS:
        raise DataError(f"there is no second view {second_view!r}: take {' or '.join(SECOND_VIEWS)}")
    if second_view != "flow" and not streams:
        others = f"{base}-f-2clip or {base}-2stream-2clip" if clips == 2 else f"{base}-f"
        raise DataError(f"--second_view {second_view} has no effect on {name}, which is RGB alone: take {others}, or "
                        "leave it out")
    own = BaseSet(f"{base}/{base}_frame.lmdb", f"{base}/{base}_tvl1_frame.lmdb", splits=None)
    return DatasetSpec(name, base, STREAMS[streams], clips, KNOWN.get(base, own), second_view)


def class_names(name: str, split_root: str | os.PathLike | None = None) -> list[str]:
    """The classes of a dataset, by label.

    Args:
        name: see the module. split_root: None for the repository's own folder.

    Raises:
        DataError: it has no class list, or the list is damaged.
    """
    spec = parse(name)
    root = Path(split_root or SPLIT_ROOT)
    _refuse_absent(spec, root / spec.base / "ClassInd.txt")
    return read_classes(root / spec.base / "ClassInd.txt")


def build(name: str, mode: str, *, transform: Transform, data_root: str | os.PathLike | None = None,
          split_root: str | os.PathLike | None = None, seq_len: int, ds: int, which_split: int = 1,
          seed: int = 0, second_view: str = "flow") -> VideoDataset:
    """A dataset by name.

    Args:
        name: see the module. mode: "train" (one or two random clips of a training video, new ones each epoch), "val"
            (a random clip of 30 % of the test videos), "test" (all windows of the test videos), "query" (a random clip
            of a test video, always the same), "gallery" (of a training video) or "gallery_windows" (all windows of the
            training videos).
        transform: see `video_dataset.Transform`. data_root, split_root: None for the repository's own folders.
        seq_len: frames of a clip. ds: every how many frames. which_split: of several lists. seed: of all draws.
        second_view: what "-f", and the second of "-2stream", is: "flow", or "residual", for which RGB is enough.

    Raises:
        DataError: no such dataset or mode, or files of it are missing, damaged, or do not belong together.
    """
    if mode not in MODES:
        raise DataError(f"there is no mode {mode!r}: take one of {', '.join(MODES)}")
    spec, how = parse(name, second_view), MODES[mode]
    data, splits = Path(data_root or DATA_ROOT), Path(split_root or SPLIT_ROOT)
    csv_path = spec.csv(splits, which_split, train=how.train)
    _refuse_absent(spec, csv_path.parent / "ClassInd.txt", csv_path, *spec.lmdbs(data, train=how.train))
    readers = spec.readers(data, train=how.train)
    index = read_index(csv_path, readers, spec.rules(), seq_len=seq_len, ds=ds)
    if how.validation:
        index = index.validation()
    sampler: Sampler = (Windows(seq_len, ds) if how.windows
                        else RandomClips(seq_len, ds, spec.clips, windowed=how.windowed))
    return VideoDataset(readers, index, sampler, transform, seed=seed, by_epoch=how.by_epoch)


def _refuse_absent(spec: DatasetSpec, *paths: Path) -> None:
    absent = [str(path) for path in paths if not path.exists()]
    if absent:
        known = "" if spec.base in KNOWN else f" (not one of {', '.join(KNOWN)}, so a set of your own)"
        verb = "is" if len(absent) == 1 else "are"
        raise DataError(f"dataset {spec.name}{known} needs {', '.join(absent)}, which {verb} not there: check the "
                        "name, --data_root and --split_root, or make the set with "
                        "process_data/src/prepare.py")
