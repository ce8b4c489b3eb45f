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

INDEX = """Make an index of videos, or bring the one that is there up to date.

    python -m eval.search index CKPT VIDEO_DIR --out video_index
"""
SEARCH = """Look a video up in an index.

    python -m eval.search search video_index clip.mp4 -k 10
"""
RECALL = """How exact and how fast a graph (HNSW) is on made-up features.

    python -m eval.search recall --clips 100000
"""


def make_parser() -> Parser:
    """The options; of what is parsed, ``run`` is the function of the command."""
    parser = Parser(prog="python -m eval.search", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_index(commands.add_parser("index", description=INDEX, help="make an index, or bring it up to date"))
    _add_search(commands.add_parser("search", description=SEARCH, help="look a video up"))
    recall = commands.add_parser("recall", description=RECALL, help="how exact a graph is, on made-up features")
    add = recall.topic("evaluation")
    add("--clips", type=positive_int, default=100_000, metavar="CLIPS", help="how many clips")
    add("--width", type=positive_int, default=1024, metavar="D", help="numbers of a feature")
    recall.set_defaults(run=report_recall)
    return parser


def _add_index(parser: Parser) -> None:
    parser.add_argument("checkpoint", metavar="CKPT", help="of pretraining or of a classifier")
    parser.add_argument("places", metavar="VIDEO_DIR", nargs="*", help="folders of videos, with all folders below, and "
                        "single files; those that the index has already need not be named")
    add = parser.topic("data")
    add("--short_side", type=whole_number, default=None, metavar="PIXELS", help="larger frames are first scaled down "
        "to this short side, as prepare.py does; 0: never (default: 240)")
    add("--clip_seconds", type=positive_float, default=None, metavar="SECONDS", help="longer videos are cut into clips "
        "of this length; a rest of less than half joins the one before (default: 10)")
    add("--flow", choices=METHODS, default=None, help="method of flow, that of the training if possible (default: dis)")
    add("--forget", nargs="+", default=[], metavar="FOLDER", help="folders whose videos are dropped from the index")
    add = parser.topic("method")
    add("--two_stream", default="", metavar="CKPT", help="a second encoder, of flow or residual frames; similarities "
        "are added, as merge_2stream_prob.py does")
    add("--view", choices=["rgb", *SECOND_VIEWS], default="", help="what CKPT was trained on, where the file does not "
        "say (default: rgb)")
    add("--second_view", choices=["rgb", *SECOND_VIEWS], default="", help="the same of --two_stream (default: flow)")
    for name, kind, unit, text in (("net", str, "NET", "backbone"), ("seq_len", positive_int, "FRAMES", "of a window"),
                                   ("ds", positive_int, "FRAMES", "take every ds-th frame"),
                                   ("img_dim", positive_int, "PIXELS", "side of the input frames")):
        add(f"--{name}", type=kind, default=None, metavar=unit, help=f"{text} (default: as the checkpoint was trained)")
    add("--hnsw_from", type=positive_int, default=Settings.hnsw_from, metavar="CLIPS", help="from so many clips on the "
        "search is by a graph (HNSW), which may miss a neighbour")
    add = parser.topic("hardware")
    add("--batch_size", type=positive_int, default=32, metavar="WINDOWS", help="windows in a batch")
    add("-j", "--workers", type=whole_number, default=1, metavar="PROCESSES", help="processes that decode; 0: decode "
        "in this one")
    parser.topic("output")("--out", default="video_index", metavar="FOLDER", help="folder of the index")
    parser.set_defaults(run=index)


def _add_search(parser: Parser) -> None:
    parser.add_argument("index", metavar="INDEX", help="folder of the index")
    parser.add_argument("video", metavar="CLIP", help="any video file, also one that is not in the index")
    parser.topic("checkpoints")("--checkpoint", nargs="+", default=[], metavar="CKPT", help="where the checkpoints "
                                "are, if they have moved")
    add = parser.topic("output")
    add("-k", type=positive_int, default=10, metavar="CLIPS", help="how many clips to show")
    add("--exclude_self", action="store_true", help="leave the clips of CLIP itself out; else they are marked")
    add("--json", default="", metavar="FILE", help="also write the answer as JSON")
    add("--html", default="", metavar="FILE", help="where the gallery goes (default: search.html in INDEX)")
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
    args = make_parser().parse_args(argv)
    args.run(args)
    return 0


if __name__ == "__main__":
    launch.run(main)
