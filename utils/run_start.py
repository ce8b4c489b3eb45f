"""How a run begins, or goes on, in its folder: its log and journal open, what an earlier start left is cleared up."""

from argparse import Namespace
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from utils import keeper, run_folder
from utils.console import log_file, say
from utils.distributed import is_main
from utils.journal import Journal, open_journal
from utils.provenance import write_run
from utils.run_folder import Choice
from utils.training import Place


@contextmanager
def open_run(choice: Choice, args: Namespace, place: Place, made_with: Mapping[str, Any]) -> Iterator[Journal]:
    """The journal of a run; while it is open, the run's log is, too. The main process alone writes anything.

    Args:
        choice: of the folder and the checkpoint. args: the command's options. place: where the run stands.
        made_with: what results depend on besides.

    Raises:
        OptionError: the folder cannot be made, or another process trains in it, or has since the choice.
    """
    if not is_main():  # on another machine there would be an empty folder
        yield Journal()
        return
    folder = run_folder.make(choice.folder)
    with run_folder.hold(folder):
        run_folder.refuse_change(choice)
        aside = keeper.clear_up(folder / "model", choice.resume)
        with log_file(folder / "img" / "train.log"):
            for path in aside:
                say(f"later than the checkpoint this run goes on from, set aside: {path}")
            write_run(folder, {"options": vars(args), **made_with, "resumed_from": choice.resume or None,
                               "epoch": place.epoch, "iteration": place.iteration})
            journal = open_journal(folder, place.epoch, place.iteration)
            try:
                yield journal
            except BaseException:
                with suppress(OSError):  # a full disk has been reported as what it came to first
                    journal.close()
                raise
            journal.close()
