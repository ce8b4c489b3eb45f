"""Datasets by name: {ucf101,hmdb51,k400,NAME}[-f][-2clip] and {...}-2stream-2clip.

A plain name is RGB, -f flow, -2stream both; -2clip samples two clips a video, for pretraining. NAME is any dataset of
the user's own. Residual frames (`dataset.residual`) can take the place of flow under the same names.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from dataset.clip_sampler import RandomClips, Sampler, Windows
from dataset.lmdb_reader import LmdbReader
from dataset.residual import PairReader, Reader, ResidualReader
from dataset.transforms.presets import Transform
from dataset.video_dataset import VideoDataset
from dataset.video_index import IndexRules, read_classes, read_index
from utils.errors import DataError

ROOT = Path(__file__).resolve().parents[1]
DATA_ROOT, SPLIT_ROOT = ROOT / "data", ROOT / "process_data" / "data"
STREAMS = {"": ("rgb",), "-f": ("flow",), "-2stream": ("rgb", "flow")}
SECOND_VIEWS = ("flow", "residual")
MODES = ("train", "val", "test", "query", "gallery")
NAME = re.compile(r"(?P<base>[A-Za-z0-9][\w.-]*?)(?P<streams>-f|-2stream)?(?P<clips>-2clip)?", flags=re.ASCII)


@dataclass(frozen=True)
class BaseSet:
    """Files of a dataset, with {part} train or test and {split} from 1, and whether Kinetics' rules hold for it."""

    rgb: str  # LMDB below the data root
    flow: str
    csv: str = "{part}_split{split:02d}.csv"
    test_part: str = "test"
    splits: int | None = 3  # None for any number
    kinetics: bool = False


KNOWN = {
    "ucf101": BaseSet("UCF101/ucf101_frame.lmdb", "UCF101/ucf101_tvl1_frame.lmdb"),
    "hmdb51": BaseSet("HMDB51/hmdb51_frame.lmdb", "HMDB51/hmdb51_tvl1_frame.lmdb"),
    "k400": BaseSet("K400/k400_frame_{part}.lmdb", "K400/k400_flow_{part}.lmdb", csv="{part}_split.csv",
                    test_part="val", splits=1, kinetics=True)}


@dataclass(frozen=True)
class DatasetSpec:
    name: str
    base: str  # without suffixes
    streams: tuple[str, ...]  # "rgb", "flow" or both
    clips: int  # sampled per video
    files: BaseSet
    second_view: str = "flow"  # what the stream "flow" is made of

    def part(self, *, train: bool) -> str:
        return "train" if train else self.files.test_part

    def lmdbs(self, data_root: Path, *, train: bool) -> list[Path]:
        """Return the LMDBs that are needed: one per stream, or RGB alone where the second view is made from it."""
        kinds = ("rgb",) if self.second_view == "residual" else self.streams
        return [data_root / getattr(self.files, kind).format(part=self.part(train=train)) for kind in kinds]

    def readers(self, data_root: Path, *, train: bool) -> list[Reader]:
        """Return a reader of each stream; nothing is opened."""
        paths = self.lmdbs(data_root, train=train)
        if self.second_view == "flow":
            return [LmdbReader(path) for path in paths]
        rgb = PairReader(paths[0])
        return [rgb if stream == "rgb" else ResidualReader(rgb) for stream in self.streams]

    def csv(self, split_root: Path, which_split: int, *, train: bool) -> Path:
        """Return the csv list of a split, from 1; DataError if the dataset cannot have such a split."""
        if self.files.splits is not None and not 1 <= which_split <= self.files.splits:
            raise DataError(f"{self.base} has no split {which_split}: use --which_split 1"
                            f"{' to ' + str(self.files.splits) if self.files.splits > 1 else ''}")
        return split_root / self.base / self.files.csv.format(part=self.part(train=train), split=which_split)

    def rules(self) -> IndexRules:
        kinetics = self.files.kinetics
        return IndexRules(drop_unknown_classes=kinetics, source_by_video=kinetics,
                          csv_counts=tuple(stream == "rgb" and not kinetics for stream in self.streams),
                          length="whole" if kinetics else "half")


def parse(name: str, second_view: str = "flow") -> DatasetSpec:
    """Parse a dataset's name; its files need not exist. Raises DataError for an invalid name or second view."""
    found = NAME.fullmatch(name)
    if not found:
        raise DataError(f"{name!r} is no dataset name: it may hold letters, digits, '_', '.' and '-'")
    base, streams, clips = found["base"], found["streams"] or "", 2 if found["clips"] else 1
    if streams == "-2stream" and clips == 1:
        raise DataError(f"there is no dataset {name}: two streams come with two clips, {base}-2stream-2clip")
    if second_view != "flow" and not streams:
        raise DataError(f"--second_view {second_view} has no effect on {name}, which is RGB alone: use {base}-f"
                        f"{'-2clip' * (clips == 2)}, or leave the option out")
    own = BaseSet(f"{base}/{base}_frame.lmdb", f"{base}/{base}_tvl1_frame.lmdb", splits=None)
    return DatasetSpec(name, base, STREAMS[streams], clips, KNOWN.get(base, own), second_view)


def class_names(name: str, split_root: str | os.PathLike | None = None) -> list[str]:
    """Return the classes of a dataset by label, from the repository's own folder unless `split_root` is given."""
    spec = parse(name)
    path = Path(split_root or SPLIT_ROOT) / spec.base / "ClassInd.txt"
    _refuse_absent(spec, path)
    return read_classes(path)


def build(name: str, mode: str, *, transform: Transform, data_root: str | os.PathLike | None = None,
          split_root: str | os.PathLike | None = None, seq_len: int, ds: int, which_split: int = 1,
          seed: int = 0, second_view: str = "flow") -> VideoDataset:
    """Build a dataset by name; clips have `seq_len` frames, every `ds`-th.

    Args:
        mode: "train" (one or two random clips of a training video, new ones each epoch), "val" (a random clip of 30 %
            of the test videos), "test" (all windows of the test videos), "query" (a random clip of a test video, always
            the same) or "gallery" (of a training video).
        data_root, split_root: folders of LMDBs and splits; None for the repository's own.
        second_view: "flow", or "residual" (made from RGB) for "-f" and the second of "-2stream".
    """
    assert mode in MODES, mode
    spec, train = parse(name, second_view), mode in ("train", "gallery")
    data, splits = Path(data_root or DATA_ROOT), Path(split_root or SPLIT_ROOT)
    csv_path = spec.csv(splits, which_split, train=train)
    _refuse_absent(spec, csv_path.parent / "ClassInd.txt", csv_path, *spec.lmdbs(data, train=train))
    readers = spec.readers(data, train=train)
    index = read_index(csv_path, readers, spec.rules(), seq_len=seq_len, ds=ds)
    if mode == "val":
        index = index.validation()
    sampler: Sampler = (Windows(seq_len, ds) if mode == "test" else
                        RandomClips(seq_len, ds, spec.clips, windowed=mode in ("query", "gallery")))
    return VideoDataset(readers, index, sampler, transform, seed=seed, by_epoch=mode == "train")


def _refuse_absent(spec: DatasetSpec, *paths: Path) -> None:
    absent = [str(path) for path in paths if not path.exists()]
    if absent:
        known = "" if spec.base in KNOWN else f" ({spec.base} is not a known dataset, so it is taken as your own)"
        raise DataError(f"{' and '.join(absent)} {'is' if len(absent) == 1 else 'are'} missing{known}: check "
                        "--dataset, --data_root and --split_root, or make the set with process_data/src/prepare.py")
