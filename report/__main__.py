"""Write one HTML page about a run: options, curves, results, galleries, confusion matrix and a map of the features.

    python -m report ckpt/log-pretrain/RUN
    python -m report ckpt/log-pretrain/RUN --against ckpt/log-pretrain/ANOTHER_RUN --out page.html

RUN may also be a probe's or finetuning's folder (log-eval-PREFIX/RUN), or a folder below one whose evaluations are
meant (RUN/model/feature). What is missing is said in the page, with the command that makes it. docs/report.md has more.
"""

import time
from collections.abc import Sequence
from pathlib import Path

import launch
from report.page import render
from report.sections import collect
from utils.console import inline, say, warn
from utils.errors import OptionError
from utils.files import replace
from utils.options import Parser, positive_int, whole_number

LARGEST = 15_000_000  # bytes


def make_parser() -> Parser:
    """The options."""
    parser = Parser(prog="python -m report", description=__doc__)
    parser.add_argument("run", metavar="RUN_DIR", help="the run's folder, or one of its evaluations below it")
    add = parser.topic("data")
    add("--data_root", default=None, metavar="FOLDER", help="folder of the LMDB files (default: the run's)")
    add("--split_root", default=None, metavar="FOLDER", help="folder of the splits (default: the run's)")
    add("--dataset", default=None, metavar="NAME", help="whose features to show, where there are several (default: the "
        "newest)")
    add = parser.topic("output")
    add("--out", default=None, metavar="FILE", help="the page (default: RUN_DIR/report.html)")
    add("--against", default=None, metavar="RUN_DIR", help="a second run to compare with")
    add("--clips", type=positive_int, default=1000, metavar="CLIPS", help="test clips in the gallery and the map, at "
        "most")
    add("--mining_clips", type=whole_number, default=64, metavar="CLIPS", help="training clips that the mining gallery "
        "lets mine; three networks embed each of them (0: no mining gallery)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Write the page, and say what is in it."""
    args = make_parser().parse_args(argv)
    began = time.perf_counter()
    out = Path(args.out or Path(args.run) / "report.html")
    if out.is_dir() or not (args.out is None or out.parent.is_dir()):
        raise OptionError(f"--out {out} is {'a folder' if out.is_dir() else 'in a folder that is not there'}: name a "
                          "file")
    report = collect(args)
    page = render(report).encode("utf-8", "backslashreplace")
    replace(out, page)
    for warning in dict.fromkeys(report.warnings):
        warn(warning)
    made = [section.title.lower() for section in report.sections if section.content is not None]
    say(inline(f"{out}: {len(page) / 1e6:.1f} MB, {len(report.store.images)} film strips, in "
               f"{time.perf_counter() - began:.0f} s"))
    say(f"in it: {', '.join(made) or 'nothing but the options'}")
    for section in report.sections:
        if section.content is None:
            say(inline(f"not in it: {section.title.lower()}. {section.missing}"
                       + (f" To make it: {section.command}" if section.command else "")))
    if len(page) > LARGEST:
        warn(f"the page is larger than {LARGEST / 1e6:.0f} MB: take a smaller --clips")
    say(inline(f"open it in a browser: file://{out.resolve()}"))
    return 0


if __name__ == "__main__":
    launch.run(main)
