"""The experiment: which mining makes better features, on clips whose classes need both views and on real ones?

    python -m experiments.run
    python -m experiments.run --validation --change lr=1e-3 methods=infonce,coclr

Renders and prepares the sets, trains every method of the grid with every seed, evaluates, and writes
`experiments/results/GRID.json`: exact commands, all measures, means and standard deviations over seeds.
`python -m experiments.report` turns it into tables and a figure. Every step is a command of the project. To continue
a stopped experiment, run the same command again: finished steps are skipped. The real clips are used where the
checkout has shared/data/fights.

With --validation, three held-out training groups replace the test groups, so that --change can tune settings.
"""

import shutil
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from dataset import catalog
from dataset.video_index import source_of, video_name
from engine.options import seed
from experiments import report
from experiments.plan import GRIDS, ROOT, Grid, SeedPlan, changed
from experiments.synthetic import CLASSES
from utils import launch
from utils.console import say
from utils.errors import OptionError
from utils.files import write_json, write_text
from utils.parser import Parser
from utils.runner import Runner, Step, as_script

FIGHTS = ROOT / "shared" / "data" / "fights"  # real clips: videos/ and splits/
FIGHTS_SIDE = 96  # pixels: short side of the real videos' frames
HELD_OUT = 3  # groups of each class
RENDERED = ("groups", "clips", "frames", "pace", "swapped")  # settings of the grid that synthetic.py takes


def make_parser() -> Parser:
    parser = Parser(__doc__)
    sets = ["synthetic", "fights"]
    parser.topic("data")("--sets", nargs="+", choices=sets, default=sets if (FIGHTS / "videos").is_dir() else sets[:1],
                         help="video sets (default: all whose videos are there)")
    add = parser.topic("method")
    add("--grid", choices=list(GRIDS), default="headline", help="methods to train, and for how long")
    add("--change", nargs="+", default=[], metavar="NAME=VALUE", help="other settings, with --validation")
    parser.topic("training")("--seeds", nargs="+", type=seed, metavar="SEED", help="seeds (default: those of the grid)")
    parser.topic("evaluation")("--validation", action="store_true", help="hold out three training groups and test on "
                               "them")
    add = parser.topic("output")
    add("--out", type=Path, metavar="FOLDER", help="work folder for all files (default: experiments/made/GRID)")
    add("--results", type=Path, metavar="FILE", help="file to write (default: experiments/results/GRID.json; with "
        "--validation OUT/validation.json)")
    add("--dry_run", action="store_true", help="print the commands without running any")
    return parser


def make_set(name: str, folder: Path, grid: Grid) -> None:
    """Create what is missing of the data/ and splits/ of a set, "synthetic" or "fights", in a folder.

    Raises:
        OptionError: the folder was made with other settings.
    """
    source = ["--videos", str(FIGHTS / "videos"), "--splits", str(FIGHTS / "splits"), "--short_side", str(FIGHTS_SIDE)]
    steps = list[Step]()
    if name == "synthetic":
        source, last = ["--videos", "videos"], list(CLASSES)[-1]
        video = Path(f"videos/{last}/v_{last}_g{grid.groups:02d}_c{grid.clips:02d}.avi")  # written last
        words = [word for option in RENDERED for word in (f"--{option}", str(getattr(grid, option)))]
        script = str(ROOT / "experiments/synthetic.py")
        steps = [Step("render", ("python", script, "--out", "videos", *words), video)]
    steps.append(Step(f"prepare {name}", (
        "python", str(ROOT / "process_data/src/prepare.py"), "--name", name, "--workers", "2", *source, "--flow", "dis",
        "--data_root", "data", "--split_root", "splits"), Path("splits", name, "video_source.json"),
        tuple(step.product for step in steps if step.product), shown=3))
    with Runner(folder).open() as runner:
        runner.run(steps)


def hold_out(splits: Path, target: Path) -> None:
    """Write lists of training videos only: some groups of each class, at most half, become test groups."""
    rows = (splits / "train_split01.csv").read_text(encoding="utf-8").splitlines()
    group_of = {row: source_of(video_name(row.rpartition(",")[0])) for row in rows}  # "Class/v_Class_gNN"
    held = set[str]()
    for _, groups in groupby(sorted({*group_of.values()}), key=lambda group: group.split("/")[0]):
        own = list(groups)
        held.update(own[:min(HELD_OUT, len(own) // 2)])
    target.mkdir(parents=True, exist_ok=True)
    for file in ("ClassInd.txt", "video_source.json"):
        shutil.copy(splits / file, target)
    for part, wanted in (("train", False), ("test", True)):
        kept = [row for row in rows if (group_of[row] in held) == wanted]
        write_text(target / f"{part}_split01.csv", "".join(f"{row}\n" for row in kept))


def main(argv: Sequence[str] | None = None) -> int:
    """Make the sets, run the grid, write the results."""
    args = make_parser().parse_args(argv)
    if args.change and not args.validation:
        raise OptionError("--change needs --validation: settings must not be tuned on the test groups")
    if "fights" in args.sets and not (FIGHTS / "videos").is_dir():
        raise OptionError(f"--sets fights: no clips in {FIGHTS / 'videos'}: put them there, or take --sets synthetic")
    grid, out = changed(GRIDS[args.grid], args.change), (args.out or ROOT / "experiments/made" / args.grid).resolve()
    part, splits, results = ("seed", "splits", ROOT / "experiments/results" / f"{args.grid}.json")
    if args.validation:
        part, splits, results = ("validation", "splits-validation", out / "validation.json")
    results = args.results or results
    plans = {}
    for name in args.sets:
        own = grid.on(name)
        seeds = args.seeds or (*own.seeds, *(() if args.validation else own.more))
        plans[name] = {number: SeedPlan(own.with_seed(number), name, number, out / name / f"{part}{number}", splits)
                       for number in seeds}
    everything = [plan for by_seed in plans.values() for plan in by_seed.values()]
    if args.dry_run:
        for plan in everything:
            say(as_script(plan.steps, plan.out))
        return 0
    for name in args.sets:
        make_set(name, out / name, grid)
        if args.validation:
            hold_out(out / name / "splits" / name, out / name / splits / name)
    for plan in everything:
        with Runner(plan.out).open() as runner:
            runner.run(plan.steps)
    chance = {name: 100 / len(catalog.class_names(name, out / name / "splits")) for name in args.sets}
    found = report.collect(grid, plans, chance)
    results.parent.mkdir(parents=True, exist_ok=True)
    write_json(results, found)
    say(f"\n{report.text(found)}\nall results: {results}")
    return 0


if __name__ == "__main__":
    launch.run(main)
