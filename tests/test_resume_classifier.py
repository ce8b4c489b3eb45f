"""A classifier's training that is stopped or killed, and goes on with --resume auto, ends as if it had never stopped.

It is one process, whatever the number of GPUs. The videos are real ones in small, and dropout is on.
"""

from pathlib import Path

import interrupted
import noise
import pytest
from interrupted import Stop, differences, said

from eval import main_classifier
from utils.stop import EXIT_CODE

pytestmark = pytest.mark.usefixtures("in_place")
SMALL = "--seq_len 8 --img_dim 32 --batch_size 2 --print_freq 2 --epochs 2 --schedule 1 --resume auto -j 0"
STEPS = 18  # nine of an epoch


def train(prefix: str, options: str = "", *, stop: Stop | None = None) -> list[int]:
    argv = [*SMALL.split(), "--data_root", "data", "--split_root", "splits", "--prefix", prefix, *options.split()]
    return interrupted.train(lambda: main_classifier.main(argv), stop=stop)


def folder(prefix: str) -> Path:
    [path] = Path(f"log-eval-{prefix}").iterdir()
    return path


@pytest.fixture(scope="module")
def whole(place):
    """Run folders of trainings that never stop, by what is trained."""
    with pytest.MonkeyPatch.context() as patch:
        noise.install_network(patch.setattr)
        patch.chdir(place)
        for what in ("last", "ft"):
            assert train(f"whole-{what}", f"--train_what {what}") == [0], said()
        return {what: folder(f"whole-{what}").resolve() for what in ("last", "ft")}


@pytest.mark.parametrize(("what", "stop"), [
    ("last", Stop("kill", 13)), *(("ft", stop) for stop in (Stop("term", 3), Stop("usr1", 9), Stop("kill", 13),
                                                           Stop("write", 2), Stop("renamed", 3)))], ids=str)
def test_a_classifier_resumes_where_it_stopped(what, stop, whole):
    prefix = f"{what}-{stop}"
    ended = EXIT_CODE if stop.how in ("term", "usr1") else -9
    assert train(prefix, f"--train_what {what} --save_steps 4", stop=stop) == [ended], said()
    assert train(prefix, f"--train_what {what} --save_steps 4") == [0], said()
    assert differences(whole[what], folder(prefix), 1) == []


def test_dropout_draws_matter_here(whole):
    """Else these tests would not see whether the generator's state is kept."""
    assert train("other", "--train_what ft --seed 1") == [0]
    assert any("state_dict" in key for key in differences(whole["ft"], folder("other"), 1))
