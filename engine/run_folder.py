"""Run folders: named by the settings, with logs in ``img/``, checkpoints in ``model/``, run.json and metrics."""

import json
import math
import re
import sys
import zlib
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from engine import checkpoint
from engine.compatibility import TrainState
from engine.config import DataConfig, ModelConfig, TrainConfig
from engine.logger import MetricsLogger
from utils.console import is_main, log_file, say, warn
from utils.errors import CheckpointError, OptionError
from utils.files import lock, remove_partial, write_json
from utils.provenance import code_version, environment

AUTO = "auto"  # --resume auto: the newest checkpoint of the run folder
FOLDER_OPTIONS = "--name_prefix or --prefix"  # of a pretraining: options that change its run folder
RUN_FILE = "run.json"
LONGEST_NAME = 255  # bytes of a path component on common file systems
LAST = re.compile(r"epoch\d+\.pth\.tar")
BEST = re.compile(r"model_best_epoch\d+\.pth\.tar")
PREVIOUS = "previous-"
RESUMABLE = re.compile(rf"(?:{PREVIOUS}|model_best_)?epoch(\d+)(?:-step(\d+))?\.pth\.tar")
KEPT_BEST = 5


def pretraining_folder(model: ModelConfig, data: DataConfig, train: TrainConfig, *, prefix: str, start: str,
                       end: str = "") -> Path:
    """Return the run folder of a pretraining, relative to the working directory; ``start`` and ``end`` of its name."""
    return Path("ckpt", f"log-{prefix}", fitting_name(
        f"{start}_k{model.moco_k}_{data.name}-{data.img_dim}_{model.net}_bs{train.batch_size}_lr{train.lr}_seq2"
        f"_len{data.seq_len}_ds{data.ds}{end}"))


def started_from(path: str) -> str:
    """Return the end of a run folder's name that records the checkpoint the run starts from."""
    return f"_pt={path.replace('/', '-')}" if path not in ("", "random") else ""


def fitting_name(name: str) -> str:
    """Cut a name that is too long for file systems, and append a checksum."""
    if len(name.encode()) <= LONGEST_NAME:
        return name
    mark = f"~{zlib.crc32(name.encode()):08x}"
    return name.encode()[:LONGEST_NAME - len(mark)].decode(errors="ignore") + mark


def last_checkpoint(folder: Path, epochs: int) -> Path:
    return folder / "model" / f"epoch{epochs - 1}.pth.tar"


def folder_of(path: str | Path) -> Path | None:
    """Return the run folder of a checkpoint, or None if it is not in one; CheckpointError if there is no such file."""
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"there is no checkpoint {path}: check the path")
    folder = path.resolve().parent
    return folder.parent if folder.name == "model" else None


def choose(resume: str, new: Path, options: str) -> tuple[Path, str]:
    """Choose the folder to train in (a checkpoint's own, if it lies in one), and the checkpoint to resume from, or "".

    ``resume``: a checkpoint, "auto" for the newest complete one in ``new``, or "" for none; ``options`` change the
    folder. UserError: there is no such checkpoint, all are damaged, another process trains there, or ``new`` is taken.
    """
    folder = new if resume in ("", AUTO) else folder_of(resume) or new
    with lock(folder) if folder.is_dir() else nullcontext():
        if resume == AUTO:
            resume = str(newest_complete(new / "model") or "")
        own = folder_of(resume) if resume else None
        if own is not None:
            return own, resume
        refuse_present(new, options)
    if resume:
        say(f"{resume} is not in a run folder (RUN/model/): this run goes into {new}")
    return new, resume


def refuse_present(folder: Path, options: str) -> None:
    present = resumable(folder / "model")
    if present:
        raise OptionError(f"{folder} already holds a run (last: {present[0].name.removesuffix('.pth.tar')}): "
                          f"continue with --resume auto, choose another {options}, or remove it")


@contextmanager
def open_run(folder: Path, resumed: str, state: TrainState, options: Mapping[str, Any], made_with: Mapping[str, Any]
             ) -> Iterator[MetricsLogger]:
    """Make and lock a run folder, open its log, append this start to run.json, and yield the metrics logger."""
    if not is_main():  # only the main process writes; on other machines the folder would stay empty
        yield MetricsLogger()
        return
    make(folder)
    with lock(folder):
        remove_partial(folder / "model")
        aside = _set_later_aside(folder / "model", resumed)
        with log_file(folder / "img" / "train.log"):
            for path in aside:
                say(f"set aside, because it is later than the checkpoint that this run resumes from: {path}")
            _add_start(folder / RUN_FILE, {"options": dict(options), **made_with, "resumed_from": resumed or None,
                                           "epoch": state.epoch, "iteration": state.iteration})
            with closing(MetricsLogger(folder, state.epoch, state.iteration)) as logger:
                yield logger


def make(folder: Path) -> None:
    for part in ("img", "model"):
        (folder / part).mkdir(parents=True, exist_ok=True)


def _add_start(path: Path, start: dict[str, Any]) -> None:
    """Append to run.json: {"starts": [{"command", "started", "code", "environment", ...}, ...]}."""
    try:
        starts = json.loads(path.read_text(encoding="utf-8"))["starts"]
    except (OSError, ValueError, KeyError, TypeError):
        starts = []
    start = {"command": [sys.executable, *sys.argv], "started": datetime.now(UTC).isoformat(timespec="seconds"),
             "code": code_version(), "environment": environment(), **start}
    start = json.loads(json.dumps(start, default=str))
    write_json(path, {"starts": [*(starts if isinstance(starts, list) else []), start]}, indent=1)


class CheckpointManager:
    """Writes a run's checkpoints, and keeps the last, the one before, the best five, and the one it resumed from.

    `epochN.pth.tar` is from the end of an epoch, `epochN-stepM.pth.tar` from M steps into one,
    `model_best_epochN.pth.tar` a copy of one of the best. The second to last stays as `previous-...`, in case the last
    is damaged. ``keep_all`` keeps every ``epochN`` file (k400).
    """

    def __init__(self, folder: str | Path, keep_all: bool = False, resumed: str | Path = "") -> None:
        self.folder, self.keep_all = Path(folder), keep_all
        self.resumed = Path(resumed).resolve() if resumed else None

    def save(self, state: Mapping, epoch: int, steps: int = 0, is_best: bool = False) -> None:
        """Write the checkpoint of a finished epoch (0-based), or of some steps into one; then remove outdated ones."""
        new = self.folder / f"epoch{epoch}{f'-step{steps}' if steps else ''}.pth.tar"
        checkpoint.save(new, state)
        earlier = [path for path in resumable(self.folder)
                   if not BEST.fullmatch(path.name) and _moment(path) < _moment(new)]
        for number, path in enumerate(earlier):
            if self.keep_all and LAST.fullmatch(path.name):
                continue
            if number > 0:
                path.unlink()
            elif not path.name.startswith(PREVIOUS):
                path.rename(path.with_name(PREVIOUS + path.name))
        if is_best:
            checkpoint.save(self.folder / f"model_best_epoch{epoch}.pth.tar", state)
            best = [path for path in resumable(self.folder) if BEST.fullmatch(path.name)]
            for path in best[KEPT_BEST:]:
                if path.resolve() != self.resumed and _moment(path) < _moment(new):
                    path.unlink()


def resumable(folder: str | Path) -> list[Path]:
    """Return all files that a run can resume from, newest first; a best copy comes after its original."""
    found = [path for path in Path(folder).glob("*") if RESUMABLE.fullmatch(path.name)]
    return sorted(found, key=lambda path: (_moment(path), not BEST.fullmatch(path.name)), reverse=True)


def newest_complete(folder: str | Path) -> Path | None:
    """Return the newest readable checkpoint, if any; warn of unreadable ones. CheckpointError if all are."""
    found = resumable(folder)
    for path in found:
        try:
            checkpoint.load(path, require=checkpoint.RESUME)
            return path
        except CheckpointError as error:
            warn(f"skipped: {error}")
    if found:
        raise CheckpointError(f"none of the {len(found)} checkpoints in {folder} can be read: remove them to start "
                              "over")
    return None


def _set_later_aside(folder: Path, resumed: str) -> list[Path]:
    """Rename checkpoints later than the one to resume from, and return their new names."""
    start = Path(resumed).resolve() if resumed else None
    if start is None or start.parent != folder.resolve() or not RESUMABLE.fullmatch(start.name):
        return []
    now = f"{datetime.now(UTC):%Y%m%d-%H%M%S-%f}"
    return [path.rename(path.with_name(f"set-aside-{now}-{path.name}")) for path in resumable(folder)
            if _moment(path) > _moment(start)]


def _moment(path: Path) -> tuple[int, float]:
    """Return (epoch, steps into it) from a checkpoint's name; infinitely many steps at the epoch's end."""
    match = RESUMABLE.fullmatch(path.name)
    assert match
    return int(match.group(1)), int(match.group(2)) if match.group(2) else math.inf
