"""The folder of an index: what is in it, read and checked, and written so that an interruption leaves the old one.

`index.json` names the files of one generation and takes the place of the one before when these are complete:

    features-G.npy   float32 (N, D), as the encoders gave them: neither centred nor normalised
    clips-G.npz      file_of int32 (N,), number of the clip's file, -1 for one that was dropped; seconds float64 (N, 2),
                     its start and end; centre float32 (D,), taken off every feature
    vectors-G.faiss  the centred and normalised rows, for searching
    pending/         features of an update that was interrupted, which the next one takes up
"""

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import faiss
import numpy as np

from eval.report import read_json
from eval.search.files import LeftOut, VideoFile
from eval.search.nearest import Nearest
from eval.search.pending import clear_pending
from eval.search.plan import Plan
from eval.search.rows import Rows, Searched
from utils.console import one_line
from utils.errors import CheckpointError, OptionError
from utils.files import remove_drafts, replace, whole_file
from utils.run_folder import hold

FORMAT = 1
PARTS = ("features-*.npy", "clips-*.npz", "vectors-*.faiss")
BLOCK = 1 << 20  # bytes that faiss reads or writes at a time


@dataclass(frozen=True)
class Contents:
    """An index.

    plan: what its features depend on. places: folders and files that it is of. files, left_out: those that have clips,
    and those that cannot be used. searched: its rows. exactness: of a graph, "" for an exact index. generation: counts
    the changes of its rows.
    """

    plan: Plan
    places: list[str]
    files: list[VideoFile]
    left_out: list[LeftOut]
    searched: Searched
    exactness: str = ""
    generation: int = 0


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Keep other updates out of a folder meanwhile, which is made where it is not there.

    Raises:
        OptionError: another process holds it, or it holds files of something else, which could be lost.
    """
    _refuse_foreign(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        try:
            stack.enter_context(hold(folder))
        except OptionError as error:
            raise OptionError(f"another process is updating {folder}: wait for it, or end it") from error
        yield


def _refuse_foreign(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise OptionError(f"{folder} is a file: give a folder for the index")
    names = [path.name for path in folder.glob("*")] if not is_index(folder) else []
    ours = (".", "pending", *(pattern.partition("*")[0] for pattern in PARTS))  # what a first update may have left
    if not all(name.startswith(ours) for name in names):
        raise OptionError(f"{folder} holds files, and no index: give a new or an empty folder for it")


def is_index(folder: Path) -> bool:
    """Whether a folder holds an index."""
    return (folder / "index.json").is_file()


def note(folder: Path) -> dict[str, Any]:
    """What `index.json` says, as it stands there.

    Raises:
        OptionError: there is none. CheckpointError: it is of another version.
    """
    if not is_index(folder):
        raise OptionError(f"there is no index in {folder}: make one with python -m eval.search index CHECKPOINT "
                          f"VIDEO_DIR --out {folder}")
    found = read_json(folder / "index.json")
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise CheckpointError(f"{folder / 'index.json'} is no index of this version: make it again in another folder, "
                              "with --out")
    return found


def read_plan(folder: Path) -> Plan:
    """What the features of a folder's index depend on. Raises as :func:`read` does."""
    found = note(folder)
    with _damage(folder):
        return _plan(found)


def read(folder: Path) -> Contents:
    """The index of a folder.

    Raises:
        OptionError: there is none. CheckpointError: it is damaged, or of another version.
    """
    found = note(folder)
    with _damage(folder):
        contents = _loaded(folder, found)
        _check(contents)
    return contents


@contextmanager
def _damage(folder: Path) -> Iterator[None]:
    try:
        yield
    except (KeyError, TypeError, AttributeError, ValueError, OSError, EOFError, RuntimeError, BadZipFile) as error:
        raise CheckpointError(f"the index in {folder} is damaged ({one_line(str(error)) or type(error).__name__}): "
                              "remove the folder and make it again") from error


def _plan(found: dict[str, Any]) -> Plan:
    plan = Plan(dict(found["made_from"]), [str(path) for path in found["checkpoints"]])
    if len(plan.streams) != len(plan.checkpoints) or len(plan.recipe.views) not in (1, 2):
        raise ValueError("streams and checkpoints do not belong together")
    return plan


def _loaded(folder: Path, found: dict[str, Any]) -> Contents:
    plan, generation = _plan(found), int(found["generation"])
    features, clips, vectors = _files(folder, generation)
    for path, size in zip((features, clips, vectors), found["bytes"], strict=True):
        if path.stat().st_size != size:
            raise ValueError(f"{path.name} has not the {size} bytes that were written")
    with np.load(clips, allow_pickle=False) as arrays:
        file_of, seconds, centre = (arrays[name] for name in ("file_of", "seconds", "centre"))
    rows = Rows(file_of, seconds, np.load(features, mmap_mode="r", allow_pickle=False))
    with open(vectors, "rb") as file:
        index = faiss.read_index(faiss.PyCallbackIOReader(file.read, BLOCK))
    left_out = [LeftOut(VideoFile(*out), ctime, reason) for out, ctime, reason in found["left_out"]]
    return Contents(plan, [str(path) for path in found["places"]], [VideoFile(*entry) for entry in found["files"]],
                    left_out, Searched(rows, Nearest(index, centre, len(plan.streams)), int(found["built"])),
                    str(found["exactness"]), generation)


def _check(contents: Contents) -> None:
    """Raises ValueError where the parts do not belong together."""
    rows, nearest = contents.searched.rows, contents.searched.nearest
    count, width = rows.features.shape
    shapes = (rows.file_of.shape, rows.seconds.shape, nearest.centre.shape)
    if shapes != ((count,), (count, 2), (width,)) or (nearest.index.d, len(nearest)) != (width, count):
        raise ValueError(f"{count} rows of {width} numbers beside {shapes} and {len(nearest)} of {nearest.index.d}")
    if not -1 <= rows.file_of.min() <= rows.file_of.max() < len(contents.files):
        raise ValueError("a clip of a file that is not in the list")


def _files(folder: Path, generation: int) -> tuple[Path, Path, Path]:
    return (folder / f"features-{generation}.npy", folder / f"clips-{generation}.npz",
            folder / f"vectors-{generation}.faiss")


def write(folder: Path, contents: Contents, *, changed: bool) -> None:
    """Write an index, to be called in `held`; pending features are of no use afterwards and removed.

    changed: whether its rows are others than those on the disk; else only the lists are written.
    """
    remove_drafts(folder)
    paths = _files(folder, contents.generation)
    rows, nearest = contents.searched.rows, contents.searched.nearest
    if changed:
        with whole_file(paths[0]) as file:
            np.save(file, rows.features)
        with whole_file(paths[1]) as file:
            np.savez(file, file_of=rows.file_of, seconds=rows.seconds, centre=nearest.centre)
        with whole_file(paths[2]) as file:
            faiss.write_index(nearest.index, faiss.PyCallbackIOWriter(file.write, BLOCK))
    left_out = [[astuple(out.file), out.ctime_ns, out.reason] for out in contents.left_out]
    told = {"format": FORMAT, "generation": contents.generation, "bytes": [path.stat().st_size for path in paths],
            "made_from": contents.plan.made_from, "checkpoints": contents.plan.checkpoints, "places": contents.places,
            "built": contents.searched.built, "exactness": contents.exactness,
            "files": [astuple(file) for file in contents.files], "left_out": left_out}
    replace(folder / "index.json", json.dumps(told, indent=1).encode())
    for pattern in PARTS:
        for path in folder.glob(pattern):
            if path not in paths:
                path.unlink()
    clear_pending(folder)
