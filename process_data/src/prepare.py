"""Make everything that a dataset needs from a folder of videos, in one command:

    python process_data/src/prepare.py --videos clips --name mine

From `clips/Class/video.avi` it writes `data/mine/mine_frame.lmdb` and `data/mine/mine_tvl1_frame.lmdb` (RGB and flow),
and `process_data/data/mine/` (class list, splits, video_source.json), and checks them. The dataset is then used as
`--dataset mine`; without flow, `--flow none`, together with `--second_view residual`. No frame files are left. A
stopped run continues where it was; until it is done, finished videos wait under `data/mine/prepare.partial`. Nothing
existing is replaced without --overwrite.
"""

import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from process_data.src.common import (
    add_extraction_options,
    check_extraction_options,
    difference,
    fingerprint,
    process,
    read_settings,
    require_writable,
)
from process_data.src.flow import NO_FLOW, coded_frames
from process_data.src.lmdb_file import check_lmdbs, pack, write_lmdb
from process_data.src.split_folder import SHIPPED, check_name, check_rows, class_list, split_files, write_files
from process_data.src.splits import add_split_options, keep, plan_splits, videos_of, warn_untested
from process_data.src.video_io import VideoError, find_videos, short_name
from utils.console import say
from utils.errors import OptionError
from utils.files import write_bytes, write_json
from utils.launch import run
from utils.parser import Parser

REPOSITORY = Path(__file__).resolve().parents[2]
FOLDERS = {"ucf101": "UCF101", "hmdb51": "HMDB51"}  # of the published datasets, under the data root
MAX_BYTES = 4_000_000_000  # of a video's JPEGs; an LMDB value has less than 4 GiB


@dataclass(frozen=True)
class Layout:
    """The files of a dataset, and those of a run that is not finished."""

    rgb: Path
    flow: Path
    record: Path  # JSON file of the run's settings and finished streams
    work: Path  # folder of the finished videos of an unfinished run
    splits: Path
    streams: tuple[str, ...]  # to be written: "rgb", or "rgb" and "flow"

    @property
    def lmdbs(self) -> list[Path]:
        """The LMDB of each stream."""
        return [self.rgb, self.flow][:len(self.streams)]

    def packed(self, stream: str, name: str) -> Path:
        """Return the path of a video's packed frames in the work folder."""
        return self.work / stream / f"{short_name(name)}.msgpack"

    def read_packed(self, stream: str, name: str) -> bytes:
        """Read a video's packed frames."""
        return self.packed(stream, name).read_bytes()

    def is_done(self, name: str) -> bool:
        """Return whether a video is finished; its last stream is written last."""
        return self.packed(self.streams[-1], name).is_file()


def make_layout(name: str, data_root: Path, split_root: Path, method: str) -> Layout:
    """Lay out a dataset by its name and flow method."""
    home = data_root / FOLDERS.get(name, name)
    return Layout(home / f"{name}_frame.lmdb", home / f"{name}_tvl1_frame.lmdb", home / f"{name}_prepare.json",
                  home / "prepare.partial", split_root / name, ("rgb",) if method == NO_FLOW else ("rgb", "flow"))


def pack_video(video: Path, outputs: Sequence[Path], short_side: int, method: str) -> str:
    """Write the packed frames of a video, and with a second output its flow; return why it is left out, or ""."""
    streams: tuple[list[bytes], list[bytes]] = ([], [])
    size = 0
    try:
        for coded in coded_frames(video, short_side, method):
            for stream, jpeg in zip(streams, coded, strict=True):
                if jpeg is not None:
                    stream.append(jpeg)
                    size += len(jpeg)
            if size > MAX_BYTES:
                return f"its frames take more than {MAX_BYTES / 1e9:g} GB: cut the video into several"
    except VideoError as error:
        return str(error)
    for path, stream in zip(outputs, streams, strict=False):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, pack(stream))
    return ""


def begin(layout: Layout, settings: dict[str, object], overwrite: bool) -> list[str]:
    """Compare with an earlier run, get ready for this one, and return the streams whose LMDB is finished.

    Raises:
        OptionError: files of other settings are in the way; nothing is touched then.
    """
    record = read_settings(layout.record)
    finished = record.get("finished", [])
    changes = difference(record.get("settings", {}), settings)
    if record and not changes and not (overwrite and len(finished) == len(layout.streams)):
        return finished
    existing = [path for path in (layout.rgb, layout.flow, *sorted(layout.splits.glob("*.csv"))) if path.exists()]
    if record and not overwrite:
        raise OptionError(f"{layout.record} was made with other settings: {changes}; use these, or add --overwrite")
    if existing and not overwrite:
        raise OptionError(f"{existing[0]} exists and was not made by this command: add --overwrite to replace it")
    if "flow" not in layout.streams and layout.flow.exists():
        raise OptionError(f"{layout.flow} exists, and with --flow {NO_FLOW} its flow would not fit the new frames: "
                          "remove it, or choose a method with --flow")
    shutil.rmtree(layout.work, ignore_errors=True)
    layout.record.parent.mkdir(parents=True, exist_ok=True)
    write_json(layout.record, {"settings": settings, "finished": []}, indent=1)
    return []


def write_lmdbs(layout: Layout, videos: Mapping[str, Path], *, short_side: int, method: str, workers: int,
                overwrite: bool) -> None:
    """Write the LMDB of each stream; what an earlier run of the same settings has finished is kept."""
    settings: dict[str, object] = {"videos": fingerprint(videos), "flow": method, "short_side": short_side}
    finished = begin(layout, settings, overwrite)
    if not finished:
        jobs = {name: (path, [layout.packed(stream, name) for stream in layout.streams], short_side, method)
                for name, path in videos.items() if not layout.is_done(name)}
        process(pack_video, jobs, videos, workers, "frames" if method == NO_FLOW else "frames and flow")
    done = [name for name in videos if layout.is_done(name)]
    for stream, path in zip(layout.streams, layout.lmdbs, strict=True):
        if stream not in finished:
            write_lmdb(path, done, partial(layout.read_packed, stream))
            finished = [*finished, stream]
            write_json(layout.record, {"settings": settings, "finished": finished}, indent=1)
        shutil.rmtree(layout.work / stream, ignore_errors=True)
    shutil.rmtree(layout.work, ignore_errors=True)


def summarize(layout: Layout, videos: Mapping[str, Path], lengths: Mapping[str, int], rows: Mapping[str, int]) -> None:
    """Print what the dataset holds: of the videos found the lengths in frames, and the number in each csv list."""
    left_out = sorted(set(videos) - set(lengths))
    examples = ", ".join(left_out[:3]) + (", ..." if len(left_out) > 3 else "")
    table = [
        ("videos", f"{len(lengths)}" + (f" ({len(left_out)} left out: {examples})" if left_out else "")),
        ("classes", f"{len({name.split('/')[0] for name in lengths})}"),
        ("frames", f"{sum(lengths.values())} ({min(lengths.values())} to {max(lengths.values())} a video)"),
        *((f"{stream} LMDB", f"{path}  {path.stat().st_size / 1e6:.1f} MB")
          for stream, path in zip(("RGB", "flow"), layout.lmdbs, strict=False)),
        *([] if "flow" in layout.streams else [("flow", "none: train with --second_view residual")]),
        ("splits", f"{layout.splits}"),
        *((f"  {name}", f"{count} videos") for name, count in rows.items()),
        ("check", "LMDBs and splits are complete and fit each other"),
    ]
    for key, value in table:
        say(f"{key:22s} {value}")


def make_parser() -> Parser:
    """Return the parser of the options."""
    parser = Parser(__doc__)
    add = parser.topic("data")
    add("--videos", type=Path, required=True, metavar="FOLDER", help="folder of Class/video files")
    add("--name", required=True, help="name of the dataset, as in --dataset")
    add("--splits", type=Path, metavar="FOLDER", help="folder of official lists (trainlist01.txt, testlist01.txt, "
        "classInd.txt; hmdb51: *_test_split1.txt) (default: none, by source group, else random)")
    add_split_options(parser)
    add = parser.topic("output")
    add("--data_root", type=Path, default=REPOSITORY / "data", metavar="FOLDER", help="where LMDBs go (default: data/ "
        "of the repository)")
    add("--split_root", type=Path, default=SHIPPED, metavar="FOLDER", help="where splits go (default: "
        "process_data/data/ of the repository)")
    add("--overwrite", action="store_true", help="replace what an earlier run has written")
    add_extraction_options(parser)
    return parser


def main() -> None:
    """Prepare a dataset."""
    options = make_parser().parse_args()
    check_extraction_options(options.workers, options.short_side)
    check_name(options.name)
    if options.name == "k400":
        raise OptionError("--name k400: K400 has two LMDBs a stream, make them with extract_ff.py, "
                          "convert_video_to_lmdb.py and write_csv.py")
    layout = make_layout(options.name, options.data_root, options.split_root, options.flow)
    videos = find_videos(options.videos)
    splits = plan_splits(options.name, videos, options.splits, options.seed, options.allow_missing, options.num_splits)
    classes = class_list(options.name, options.split_root, options.splits, videos_of(splits), options.overwrite)
    for path in (*layout.lmdbs, layout.splits / "ClassInd.txt"):
        require_writable(path)
    write_lmdbs(layout, videos, short_side=options.short_side, method=options.flow, workers=options.workers,
                overwrite=options.overwrite)
    lengths = check_lmdbs(*layout.lmdbs)
    splits = keep(splits, lengths)
    write_files(layout.splits, split_files(classes, splits, lengths), options.overwrite)
    warn_untested(splits)
    summarize(layout, videos, lengths, check_rows(layout.splits, lengths))


if __name__ == "__main__":
    run(main)
