"""Search your own videos by example. Needs neither labels nor preparation.

Index all videos in some folders, or update the index, and look a video up in it:

    python -m tools.search index CKPT VIDEO_DIR --out video_index
    python -m tools.search search video_index clip.mp4 -k 10

For programs of your own, `python -m tools.search export video_index clips.npz` writes the features of all clips.

To search by flow as well, give `--two_stream FLOW_CKPT` to `index`; flow is computed on the fly (DIS or TV-L1).
"""

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from backbone.select_backbone import NETWORKS
from engine.device import keep_freed_memory
from engine.options import SECOND_VIEWS, positive_float, positive_int, whole_number
from process_data.src.video_io import METHODS
from tools.search import VideoIndex
from tools.search.clips import ClipSettings, describe
from utils import launch
from utils.console import inline, say, warn
from utils.files import write_json
from utils.parser import Parser


def make_parser() -> Parser:
    """Build the parser; parsed options hold ``run``, the function of the command, which takes the others."""
    parser = Parser(prog="python -m tools.search", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(run: Callable[..., None], about: str, example: str) -> Parser:
        name = run.__name__
        made = commands.add_parser(name, help=about,
                                   description=f"{about}\n\n    python -m tools.search {name} {example}\n")
        made.set_defaults(run=run)
        return made

    made = command(index, "index videos, or update an index", "CKPT VIDEO_DIR --out index")
    made.add_argument("checkpoint", metavar="CKPT", help="checkpoint of a pretraining or a classifier")
    made.add_argument("places", metavar="VIDEO_DIR", nargs="*", help="folders of videos, searched recursively, and "
                      "single files, in addition to those that the index has already")
    add, default, as_trained = made.topic("data"), ClipSettings, "(default: as the checkpoint was trained)"
    add("--short_side", type=whole_number, default=default.short_side, metavar="PIXELS", help="scale larger frames "
        "down to this short side first, as prepare.py does; 0: never")
    add("--clip_seconds", type=positive_float, default=default.clip_seconds, metavar="SECONDS", help="cut longer "
        "videos into clips of this length; a remainder of less than half joins the clip before it")
    add("--flow", choices=METHODS, default=default.flow, help="flow method; use the one the encoder was trained with")
    add = made.topic("method")
    add("--two_stream", default="", metavar="CKPT", help="a second encoder, of flow or residual frames; similarities "
        "are added, as merge_2stream_prob.py does")
    add("--view", choices=["rgb", *SECOND_VIEWS], default="rgb", help="view of CKPT, if the file does not record it")
    add("--net", choices=list(NETWORKS), default=None, help=f"backbone {as_trained}")
    add("--seq_len", type=positive_int, default=None, metavar="FRAMES", help=f"frames of a window {as_trained}")
    add("--ds", type=positive_int, default=None, metavar="FRAMES", help=f"take every ds-th frame {as_trained}")
    add("--img_dim", type=positive_int, default=None, metavar="PIXELS", help=f"side of the input frames {as_trained}")
    add = made.topic("hardware")
    add("--batch_size", type=positive_int, default=VideoIndex.batch_size, metavar="WINDOWS", help="windows in a batch")
    add("-j", "--workers", type=whole_number, default=1, metavar="PROCESSES", help="decoding processes; 0: none")
    made.topic("output")("--out", default="video_index", metavar="FOLDER", help="folder of the index")

    made = command(search, "look a video up in an index", "index clip.mp4 -k 10")
    made.add_argument("index", metavar="INDEX", help="folder of the index")
    made.add_argument("video", metavar="CLIP", help="any video file, also one that is not in the index")
    add = made.topic("output")
    add("-k", type=positive_int, default=10, metavar="CLIPS", help="how many clips to show")
    add("--exclude_self", action="store_true", help="leave out clips of CLIP itself instead of marking them")
    add("--json", default="", metavar="FILE", help="also write the answer as JSON")
    add("--html", default="", metavar="FILE", help="page of the results (default: search.html in INDEX)")

    made = command(export, "write files, seconds and features of all clips as npz", "index clips.npz")
    made.add_argument("index", metavar="INDEX", help="folder of the index")
    made.add_argument("out", metavar="OUT", help="npz of N clips: file (N,), seconds (N, 2), start and end, and "
                      "feature (N, F), those of two encoders concatenated")
    return parser


def index(checkpoint: str, places: Sequence[str], out: str, *, two_stream: str, view: str, short_side: int,
          clip_seconds: float, flow: str, batch_size: int, workers: int, **sizes: Any) -> None:
    keep_freed_memory()
    encoders = tuple(describe(path, view=kind, **sizes)
                     for path, kind in ((checkpoint, view), (two_stream, "flow")) if path)
    settings = ClipSettings(encoders, short_side, clip_seconds, flow)
    VideoIndex.build(settings, places, out, batch_size=batch_size, workers=workers)
    say(inline(f"search it: python -m tools.search search {shlex.quote(out)} CLIP"))


def search(index: str, video: str, k: int, *, exclude_self: bool, json: str, html: str) -> None:
    answer = VideoIndex.open(index).search(video, k, exclude_self=exclude_self)
    say(f"{answer.about}\n\n{answer.table()}\n")
    for text, bad in answer.notes:
        (warn if bad else say)(text)
    if json:
        write_json(Path(json), answer.as_json())
    say(inline(f"page: {answer.gallery(html or Path(index) / 'search.html')}"))


def export(index: str, out: str) -> None:
    found = VideoIndex.open(index)
    found.export(out)
    say(inline(f"{len(found)} clips of {len(found.videos)} videos: {out}"))


def main(argv: Sequence[str] | None = None) -> int:
    given = vars(make_parser().parse_args(argv))
    given.pop("run")(**given)
    return 0


if __name__ == "__main__":
    launch.run(main)
