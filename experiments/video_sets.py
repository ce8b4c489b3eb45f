"""The video sets of the experiment, and lists that leave the test groups out, to choose settings by."""

import re
import shutil
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from cotrain_plan import ROOT
from experiments import records
from experiments.settings import Grid
from utils.errors import OptionError
from utils.pipeline import Runner, Step

HELD_OUT = 3  # groups of each class
FIGHTS_SIDE = 96  # pixels: short side of the real videos' frames


def _is_prepared(folder: Path, name: str) -> bool:
    """Whether prepare.py has come to its end; it writes the lists last."""
    return (folder / "splits" / name / "video_source.json").is_file()


def make(name: str, folder: Path, grid: Grid, fights: Path) -> None:
    """Make a set in a folder: FOLDER/data and FOLDER/splits. What is there already stays.

    Args:
        name: "rendered" or "fights". fights: folder of the second set's videos/ and splits/.

    Raises:
        OptionError: what is there was made with other settings.
    """
    roots = ["--data_root", "data", "--split_root", "splits"]
    source = ["--videos", "videos", "--flow", "dis"]
    if name == "fights":
        source = ["--videos", str(fights / "videos"), "--splits", str(fights / "splits"), "--flow", "dis",
                  "--short_side", str(FIGHTS_SIDE)]
    done = partial(_is_prepared, folder, name)
    steps = [Step(f"prepare {name}", ("python", str(ROOT / "process_data/src/prepare.py"), "--name", name, "--workers",
                                      "2", *source, *roots), done, shown=3)]
    with Runner(folder).open() as runner:
        if name == "rendered":
            steps.insert(0, _rendering(grid, done if done() else None))
            if not done():
                shutil.rmtree(folder / "videos", ignore_errors=True)  # of a run that was stopped
        records.run(runner, steps)


def _rendering(grid: Grid, makes: Callable[[], bool] | None) -> Step:
    words = [word for option in ("classes", "groups", "clips", "frames", "size", "pace", "spread", "typical",
                                                   "colours", "muted")
             for word in (f"--{option}", str(getattr(grid, option)))]
    command = ("python", str(ROOT / "process_data/src/render_demo.py"), "--out", "videos", *words)
    return Step("render", command, makes)


def hold_out(splits: Path, target: Path, groups: int = HELD_OUT) -> None:
    """Write lists of training videos alone: of each class the first groups are tested, the others trained on.

    Args:
        splits: a set's split folder. target: takes the same files with other lists. groups: how many are held out;
            half of them where there are not that many.

    Raises:
        OptionError: a class has but one training group.
    """
    rows = (splits / "train_split01.csv").read_text(encoding="utf-8").splitlines()
    held = _held(rows, groups)
    target.mkdir(parents=True, exist_ok=True)
    for file in ("ClassInd.txt", "video_source.json"):
        shutil.copyfile(splits / file, target / file)
    for part, wanted in (("train", False), ("test", True)):
        kept = [row for row in rows if (_class_and_group(row) in held) == wanted]
        (target / f"{part}_split01.csv").write_text("".join(f"{row}\n" for row in kept), encoding="utf-8")


def _held(rows: Iterable[str], groups: int) -> set[tuple[str, int]]:
    """The (class, group) pairs that are held out."""
    found: dict[str, set[int]] = {}
    for row in rows:
        label, group = _class_and_group(row)
        found.setdefault(label, set()).add(group)
    single = [label for label, numbers in found.items() if len(numbers) < 2]
    if single:
        raise OptionError(f"class {single[0]} has one training group, of which none can be held out: render more")
    return {(label, number) for label, numbers in found.items()
            for number in sorted(numbers)[:min(groups, len(numbers) // 2)]}


def _class_and_group(row: str) -> tuple[str, int]:
    """Of a list's row, `Class/v_Class_gNN_cNN,frames`."""
    path = row.rpartition(",")[0].rstrip("/")
    return path.split("/")[-2], int(re.findall(r"_g(\d+)(?:_c\d+)?$", path)[0])
