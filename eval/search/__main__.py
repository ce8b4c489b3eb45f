"""Search your own videos by example, without labels and without preparing them.

Make an index of all videos in some folders, or bring it up to date, and look a video up in it:

    python -m eval.search index CKPT VIDEO_DIR --out video_index
    python -m eval.search search video_index clip.mp4 -k 10

With flow beside RGB, `--two_stream FLOW_CKPT` with the first; flow is computed on the way, DIS or TV-L1. How exact and
how fast a graph (HNSW) is on made-up features, before there are so many videos:

    python -m eval.search recall --clips 100000
"""

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

import launch
from eval.report import write_json
from eval.search.index import VideoIndex
from eval.search.made_up import report_recall
from eval.search.plan import Settings
from process_data.src.flow import METHODS
from utils.console import inline, say
from utils.memory import keep_freed_memory
from utils.options import SECOND_VIEWS, Parser, positive_float, positive_int, whole_number


def parse(argv: Sequence[str] | None) -> Namespace:
    """Parse the command line; `args.run` is the function of the command."""
    parser = Parser(description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_index(commands.add_parser("index", help="make an index, or bring it up to date"))
    _add_search(commands.add_parser("search", help="look a video up"))
    recall = commands.add_parser("recall", help="how exact a graph is, on made-up features")
    recall.add_argument("--clips", type=positive_int, default=100_000, help="how many (default 100000)")
    recall.add_argument("--width", type=positive_int, default=1024, help="numbers of a feature (default 1024)")
    recall.set_defaults(run=report_recall)
    return parser.parse_args(argv)


def _add_index(parser: Parser) -> None:
    add = parser.add_argument
    add("checkpoint", metavar="CKPT", help="of pretraining or of a classifier")
    add("places", metavar="VIDEO_DIR", nargs="*", help="folders of videos, with all folders below, and single files; "
        "those that the index has already need not be named")
    add("--out", default="video_index", metavar="INDEX", help="folder of the index (default video_index)")
    add("--two_stream", default="", metavar="CKPT", help="a second encoder, of flow or residual frames; similarities "
        "are added, as merge_2stream_prob.py does")
    add("--view", choices=["rgb", *SECOND_VIEWS], default="", help="what CKPT was trained on, where the file does not "
        "say (default rgb)")
    add("--second_view", choices=["rgb", *SECOND_VIEWS], default="", help="the same of --two_stream (default flow)")
    for name, kind, text in (("net", str, "backbone"), ("seq_len", positive_int, "frames of a window"),
                             ("ds", positive_int, "every how many frames"), ("img_dim", positive_int, "pixels")):
        add(f"--{name}", type=kind, default=None, help=f"{text} (default: what the checkpoint was trained with)")
    add("--short_side", type=whole_number, default=None, help="larger frames are first scaled down to this short "
        "side, pixels, as prepare.py does (default 240; 0: never)")
    add("--clip_seconds", type=positive_float, default=None, help="longer videos are cut into clips of this length "
        "(default 10); a rest of less than half joins the one before")
    add("--flow", choices=METHODS, default=None, help="method of flow, that of the training if possible (default dis)")
    add("--batch_size", type=positive_int, default=32, help="windows in a batch")
    add("-j", "--workers", type=whole_number, default=1, help="processes that decode; 0: decode in this one")
    add("--hnsw_from", type=positive_int, default=Settings.hnsw_from, metavar="CLIPS", help="from so many clips on the "
        "search is by a graph (HNSW), which may miss a neighbour (default 100000)")
    add("--forget", nargs="+", default=[], metavar="DIR", help="folders whose videos are dropped from the index")
    parser.set_defaults(run=index)


def _add_search(parser: Parser) -> None:
    add = parser.add_argument
    add("index", metavar="INDEX", help="folder of the index")
    add("video", metavar="CLIP", help="any video file, also one that is not in the index")
    add("-k", type=positive_int, default=10, help="how many clips (default 10)")
    add("--exclude_self", action="store_true", help="leave the clips of CLIP itself out; else they are marked")
    add("--json", default="", metavar="FILE", help="also write the answer as JSON")
    add("--html", default="", metavar="FILE", help="where the gallery goes (default: search.html in INDEX)")
    add("--checkpoint", nargs="+", default=[], metavar="CKPT", help="where the checkpoints are, if they have moved")
    parser.set_defaults(run=search)


def index(args: Namespace) -> None:
    """Make or update an index."""
    given = {name: getattr(args, name) for name in Settings.__dataclass_fields__}
    keep_freed_memory()
    VideoIndex.build(args.checkpoint, args.places, args.out, Settings(**given | {"forget": tuple(args.forget)}))


def search(args: Namespace) -> None:
    """Look one video up."""
    answer = VideoIndex.open(args.index, args.checkpoint).search(args.video, args.k, exclude_self=args.exclude_self)
    say(f"{answer.about}\n\n{answer.table()}\n")
    if args.json:
        write_json(Path(args.json), answer.as_json())
    page = answer.gallery(args.html or Path(args.index) / "search.html")
    say(inline(f"gallery: {page}"))


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command."""
    args = parse(argv)
    args.run(args)
    return 0


if __name__ == "__main__":
    launch.run(main)
