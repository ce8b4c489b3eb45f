"""A folder of videos -> everything a data set needs, in one command:

    python process_data/src/prepare.py --videos clips --name mine

From `clips/Class/video.avi` it writes `data/mine/mine_frame.lmdb` and `data/mine/mine_tvl1_frame.lmdb` (RGB and flow),
and `process_data/data/mine/` (class list, splits, video_source.json), and checks them. The set is then used as
`--dataset mine`; without flow, `--flow none`, together with `--second_view residual`. No frame files are left. A
stopped run continues where it was; until it is done, finished videos wait under `data/mine/prepare.partial`. Nothing
existing is replaced without --overwrite.
"""

import argparse
import shutil
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from process_data.src import record
from process_data.src.check_lmdb import check_alone, check_pair, check_rows
from process_data.src.console import say
from process_data.src.errors import PrepareError, VideoError, run
from process_data.src.extract_ff import add_extraction, check_extraction, coded_frames, failure, report, too_few
from process_data.src.files import require_writable, short, write_bytes
from process_data.src.flow import NONE
from process_data.src.lmdb_file import open_lmdb, pack, write_lmdb
from process_data.src.names import below
from process_data.src.options import Parser
from process_data.src.pool import each
from process_data.src.split_folder import check_name, class_list, keep, plan_splits, split_files, write_files
from process_data.src.splits import warn_untested
from process_data.src.video_io import find_videos

REPOSITORY = Path(__file__).resolve().parents[2]
FOLDERS = {"ucf101": "UCF101", "hmdb51": "HMDB51"}  # published data sets' folders under the data root


@dataclass(frozen=True)
class Places:
    """Where the files of a data set lie; `work` holds the videos done by a run that is not finished.

    streams: those to be written, "rgb" alone or "rgb" and "flow".
    """

    rgb: Path
    flow: Path
    record: Path
    work: Path
    splits: Path
    streams: tuple[str, ...]

    @property
    def lmdbs(self) -> list[Path]:
        """The LMDB of each stream."""
        return [getattr(self, stream) for stream in self.streams]

    def packed(self, stream: str, name: str) -> Path:
        """The file of one video's packed frames in the work folder. Raises PrepareError for a name that leads out."""
        place = below(self.work / stream, name)
        return place.with_name(f"{short(place.name)}.msgpack")

    def read(self, stream: str, name: str) -> bytes:
        """One video's packed frames."""
        return self.packed(stream, name).read_bytes()

    def is_done(self, name: str) -> bool:
        """Whether all of a video's packed files are there; that of the last stream is written last."""
        return self.packed(self.streams[-1], name).is_file()


def places(name: str, data_root: Path, split_root: Path, flow: str) -> Places:
    """The places of data set `name` with that method of flow. Raises PrepareError for a name that cannot be one."""
    check_name(name)
    if name == "k400":
        raise PrepareError("--name k400: K400 has two LMDBs a stream, make them with extract_ff.py, "
                           "convert_video_to_lmdb.py and write_csv.py")
    home = data_root / FOLDERS.get(name, name)
    return Places(home / f"{name}_frame.lmdb", home / f"{name}_tvl1_frame.lmdb", home / f"{name}_prepare.json",
                  home / "prepare.partial", split_root / name, ("rgb",) if flow == NONE else ("rgb", "flow"))


def pack_video(video: Path, rgb: Path, flow: Path | None, short_side: int, method: str) -> str:
    """Write the packed RGB and flow frames of one video; returns what is wrong with it, "" for nothing.

    flow: None where the method is "none".
    """
    frames: list[bytes] = []
    flows: list[bytes] = []
    try:
        for frame, motion in coded_frames(video, short_side, method):
            frames.append(frame)
            flows += [] if motion is None else [motion]
    except (cv2.error, VideoError) as error:
        return failure(error, len(frames) + 1)
    wrong = too_few(len(frames))
    if not wrong:
        write_bytes(rgb, pack(frames))
        if flow:
            write_bytes(flow, pack(flows))  # last: where it is, the video is done
    return wrong


def begin(place: Places, settings: dict, overwrite: bool) -> list[str]:
    """Compare with an earlier run and make ready; returns the streams whose LMDB is finished.

    Raises PrepareError, with nothing touched, when something other than a run of these settings has written here.
    """
    earlier = {"settings": {}, "finished": []} | record.read(place.record) if place.record.exists() else {}
    if earlier and not (isinstance(earlier["settings"], dict) and isinstance(earlier["finished"], list)
                        and earlier["finished"] == ["rgb", "flow"][:len(earlier["finished"])]):
        raise PrepareError(f"{place.record} is no record of this command: remove it and run with --overwrite")
    same = bool(earlier) and not record.difference(earlier["settings"], settings)
    if not overwrite:
        if earlier and not same:
            raise PrepareError(f"{place.record} was made with other settings: "
                               f"{record.difference(earlier['settings'], settings)}; use these, or add --overwrite")
        written = [path for path in (place.rgb, place.flow, *sorted(place.splits.glob("*.csv"))) if path.exists()]
        if written and not earlier:
            raise PrepareError(f"{written[0]} exists and is not of a run like this: add --overwrite to replace it")
    if same and (not overwrite or len(earlier["finished"]) < len(place.streams)):
        return earlier["finished"]
    if "flow" not in place.streams and place.flow.exists():
        raise PrepareError(f"{place.flow} is of another run, and --flow {NONE} would leave it beside frames that it is "
                           "not of: remove it, or give its --flow")
    shutil.rmtree(place.work, ignore_errors=True)
    record.write(place.record, {"settings": settings, "finished": []})
    return []


def pack_all(place: Places, videos: dict[str, Path], options: argparse.Namespace) -> None:
    """Pack every video that is not done yet, in parallel, and name those that fail."""
    with_flow = "flow" in place.streams
    todo = {name: (path, place.packed("rgb", name), place.packed("flow", name) if with_flow else None,
                   options.short_side, options.flow) for name, path in videos.items() if not place.is_done(name)}
    if len(todo) < len(videos):
        say(f"{len(videos) - len(todo)} of {len(videos)} videos are done already")
    title = "frames and flow" if with_flow else "frames"
    failed = {name: wrong for name, wrong in each(pack_video, todo, options.workers, title) if wrong}
    report(failed, videos)


def write_streams(place: Places, videos: dict[str, Path], settings: dict, finished: list[str]) -> None:
    """Join the packed videos into an LMDB a stream; a stream's packed files go once its LMDB is complete."""
    done = [name for name in videos if place.is_done(name)]
    for stream in place.streams:
        if stream not in finished:
            write_lmdb(getattr(place, stream), done, partial(place.read, stream))
            finished = [*finished, stream]
            record.write(place.record, {"settings": settings, "finished": finished})
        shutil.rmtree(place.work / stream, ignore_errors=True)
    shutil.rmtree(place.work, ignore_errors=True)


def prepare(options: argparse.Namespace) -> None:
    """The whole way from videos to a checked data set."""
    place = places(options.name, options.data_root, options.split_root, options.flow)
    videos = find_videos(options.videos)
    splits = plan_splits(options.name, videos, options.splits, options.seed)
    classes = class_list(options.name, options.split_root, options.splits, videos, options.overwrite)
    settings = {"videos": record.fingerprint(videos), "flow": options.flow, "short_side": options.short_side}
    for path in (*place.lmdbs, place.splits / "ClassInd.txt"):
        require_writable(path)
    finished = begin(place, settings, options.overwrite)
    if not finished:
        pack_all(place, videos, options)
    if len(finished) < len(place.streams):
        write_streams(place, videos, settings, finished)
    with open_lmdb(place.rgb) as rgb:
        lengths = dict(rgb.lengths)
    splits = keep(splits, lengths)
    write_files(place.splits, split_files(classes, splits, lengths), options.overwrite)
    warn_untested(splits)
    summary(place, videos, check_pair(*place.lmdbs) if "flow" in place.streams else check_alone(place.rgb))


def summary(place: Places, videos: dict[str, Path], lengths: dict[str, int]) -> None:
    """Check the splits and print what there is now."""
    rows = check_rows(place.splits, lengths)
    left_out = sorted(set(videos) - set(lengths))
    frames = sorted(lengths.values())
    table = [
        ("videos", f"{len(lengths)}" + (f" ({len(left_out)} left out: {', '.join(left_out[:3])}"
                                        + (", ...)" if len(left_out) > 3 else ")") if left_out else "")),
        ("classes", f"{len({name.split('/')[0] for name in lengths})}"),
        ("frames", f"{sum(frames)} ({frames[0]} to {frames[-1]} a video)"),
        *((f"{stream.upper() if stream == 'rgb' else stream} LMDB", f"{path}  {path.stat().st_size / 1e6:.1f} MB")
          for stream, path in zip(place.streams, place.lmdbs, strict=True)),
        *([] if "flow" in place.streams else [("flow", "none: train with --second_view residual")]),
        ("splits", f"{place.splits}"),
        *((f"  {name}", f"{count} videos") for name, count in rows.items()),
        ("check", "counts, pictures and split rows hold"),
    ]
    for key, value in table:
        say(f"{key:22s} {value}")


def make_parser() -> Parser:
    """The options."""
    parser = Parser(__doc__)
    add = parser.topic("data")
    add("--videos", type=Path, required=True, metavar="FOLDER", help="folder of Class/video files")
    add("--name", required=True, help="name of the data set, as in --dataset")
    add("--splits", type=Path, metavar="FOLDER", help="folder of official lists (trainlist01.txt, testlist01.txt, "
        "classInd.txt; hmdb51: *_test_split1.txt) (default: none, by source group, else random)")
    add("--seed", type=int, default=0, help="seed of random splits")
    add = parser.topic("output")
    add("--data_root", type=Path, default=REPOSITORY / "data", metavar="FOLDER", help="where LMDBs go (default: data/ "
        "of the repository)")
    add("--split_root", type=Path, default=REPOSITORY / "process_data" / "data", metavar="FOLDER", help="where splits "
        "go (default: process_data/data/ of the repository)")
    add("--overwrite", action="store_true", help="replace what an earlier run has written")
    add_extraction(parser)
    return parser


def main() -> None:
    """Prepare a data set."""
    options = make_parser().parse_args()
    check_extraction(options)
    prepare(options)


if __name__ == "__main__":
    run(main)
