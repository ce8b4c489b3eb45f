"""Write one HTML page about a run: options, curves, results, galleries, confusion matrix and a map of the features.

    python -m tools.report ckpt/log-pretrain/RUN
    python -m tools.report ckpt/log-pretrain/RUN --against ckpt/log-pretrain/ANOTHER_RUN --out page.html

RUN may also be the folder of a linear probe or a finetuning (log-eval-PREFIX/RUN), or a folder below a run whose
evaluations to show (RUN/model/feature). The page says what is missing, and why. See docs/report.md.
"""

from collections.abc import Sequence
from pathlib import Path

from engine.options import positive_int, whole_number
from tools.report.page import Report
from tools.report.run_reader import read_run
from utils import launch
from utils.console import inline, say, warn
from utils.errors import OptionError
from utils.parser import Parser


def make_parser() -> Parser:
    """Build the option parser."""
    parser = Parser(prog="python -m tools.report", description=__doc__)
    parser.add_argument("run", metavar="RUN_DIR", help="the run's folder, or one below it whose evaluations to show")
    add = parser.topic("data")
    add("--data_root", metavar="FOLDER", help="folder of the LMDB files (default: the run's)")
    add("--split_root", metavar="FOLDER", help="folder of the splits (default: the run's)")
    add("--dataset", metavar="NAME", help="whose features to show, where there are several (default: the newest)")
    add = parser.topic("output")
    add("--out", metavar="FILE", help="the page (default: RUN_DIR/report.html)")
    add("--against", metavar="RUN_DIR", help="a second run to compare with")
    add("--clips", type=positive_int, default=200, metavar="CLIPS", help="most test clips in the retrieval gallery")
    add("--mining_clips", type=whole_number, default=16, metavar="CLIPS", help="training clips in the mining "
        "gallery; three networks embed each of them (0: no gallery)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Write the page, and say what is in it."""
    args = make_parser().parse_args(argv)
    run, other = read_run(args.run), read_run(args.against) if args.against else None
    out = Path(args.out or Path(args.run) / "report.html")
    if out.is_dir() or not out.parent.is_dir():
        raise OptionError(f"--out {out} is a folder, or in one that is not there: name a file")
    report = Report(run, other, clips=args.clips, mining_clips=args.mining_clips, dataset=args.dataset,
                    data_root=args.data_root, split_root=args.split_root)
    size = report.write(out)
    for warning in dict.fromkeys(report.warnings):
        warn(warning)
    say(inline(f"{out}: {size / 1e6:.1f} MB, {len(report.strips.images)} film strips"))
    made = [section.title.lower() for section in report.sections if section.content]
    say(f"in it: {', '.join(made) or 'nothing but the options'}")
    for section in report.sections:
        if not section.content:
            say(inline(f"not in it: {section.title.lower()}. {section.missing}"))
    say(inline(f"open it in a browser: file://{out.resolve()}"))
    return 0


if __name__ == "__main__":
    launch.run(main)
