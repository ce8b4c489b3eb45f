"""Run folders: their names, which tell the settings, and their making. ``img/`` holds logs, ``model/`` checkpoints."""

import fcntl
import zlib
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from utils import distributed
from utils.console import say
from utils.errors import CheckpointError, OptionError
from utils.files import regular
from utils.keeper import beyond, newest_complete, resumable

AUTO = "auto"  # the word that means the newest checkpoint of the run folder
LONGEST_NAME = 255  # bytes, of one path component on common file systems


def nce_folder(args: Namespace) -> Path:
    """Run folder of main_nce.py, relative to the working directory."""
    return Path("ckpt", f"log-{args.prefix}", _fit(
        f"{args.name_prefix}{args.model}_k{args.moco_k}_{_clip_part(args)}{_pretrained(args.pretrain)}"))


def coclr_folder(args: Namespace) -> Path:
    """Run folder of main_coclr.py, relative to the working directory."""
    mining = f"top{args.topk}{'-R' if args.reverse else ''}"
    return Path("ckpt", f"log-{args.prefix}", _fit(
        f"{args.name_prefix}{args.model}-{mining}_k{args.moco_k}_{_clip_part(args)}"))


def classifier_folder(args: Namespace, gpus: int) -> Path:
    """Run folder of eval/main_classifier.py; ``gpus`` is the number of GPUs in use (1 on a CPU)."""
    optimizer = {"sgd": "SGD", "adam": "Adam"}[args.optim]
    return Path(f"log-eval-{args.prefix}", _fit(
        f"{dataset_name(args)}-{args.img_dim}_sp{args.which_split}_{args.model}_{args.net}_{optimizer}"
        f"_bs{gpus * args.batch_size}_lr{args.lr}_dp{args.dropout}_wd{args.wd}_seq{args.num_seq}_len{args.seq_len}"
        f"_ds{args.ds}_train-{args.train_what}{_pretrained(args.pretrain)}"))


def dataset_name(args: Namespace) -> str:
    """The dataset as names of run folders and logs have it; a second view other than flow is told."""
    return args.dataset if args.second_view == "flow" else f"{args.dataset}_{args.second_view}"


def random_weights(args: Namespace, gpus: int) -> Path:
    """A path that is no file, beside which eval/main_classifier.py leaves what a test of random weights finds."""
    folder = classifier_folder(args, gpus)
    return folder.with_name(f"{folder.name}_pt=random") / "model" / "random"


def last_checkpoint(folder: Path, epochs: int) -> Path:
    """The checkpoint that a run of so many epochs leaves in its folder at its end."""
    return folder / "model" / f"epoch{epochs - 1}.pth.tar"


def folder_of(checkpoint: str | Path) -> Path | None:
    """The run folder that a checkpoint lies in, the parent of its ``model/`` folder; None if it lies elsewhere.

    Raises:
        CheckpointError: there is no such file.
    """
    path = Path(checkpoint)
    if not path.is_file():
        raise CheckpointError(f"there is no checkpoint {path}: check the path")
    folder = path.resolve().parent
    return folder.parent if folder.name == "model" else None


@dataclass(frozen=True)
class Choice:
    """Where a run trains. resume: the checkpoint it goes on from, "" for none. present: names of the checkpoints that
    were in the folder when this was chosen."""

    folder: Path
    resume: str
    present: tuple[str, ...]


def choose(resume: str, new: Path, names: str) -> Choice:
    """The folder to train in, and the checkpoint to go on from, see :func:`resolve` and :func:`settle`.

    What is chosen is loaded for a while before the run begins: see :func:`refuse_change`.

    Raises:
        OptionError, CheckpointError: there is a run in the way, also one that is in progress.
    """
    place = new if resume in ("", AUTO) else folder_of(resume) or new
    with hold(place) if place.is_dir() else nullcontext():
        resume = resolve(resume, new)
        folder = settle(resume, new, names)
        return Choice(folder, resume, _present(folder))


def refuse_change(choice: Choice) -> None:
    """Refuse to train where another process has trained since the choice was made. To be called in :func:`hold`.

    Raises:
        OptionError: other checkpoints are there now.
    """
    if _present(choice.folder) != choice.present:
        raise OptionError(f"another process has trained in {choice.folder} while this one was starting: start again, "
                          "with --resume auto to go on from there")


def _present(folder: Path) -> tuple[str, ...]:
    return tuple(sorted(path.name for path in resumable(folder / "model")))


def resolve(resume: str, new: Path) -> str:
    """The checkpoint that ``--resume`` names, "" for none; "auto" is the newest complete one of ``new``, or none.

    Raises:
        CheckpointError: with "auto", there are checkpoints, and all are damaged.
    """
    return str(newest_complete(new / "model") or "") if resume == AUTO else resume


def refuse_strays(folder: Path) -> None:
    """For "auto": refuse to go on where another machine has later checkpoints than the main process's. All call it.

    torchrun may give the machines other numbers than the last time, and their working directories need not be shared.

    Raises:
        OptionError: on all processes.
    """
    names = distributed.from_main(lambda: [path.name for path in resumable(folder / "model")])
    ranks = distributed.failed(bool(beyond(folder / "model", names)))
    if ranks:
        raise OptionError(f"the machine of process {ranks[0]} has later checkpoints in {folder} than that of process "
                          "0: let that machine be the first one, or copy its run folder there, or share it")


def settle(resume: str, new: Path, names: str) -> Path:
    """The folder to train in: that of the checkpoint ``resume``, else ``new``, which must not hold a run already.

    Args:
        resume: path of the checkpoint to go on from, "" for none. names: the options that lead to another folder.

    Raises:
        CheckpointError: there is no such checkpoint.
        OptionError: ``new`` holds checkpoints, which the run would replace and remove.
    """
    folder = folder_of(resume) if resume else None
    if folder is not None:
        return folder
    present = resumable(new / "model")
    if present:
        raise OptionError(f"{new} already holds a run (last: {present[0].name.removesuffix('.pth.tar')}): go on with "
                          f"--resume auto, or choose another {names}, or remove it")
    if resume:
        say(f"{resume} lies in no run folder (RUN/model/): this run goes into {new}")
    return new


@contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Keep other runs out of a folder meanwhile; a run that ends in any way lets go of it.

    Raises:
        OptionError: another process holds it.
    """
    with open(folder / ".lock", "a", opener=regular) as file:
        try:
            # of this process alone: a loader's workers, which may outlive it by seconds, do not inherit it
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            raise OptionError(f"another process is training in {folder}: wait for it, or end it") from error
        except OSError:
            pass  # a file system without locks
        yield


def make(folder: Path) -> Path:
    """Make a run folder with its ``img/`` and ``model/``; what is there already stays.

    Raises:
        OptionError: the folder cannot be made.
    """
    try:
        for part in ("img", "model"):
            (folder / part).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OptionError(f"cannot make the run folder {folder} ({error.strerror}): check --prefix, --name_prefix "
                          "and the rights in the working directory") from error
    return folder


def _clip_part(args: Namespace) -> str:
    parts = f"{args.accumulate}x" if args.accumulate > 1 else ""
    return (f"{dataset_name(args)}-{args.img_dim}_{args.net}_bs{parts}{args.batch_size}_lr{args.lr}"
            f"_seq{args.num_seq}_len{args.seq_len}_ds{args.ds}")


def _pretrained(path: str) -> str:
    return f"_pt={path.replace('/', '-')}" if path not in ("", "random") else ""


def _fit(name: str) -> str:
    """The name itself, or where no file system would take it, its beginning and a checksum of the whole."""
    if len(name.encode()) <= LONGEST_NAME:
        return name
    mark = f"~{zlib.crc32(name.encode()):08x}"
    return name.encode()[:LONGEST_NAME - len(mark)].decode(errors="ignore") + mark
