"""Write the split folder of a dataset: ClassInd.txt, csv lists with frame counts, video_source.json.

    python process_data/src/write_csv.py --name ucf101 --data data/UCF101/ucf101_frame.lmdb
    python process_data/src/write_csv.py --name hmdb51 --data data/HMDB51/hmdb51_frame.lmdb --splits testTrainMulti_7030
    python process_data/src/write_csv.py --name k400 --splits kinetics400_lists \\
        --data data/K400/k400_frame_train.lmdb data/K400/k400_frame_val.lmdb
    python process_data/src/write_csv.py --name mine --data data/mine/mine_frame.lmdb

--data is what holds the RGB frames: LMDBs, or a folder of Class/video/image_00001.jpg, ... A dataset of your own is
split by its official lists (--splits), else by source group (_gNN), else at random.
"""

import sys
from collections.abc import Iterable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from process_data.src.common import require_writable
from process_data.src.frame_folder import find_folders, frame_files
from process_data.src.lmdb_file import frame_counts
from process_data.src.split_folder import (
    SHIPPED,
    check_name,
    check_rows,
    class_list,
    k400_files,
    split_files,
    write_files,
)
from process_data.src.splits import add_split_options, plan_splits, videos_of, warn_untested
from utils.console import say
from utils.errors import OptionError
from utils.launch import run
from utils.parser import Parser


def count_frames(data: Iterable[Path]) -> dict[str, int]:
    """Count the RGB frames of each video of LMDBs or frame folders: {"Class/video": frames}, sorted by name."""
    lengths: dict[str, int] = {}
    for path in data:
        if path.is_dir() and not (path / "data.mdb").is_file():
            lengths |= {name: len(frame_files(folder, "image")[0]) for name, folder in find_folders(path).items()}
        else:
            lengths |= frame_counts(path)
    return dict(sorted(lengths.items()))


def make_parser() -> Parser:
    """Return the parser of the options."""
    parser = Parser(__doc__)
    add = parser.topic("data")
    add("--name", required=True, help="name of the dataset, as in --dataset")
    add("--data", type=Path, nargs="+", required=True, help="its RGB LMDBs, or its folder of frames")
    add("--splits", type=Path, metavar="FOLDER", help="folder of official lists (default: none, by source group, else "
        "random)")
    add_split_options(parser)
    add = parser.topic("output")
    add("--split_root", type=Path, default=SHIPPED, metavar="FOLDER", help="where split folders lie (default: "
        "process_data/data/ of the repository)")
    add("--overwrite", action="store_true", help="replace files of other content")
    return parser


def main() -> None:
    """Write a dataset's split folder."""
    options = make_parser().parse_args()
    check_name(options.name)
    folder = options.split_root / options.name
    require_writable(folder / "ClassInd.txt")
    lengths = count_frames(options.data)
    if options.name == "k400":
        if options.splits is None or not options.splits.is_dir():
            raise OptionError("K400's splits come from its lists: --splits is the folder of train.csv and val.csv")
        files = k400_files(options.splits, lengths)
    else:
        splits = plan_splits(options.name, lengths, options.splits, options.seed, options.allow_missing,
                             options.num_splits)
        classes = class_list(options.name, options.split_root, options.splits, videos_of(splits), options.overwrite)
        files = split_files(classes, splits, lengths)
        warn_untested(splits)
    write_files(folder, files, options.overwrite)
    for name, rows in check_rows(folder, lengths).items():
        say(f"{folder / name}: {rows} videos")


if __name__ == "__main__":
    run(main)
