"""The experiment: does cascade positive retrieval work, on a rendered set whose classes are motions and on real clips?

    python -m experiments.run                            # 41 minutes on 2 CPU cores
    python -m experiments.run --validation --change lr=1e-3 methods=infonce,coclr

Renders and prepares the sets, trains every method of the grid with every seed, evaluates, and writes
`experiments/results/GRID.json`: exact commands, all measures, means and standard deviations over seeds.
`python -m experiments.report` turns it into tables and figures. Every step is a command of the project. To continue
a stopped experiment, run the same command again: finished steps are skipped.

With --validation, three held-out training groups take the place of the test groups. Use it with --change to tune
settings.
"""

import multiprocessing
import os
import re
import shutil
import signal
from argparse import Namespace
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

from dataset import catalog
from engine.options import positive_int, seed
from experiments import report, results
from experiments.plan import ROOT, SeedPlan
from experiments.rendered_scenes import MOTIONS
from experiments.settings import GRIDS, Grid, changed
from utils import launch
from utils.console import say
from utils.errors import OptionError
from utils.files import write_bytes, write_json, write_text
from utils.parser import Parser
from utils.runner import Runner, Step, as_script
from utils.stop import end_with_parent

SETS = ("rendered", "fights")
FIGHTS = ROOT / "shared" / "data" / "fights"
FIGHTS_SIDE = 96  # pixels: short side of the real videos' frames
HELD_OUT = 3  # groups of each class
RENDERED = ("classes", "groups", "clips", "frames", "size", "pace", "spread", "typical", "muted")


def make_parser() -> Parser:
    """Define the options."""
    parser = Parser(__doc__)
    add = parser.topic("data")
    add("--sets", nargs="+", choices=SETS, default=list(SETS), help="video sets")
    add("--fights", type=Path, default=FIGHTS, metavar="FOLDER", help="folder of the real clips, with videos/ and "
        "splits/; without it only the rendered set is used (default: shared/data/fights)")
    add = parser.topic("method")
    add("--grid", choices=list(GRIDS), default="reduced", help="methods to train, and for how long")
    add("--change", nargs="+", default=[], metavar="NAME=VALUE", help="other settings, with --validation")
    parser.topic("training")("--seeds", nargs="+", type=seed, metavar="SEED", help="seeds (default: those of the grid)")
    parser.topic("evaluation")("--validation", action="store_true", help="hold out three training groups and test on "
                               "them")
    parser.topic("hardware")("--jobs", type=positive_int, default=3, metavar="N", help="sets and seeds trained at a "
                             "time, each with its share of the cores (default: 3, since three seeds would leave one of "
                             "two cores idle at the end)")
    add = parser.topic("output")
    add("--out", type=Path, metavar="FOLDER", help="work folder for all files (default: experiments/made/GRID)")
    add("--results", type=Path, metavar="FILE", help="file to write (default: experiments/results/GRID.json; with "
        "--validation OUT/validation.json)")
    add("--dry_run", action="store_true", help="print the commands without running any")
    return parser


def parse(argv: Sequence[str] | None = None) -> Namespace:
    """Read and check the options."""
    args = make_parser().parse_args(argv)
    if args.change and not args.validation:
        raise OptionError("--change needs --validation: settings must not be tuned on the test groups")
    args.out, args.fights = (args.out or ROOT / "experiments" / "made" / args.grid).resolve(), args.fights.resolve()
    default = args.out / "validation.json" if args.validation else ROOT / "experiments/results" / f"{args.grid}.json"
    args.results = args.results or default
    return args


def available(sets: Sequence[str], fights: Path) -> list[str]:
    """Return the sets whose videos exist; OptionError if there are none."""
    names = [name for name in sets if name != "fights" or (fights / "videos").is_dir()]
    if len(names) < len(sets):
        say(f"there are no real clips in {fights}: only the rendered set is used")
    if not names:
        raise OptionError(f"--sets fights: there is no {fights / 'videos'}")
    return names


def make_set(name: str, folder: Path, grid: Grid, fights: Path) -> None:
    """Create what is missing of a set's data/ and splits/ in a folder.

    Args:
        name: "rendered" or "fights".
        fights: folder of the real clips, with videos/ and splits/.

    Raises:
        OptionError: the folder was made with other settings.
    """
    source = ["--videos", str(fights / "videos"), "--splits", str(fights / "splits"), "--short_side", str(FIGHTS_SIDE)]
    steps = list[Step]()
    if name == "rendered":
        source, last = ["--videos", "videos"], list(MOTIONS)[grid.classes - 1]
        video = Path(f"videos/{last}/v_{last}_g{grid.groups:02d}_c{grid.clips:02d}.avi")  # written last
        words = [word for option in RENDERED for word in (f"--{option}", str(getattr(grid, option)))]
        script = str(ROOT / "experiments/rendered_set.py")
        steps = [Step("render", ("python", script, "--out", "videos", *words), video)]
        if not (folder / video).is_file():
            shutil.rmtree(folder / "videos", ignore_errors=True)  # left by a run that was stopped
    steps.append(Step(f"prepare {name}", (
        "python", str(ROOT / "process_data/src/prepare.py"), "--name", name, "--workers", "2", *source, "--flow", "dis",
        "--data_root", "data", "--split_root", "splits"), Path("splits", name, "video_source.json"),
        tuple(step.product for step in steps if step.product), shown=3))
    run_steps(folder, steps)


def hold_out(splits: Path, target: Path, groups: int = HELD_OUT) -> None:
    """Write train and test lists of training videos only: the first groups of each class become test groups.

    Args:
        splits: a set's split folder.
        target: folder for the new lists and copies of the other files.
        groups: groups to hold out per class, at most half of them.

    Raises:
        OptionError: a class has only one training group.
    """
    rows = (splits / "train_split01.csv").read_text(encoding="utf-8").splitlines()
    by_class: dict[str, set[int]] = {}
    for row in rows:
        label, group = _class_and_group(row)
        by_class.setdefault(label, set()).add(group)
    for label, numbers in by_class.items():
        if len(numbers) < 2:
            raise OptionError(f"class {label} has only one training group, so none can be held out: render more")
    held = {(label, number) for label, numbers in by_class.items()
            for number in sorted(numbers)[:min(groups, len(numbers) // 2)]}
    target.mkdir(parents=True, exist_ok=True)
    for file in ("ClassInd.txt", "video_source.json"):
        write_bytes(target / file, (splits / file).read_bytes())
    for part, wanted in (("train", False), ("test", True)):
        kept = [row for row in rows if (_class_and_group(row) in held) == wanted]
        write_text(target / f"{part}_split01.csv", "".join(f"{row}\n" for row in kept))


def _class_and_group(row: str) -> tuple[str, int]:
    """Parse class and group from a row, `Class/v_Class_gNN_cNN,frames`."""
    path = row.rpartition(",")[0].rstrip("/")
    return path.split("/")[-2], int(re.findall(r"_g(\d+)(?:_c\d+)?$", path)[0])


def run_steps(out: Path, steps: Sequence[Step]) -> None:
    """Run the steps that are not done, in a work folder."""
    with Runner(out).open() as runner:
        runner.run(steps)


def run_side_by_side(plans: Sequence[SeedPlan], at_once: int) -> None:
    """Run ``at_once`` sets and seeds at a time, each in a process with its share of the cores.

    After a failure no further one starts, and the running ones finish.
    """
    os.environ["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // at_once))
    with ProcessPoolExecutor(at_once, multiprocessing.get_context("spawn"), end_with_parent, (signal.SIGTERM,)) as pool:
        running = [pool.submit(run_steps, plan.out, plan.steps) for plan in plans]
        try:
            for each in as_completed(running):
                each.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def main(argv: Sequence[str] | None = None) -> int:
    """Make the sets, run the grid, write the results."""
    args = parse(argv)
    grid = changed(GRIDS[args.grid], args.change)
    names, seeds = available(args.sets, args.fights), args.seeds or grid.seeds
    for name in names:
        for method, why in grid.on(name).skipped.items():
            say(f"{name}: skipping {method}: {why}")
    part, splits = ("validation", "splits-validation") if args.validation else ("seed", "splits")
    plans = {name: {number: SeedPlan(grid.on(name), name, number, args.out / name / f"{part}{number}", splits)
                    for number in seeds} for name in names}
    everything = [plan for by_seed in plans.values() for plan in by_seed.values()]
    if args.dry_run:
        for plan in everything:
            say(as_script(plan.steps, plan.out))
        return 0
    for name in names:
        make_set(name, args.out / name, grid, args.fights)
        if args.validation:
            hold_out(args.out / name / "splits" / name, args.out / name / splits / name)
    chance = {name: 100 / len(catalog.class_names(name, args.out / name / "splits")) for name in names}
    if args.jobs == 1 or len(everything) == 1:
        for plan in everything:
            run_steps(plan.out, plan.steps)
    else:
        run_side_by_side(everything, args.jobs)
    found = results.collect(grid, plans, chance)
    args.results.parent.mkdir(parents=True, exist_ok=True)
    write_json(args.results, found)
    for name in names:
        say(f"\n{name}\n{report.text_table(found['sets'][name])}")
    say(f"all results: {args.results}")
    return 0


if __name__ == "__main__":
    launch.run(main)
