"""What reads bytes of others, each with sound input, and with a check of what it makes of any other.

`read(data)` puts the data where it is read from. It returns how many readings gave a result that passed its checks, 0
where all were refused by an exception of the project's own; anything else it raises is a bug.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hypothesis import strategies as st

from dataset.errors import DataError
from dataset.jpeg import FrameError
from process_data.src.errors import PrepareError
from utils.errors import CheckpointError, OptionError

OWN = (DataError, FrameError, PrepareError, CheckpointError, OptionError)
# Of a refused request for memory that would have been filled. PyTorch's are not meant: it takes what it does not fill.
MEMORY = "Insufficient memory"


@dataclass(frozen=True)
class Target:
    """seeds: sound inputs. read: see the module. odd: other inputs. weight: share of the time."""

    name: str
    seeds: Sequence[bytes]
    read: Callable[[bytes], int]
    odd: st.SearchStrategy[bytes]
    weight: float = 1.0


def given(*readings: Callable[[], object]) -> int:
    """How many of some readings gave a result; the others were refused in one line.

    Raises:
        AssertionError: a refusal of more lines, or one because of memory that the system did not give.
    """
    results = 0
    for reading in readings:
        try:
            reading()
            results += 1
        except OWN as error:
            text = str(error)
            assert text and "\n" not in text and "\r" not in text, f"not one line: {text!r}"
            cause: BaseException | None = error
            while cause is not None:
                assert not isinstance(cause, MemoryError) and MEMORY not in str(cause), f"asks for memory: {cause!r}"
                cause = cause.__cause__ or cause.__context__
    return results


def all_targets(folder: Path) -> list[Target]:
    """Every target, with its files below a folder."""
    import fuzz_evaluation
    import fuzz_frames
    import fuzz_lists
    targets = []
    for module in (fuzz_frames, fuzz_lists, fuzz_evaluation):
        place = folder / module.__name__
        place.mkdir(parents=True)
        targets += module.targets(place)
    return targets
