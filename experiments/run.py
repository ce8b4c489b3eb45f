"""The experiment: does cascade positive retrieval work, on a rendered set whose classes are motions and on real clips?

    python -m experiments.run --grid reduced             # 41 minutes on 2 CPU cores
    python -m experiments.run --grid full                # a night
    python -m experiments.run --grid reduced --validation --change lr=1e-3 methods=infonce,coclr

Renders and prepares the sets, trains every method of the grid with every seed, evaluates, and writes
`experiments/results/GRID.json`: exact commands, all measures, means and standard deviations over seeds.
`python -m experiments.report` makes tables and figures of it. Every step is a command of the project; what is done
already is skipped, so that a stopped experiment goes on by the same command.

With --validation nothing is tested on test groups: three training groups are held out and take their place. Settings
are tried there, with --change.
"""

import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
from argparse import Namespace
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

import launch
from cotrain_plan import ROOT
from dataset import catalog
from eval.report import write_json
from experiments import records, report, results, video_sets
from experiments.plan import SeedPlan
from experiments.settings import GRIDS, Grid, changed
from utils.console import say
from utils.errors import OptionError, TrainingError
from utils.options import positive_int, seed
from utils.parser import Parser
from utils.pipeline import Runner, as_script
from utils.stop import EXIT_CODE, StopRequested, end_with_parent

SETS = ("rendered", "fights")
FIGHTS = ROOT / "shared" / "data" / "fights"
SO_FAR = "so_far.json"  # in the work folder, the results of a run that was stopped: not in place of whole ones


def make_parser() -> Parser:
    """The options."""
    parser = Parser(__doc__)
    add = parser.topic("data")
    add("--sets", nargs="+", choices=SETS, default=list(SETS), help="video sets")
    add("--fights", type=Path, default=FIGHTS, metavar="FOLDER", help="folder of the real clips, with videos/ and "
        "splits/; where there is none, the rendered set is used alone (default: shared/data/fights)")
    add = parser.topic("method")
    add("--grid", choices=list(GRIDS), default="reduced", help="which methods, and how long")
    add("--change", nargs="+", default=[], metavar="NAME=VALUE", help="other settings, with --validation")
    parser.topic("training")("--seeds", nargs="+", type=seed, metavar="SEED", help="seeds (default: those of the grid)")
    parser.topic("evaluation")("--validation", action="store_true", help="hold out three training groups and test on "
                               "them")
    add = parser.topic("hardware")
    add("--jobs", type=positive_int, default=3, metavar="N", help="sets and seeds trained at a time, each with its "
        "share of the cores (default: 3, since three seeds would leave one of two cores idle at the end)")
    add("--steps_at_once", type=positive_int, default=1, metavar="N", help="steps of a set and seed that run side by "
        "side, where one does not wait for the other: more on many cores or on a GPU, which steps as short as these "
        "leave idle")
    add = parser.topic("output")
    add("--out", type=Path, metavar="FOLDER", help="folder of all that is made (default: experiments/made/GRID)")
    add("--results", type=Path, metavar="FILE", help="file to write (default: experiments/results/GRID.json; with "
        "--validation OUT/validation.json)")
    add("--dry_run", action="store_true", help="print the commands, and run nothing")
    return parser


def parse(argv: Sequence[str] | None = None) -> Namespace:
    """The options, checked."""
    args = make_parser().parse_args(argv)
    if args.change and not args.validation:
        raise OptionError("--change goes with --validation: settings are not chosen by test groups")
    args.out, args.fights = (args.out or ROOT / "experiments" / "made" / args.grid).resolve(), args.fights.resolve()
    return args


def used_sets(args: Namespace) -> list[str]:
    """The sets that there are."""
    names = [name for name in args.sets if name != "fights" or (args.fights / "videos").is_dir()]
    if len(names) < len(args.sets):
        say(f"there are no real clips in {args.fights}: the rendered set is used alone")
    if not names:
        raise OptionError(f"--sets fights: there is no {args.fights / 'videos'}")
    return names


def make_plan(args: Namespace, grid: Grid, name: str, number: int) -> SeedPlan:
    """The steps of a set and seed."""
    part = "validation" if args.validation else "seed"
    return SeedPlan(grid.on(name), name, number, args.out / name / f"{part}{number}",
                    "splits-validation" if args.validation else "splits")


def run_one(plan: SeedPlan, at_once: int = 1) -> None:
    """Run what is left of the steps of a set and seed, so many side by side."""
    with Runner(plan.planner.out).open() as runner:
        records.run(runner, plan.steps, at_once)


def _run_apart(args: Namespace, grid: Grid, name: str, number: int) -> None:
    """In a process of its own: run a set and seed, and stop when the experiment is stopped."""
    end_with_parent(signal.SIGTERM)
    sys.exit(launch.exit_code(lambda: run_one(make_plan(args, grid, name, number), args.steps_at_once)))


def run_all(args: Namespace, grid: Grid, jobs: Sequence[tuple[str, int]]) -> None:
    """Run sets and seeds, several at a time, each in a process of its own with its share of the cores.

    Raises:
        TrainingError: one failed, and the others were stopped. StopRequested: one was told to stop, or this process.
    """
    at_once = args.jobs * args.steps_at_once
    if at_once > 1:
        os.environ["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // at_once))
    if args.jobs == 1:
        for name, number in jobs:
            run_one(make_plan(args, grid, name, number), args.steps_at_once)
        return
    spawn, waiting = multiprocessing.get_context("spawn"), list(jobs)
    running: list[BaseProcess] = []
    before = signal.signal(signal.SIGTERM, _stop)
    try:
        while waiting or running:
            while waiting and len(running) < args.jobs:
                running.append(spawn.Process(target=_run_apart, args=(args, grid, *waiting.pop(0))))
                running[-1].start()
            multiprocessing.connection.wait([job.sentinel for job in running])
            ended = [job for job in running if not job.is_alive()]
            running = [job for job in running if job not in ended]
            for job in ended:
                _check(job.exitcode)
    finally:
        signal.signal(signal.SIGTERM, before)
        for job in running:
            job.terminate()
        for job in running:
            job.join()


def _stop(*_: object) -> None:
    raise StopRequested


def _check(code: int | None) -> None:
    if code == EXIT_CODE:
        raise StopRequested
    if code:
        raise TrainingError("a set and seed failed, see above; once that is mended, the same command goes on")


def show(plan: SeedPlan) -> None:
    """Print the commands of a set and seed."""
    say(as_script(plan.steps, plan.planner.out))


def main(argv: Sequence[str] | None = None) -> int:
    """Make the sets, run the grid, write the results."""
    args = parse(argv)
    grid = changed(GRIDS[args.grid], args.change)
    names, seeds = used_sets(args), args.seeds or grid.seeds
    for name in names:
        for method, why in grid.on(name).skipped.items():
            say(f"{name}: left out, {method}: {why}")
    plans = {name: {number: make_plan(args, grid, name, number) for number in seeds} for name in names}
    if args.dry_run:
        for each in (plan for by_seed in plans.values() for plan in by_seed.values()):
            show(each)
        return 0
    for name in names:
        video_sets.make(name, args.out / name, grid, args.fights)
        if args.validation:
            video_sets.hold_out(args.out / name / "splits" / name, args.out / name / "splits-validation" / name)
    chance = {name: 100 / len(catalog.class_names(name, args.out / name / "splits")) for name in names}
    try:
        run_all(args, grid, [(name, number) for name in names for number in seeds])
    except (StopRequested, TrainingError, KeyboardInterrupt):
        write_json(args.out / SO_FAR, results.collect(grid, plans, chance))
        say(f"the numbers of what is done: {args.out / SO_FAR}")
        raise
    target = args.results or (args.out / "validation.json" if args.validation else
                              ROOT / "experiments" / "results" / f"{args.grid}.json")
    target.parent.mkdir(parents=True, exist_ok=True)
    found = results.collect(grid, plans, chance)
    write_json(target, found)
    for name in names:
        say(f"\n{name}\n{report.text_table(found['sets'][name])}")
    say(f"all numbers: {target}")
    return 0


if __name__ == "__main__":
    launch.run(main)
