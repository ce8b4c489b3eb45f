"""What a dataset holds, and whether it can be trusted: counts, lengths, dropped videos and why, classes, groups, leaks
between train and test, damaged frames, and pictures of what the network sees.

    python -m dataset.inspect ucf101
    python -m dataset.inspect mine-2stream-2clip --seq_len 16 --json mine.json --out runs/inspect_mine
    python -m dataset.inspect mine --all --clips 0      # decode every frame, draw nothing

The exit code is 0 where no leak was found, 1 where a video, a group or a source is in both the training and the test
part of a split, and 2 where the dataset cannot be looked at. With --strict it is 3 where there is no leak but something
else to look at. See docs/inspect.md.
"""

import sys

if __package__ != "dataset":  # run as a file, it would stand in for Python's own module `inspect`
    sys.exit("error: run it from the root of the repository as: python -m dataset.inspect NAME")

import os
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

import launch
from dataset import catalog
from dataset.errors import DataError
from eval.report import write_json
from inspection import page, rows, sheets, survey
from inspection.rows import Place
from inspection.store import Sample
from inspection.worries import worries
from utils.console import inline, say
from utils.files import whole_file
from utils.options import ROOT, SECOND_VIEWS, Parser, number, positive_int, seed

LEAK, WORRY = 1, 3  # exit codes; 2 is launch.run's
MOST_CLIPS = 64  # on a picture: more are looked through nowhere


def make_parser() -> Parser:
    """The options."""
    parser = Parser(prog="python -m dataset.inspect", description=__doc__)
    parser.add_argument("dataset", metavar="NAME", help="dataset name, as the scripts' --dataset takes it")
    add = parser.topic("data")
    add("--which_split", type=positive_int, metavar="N", help="look at this split alone (default: at all "
        "that are there)")
    add("--second_view", choices=SECOND_VIEWS, default="flow", help="what the second view is")
    add("--seq_len", type=positive_int, default=32, metavar="FRAMES", help="frames per clip")
    add("--ds", type=positive_int, default=1, metavar="FRAMES", help="take every ds-th frame")
    add("--img_dim", type=number(int, 8), default=128, metavar="PIXELS", help="side of the network's frames in pixels, "
        "in the pictures")
    add("--data_root", type=Path, default=ROOT / "data", metavar="FOLDER", help="folder of the LMDB files (default: "
        "data/ of the repository)")
    add("--split_root", type=Path, default=ROOT / "process_data" / "data", metavar="FOLDER", help="folder of the "
        "splits (default: process_data/data/ of the repository)")
    add = parser.topic("evaluation")
    add("--sample", type=positive_int, default=100, metavar="N", help="decode frames of so many videos of each LMDB")
    add("--frames", type=positive_int, default=8, metavar="N", help="decode so many frames of each of them")
    add("--all", action="store_true", help="decode all frames of all videos, which finds every damaged one")
    add("--seed", type=seed, default=0, help="seed of the sample, of the clips and of their augmentation")
    add("--strict", action="store_true", help="exit code 3 where there is no leak, but something else to look at")
    add = parser.topic("output")
    add("--out", type=Path, metavar="FOLDER", help="folder of the pictures (default: runs/inspect_NAME)")
    add("--clips", type=number(int, 0, MOST_CLIPS), default=4, metavar="N", help="training clips on the pictures, at "
        f"most {MOST_CLIPS}; 0 draws none")
    add("--json", type=Path, metavar="FILE", help="also write all that was found, every name included")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Look at a dataset, say and write what was found; the exit code."""
    args = make_parser().parse_args(argv)
    place = Place(catalog.parse(args.dataset, args.second_view), args.data_root, args.split_root, args.seq_len, args.ds)
    splits = rows.splits_there(place, args.which_split)
    sample = Sample(None, None) if args.all else Sample(args.sample, args.frames, args.seed)
    found = survey.make(place, splits, sample)
    for line in page.lines(found):
        tell(line)
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        write_json(args.json, found.as_json())
    if args.clips:
        draw(args, place, splits[0])
    if found.leaks:
        return LEAK
    return WORRY if args.strict and worries(found) else 0


def draw(args: Namespace, place: Place, which_split: int) -> None:
    """Write the pictures, as far as the dataset can be trained on, and say where they are."""
    folder = args.out or Path("runs", f"inspect_{args.dataset}")
    order = sheets.Order(place, which_split, args.clips, args.img_dim, args.seed)
    for name, make in sheets.SHEETS.items():
        try:
            picture = make(order)
        except DataError as error:
            tell(f"no {name}: {inline(str(error))}")
            continue
        folder.mkdir(parents=True, exist_ok=True)
        with whole_file(folder / name) as file:
            picture.save(file, format="PNG")
        tell(f"drew {folder / name}")


def tell(line: str) -> None:
    """Show a line. Where nobody reads on (`| head`), the rest is still done, and the exit code tells."""
    try:
        say(line)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    launch.run(main)
