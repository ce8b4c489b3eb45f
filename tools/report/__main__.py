"""Write one HTML page about a training, or about a whole run of cotrain.py: verdict, results, curves, galleries, maps.

    python -m tools.report ckpt/log-pretrain/RUN
    python -m tools.report runs/mine                                   # the --out of cotrain.py
    python -m tools.report ckpt/log-pretrain/RUN --against ckpt/log-pretrain/SECOND ckpt/log-pretrain/THIRD

RUN may also be the run folder of a linear probe or a finetuning (log-eval-PREFIX/RUN), or a folder inside a run, to
show only the evaluations there (RUN/model/feature). The page says what is missing, and why. See docs/evaluation.md.
"""

from collections.abc import Sequence
from pathlib import Path

from engine.options import positive_int, whole_number
from tools.report.page import CotrainReport, Report, RunReport
from tools.report.results import LINES
from tools.report.run_reader import read_cotraining, read_run
from utils import launch
from utils.console import inline, say, warn
from utils.errors import OptionError
from utils.parser import Parser


def make_parser() -> Parser:
    """Build the option parser."""
    parser = Parser(prog="python -m tools.report", description=__doc__)
    parser.add_argument("run", metavar="RUN_DIR", help="run folder, or one inside it, to show only its evaluations; or "
                        "the work folder of cotrain.py")
    add = parser.topic("data")
    add("--data_root", metavar="FOLDER", help="folder of the LMDB files (default: the run's)")
    add("--split_root", metavar="FOLDER", help="folder of the splits (default: the run's)")
    add("--dataset", metavar="NAME", help="dataset whose features to show, if there are several (default: the newest)")
    add("--videos", metavar="FOLDER", help="the videos themselves, to play on a click (default: cotrain.py's --videos)")
    add = parser.topic("output")
    add("--out", metavar="FILE", help="the page (default: RUN_DIR/report.html)")
    add("--against", metavar="RUN_DIR", nargs="+", default=[], help="other runs to show beside it, at most five")
    add("--clips", type=positive_int, default=200, metavar="CLIPS", help="maximum of clips in a retrieval gallery")
    add("--mining_clips", type=whole_number, default=16, metavar="CLIPS", help="training clips in the mining "
        "gallery; three networks embed each of them (0: no gallery)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Write the page, and print the verdict and which sections it has."""
    args = make_parser().parse_args(argv)
    out = Path(args.out or Path(args.run) / "report.html")
    if args.out and (out.is_dir() or not out.parent.is_dir()):
        raise OptionError(f"--out {out} is a folder, or its folder does not exist: name a file")
    if len(args.against) >= LINES:
        raise OptionError(f"--against {' '.join(args.against)}: no chart shows more than {LINES} lines, so give "
                          f"{LINES - 1} runs at most")
    names = "clips", "mining_clips", "dataset", "data_root", "split_root", "videos"
    options = {name: getattr(args, name) for name in names} | {"out": out}
    if not (work := read_cotraining(args.run)):
        report: Report = RunReport(read_run(args.run), [read_run(path) for path in args.against], **options)
    elif args.against:
        raise OptionError(f"{args.run} is the work folder of cotrain.py: --against compares run folders, such as "
                          f"{next(iter(work.runs.values())).folder}")
    else:
        report = CotrainReport(work, **options)
    size = report.write(out)
    for warning in report.warnings:
        warn(warning)
    made = [section.title.lower() for section in report.sections if section.content]
    missing = [f"missing: {section.title.lower()}. {section.missing}" for section in report.sections
               if not section.content]
    for line in [*report.findings, f"sections: {', '.join(made) or 'only the options'}", *missing]:
        say(inline(str(line)))
    say(inline(f"{size / 1e6:.1f} MB, open it in a browser: file://{out.resolve()}"))
    return 0


if __name__ == "__main__":
    launch.run(main)
