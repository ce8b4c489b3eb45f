"""The commands of cotrain.py: which there are, which checkpoint goes into which, and what tells that one is done.

Every command is parsed by its script's own parser, so that the place of the checkpoint it will leave is known before
anything runs, and what its script would refuse is refused now.
"""

import importlib
import warnings
from argparse import Namespace
from collections.abc import Callable, Container, Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import nn

import main_coclr
from eval import main_classifier, merge_2stream_prob, network
from eval import options as classifier_options
from pretrain_phases import end_of, phases
from pretrain_script import build_loader, check_sizes
from utils import checkpoint, pipeline, run_folder
from utils.clip_check import check_clips
from utils.distributed import Launch
from utils.errors import CheckpointError, OptionError
from utils.pipeline import Step
from utils.presets import CropsTransform
from utils.resuming import refuse_changes

ROOT = Path(__file__).resolve().parent
NCE, COCLR, CLASSIFIER, MERGE = "main_nce.py", "main_coclr.py", "eval/main_classifier.py", "eval/merge_2stream_prob.py"
FOLDERS = {NCE: run_folder.nce_folder, COCLR: run_folder.coclr_folder}
STREAMS = {"RGB": "", "flow": "-f"}  # in the order of the cycles; what follows the dataset's name
CPU = torch.device("cpu")


def foresee(script: str, words: Sequence[str], later: Container[str] = ()) -> tuple[Namespace, Path]:
    """A training's options, checked, and the last checkpoint it will leave, relative to its working directory.

    Args:
        words: of its command line. later: checkpoints among them that need not be there yet.

    Raises:
        OptionError, CheckpointError, DataError, ModelError: its script would refuse them.
    """
    if script == CLASSIFIER:
        args = classifier_options.parse(words, "")
        main_classifier.check_inputs(args, later)
        folder = run_folder.classifier_folder(args, len(classifier_options.devices(args.gpu)))
    else:
        args = importlib.import_module(Path(script).stem).parse(words, later)
        if script == COCLR:
            args = phases(args)[-1]
        folder = FOLDERS[script](args)
    return args, run_folder.last_checkpoint(folder, args.epochs)


def is_trained(path: Path, args: Namespace, made_with: Mapping[str, int]) -> bool:
    """Whether a training has left its last checkpoint, complete.

    Args:
        path: of that checkpoint. args: of the training. made_with: facts besides the options.

    Raises:
        CheckpointError: what is there was made with other options, or started from other files.
    """
    found = path if path.is_file() else next(iter(run_folder.resumable(path.parent)), None)
    if found is None:
        return False
    try:
        saved = checkpoint.load(found, require=("state_dict", "optimizer", "epoch"))
    except CheckpointError:  # damaged: --resume auto passes it over
        return False
    then = saved.get("options", {}).get("pretrain", args.pretrain)
    if then != args.pretrain:
        before, now = (each if isinstance(each, str) else " ".join(each) for each in (then, args.pretrain))
        raise CheckpointError(f"{found} was started from {before}, and not from {now}: take another --out, or remove "
                              f"{path.parents[1]}")
    if not args.accept_changes:
        try:
            refuse_changes(saved, args, made_with, str(found))
        except CheckpointError as error:
            said = str(error).partition(": the run would not end")[0]
            raise CheckpointError(f"{said}: give what it was made with, or take another --out") from error
    return found == path


class Planner:
    """Makes the steps of a plan, one after the other.

    Args:
        out: work folder. common: options of every training and test. roots: where data and splits lie.
            processes: of a pretraining; GPUs of a classifier.
    """

    def __init__(self, out: Path, *, common: Sequence[str], roots: Mapping[str, str], processes: int) -> None:
        self.out, self.common, self.processes = out, tuple(common), processes
        self.roots = [word for option, path in roots.items() for word in (option, path)]
        self.splits = [word for option, path in roots.items() if option == "--split_root" for word in (option, path)]
        self.gpus = ["--gpu", ",".join(map(str, range(processes)))] if torch.cuda.is_available() else []
        self.steps: list[Step] = []
        self.data_checks: dict[tuple[str, str], Callable[[], object]] = {}
        self.made: set[str] = set()
        self._makers: dict[str, str] = {}  # by product, the step's name

    def pretrain(self, name: str, script: str, *words: str) -> str:
        """Add a training by main_nce.py or main_coclr.py; the checkpoint it will leave."""
        argv = [*self.common, *self.roots, *words, "--resume", "auto"]
        args, path = foresee(script, argv, self.made)
        if (script, args.dataset) not in self.data_checks:  # later ones differ in their names and starts alone
            self._refuse_early(script, args)
        self.data_checks[script, args.dataset] = partial(
            build_loader, _without_workers(args), Launch(0, 0, self.processes, CPU, None))
        launcher = ("python",) if self.processes == 1 else (
            "torchrun", "--standalone", f"--nproc_per_node={self.processes}")
        return self.add_training(name, (*launcher, str(ROOT / script), *argv), args, path,
                                 {"processes": self.processes})

    def classify(self, name: str, dataset: str, start: str, *words: str) -> str:
        """Add the training of a classifier on a checkpoint, and its test with ten crops; the classifier's file."""
        argv = ["--dataset", dataset, *self.common, *self.gpus, *self.roots, *words]
        training = [*argv, "--pretrain", start, "--resume", "auto"]
        args, path = foresee(CLASSIFIER, training, self.made)
        check_clips(network.shadow(args), args)
        devices = classifier_options.devices(args.gpu)
        self.data_checks[CLASSIFIER + args.train_what, dataset] = partial(
            _build_classifier_data, _without_workers(args), devices)
        made = self.add_training(name, ("python", str(ROOT / CLASSIFIER), *training), args, path,
                                 {"gpus": len(devices)})
        self.evaluate(f"{name} test", f"{made}-acc-ten.json", [made], CLASSIFIER, *argv, "--test", made, "--ten_crop",
                      shown=4)
        return made

    def retrieve(self, name: str, dataset: str, model: str, *words: str) -> str:
        """Add a retrieval by a checkpoint; the folder of its features."""
        folder = Path(model).parent / "feature"
        argv = ["--dataset", dataset, *self.common, *self.gpus, *self.roots, *words, "--test", model, "--retrieval"]
        self.evaluate(name, str(folder / f"{dataset}_recall.json"), [model], CLASSIFIER, *argv, shown=4)
        self.data_checks["retrieval", dataset] = partial(_build_test_data, classifier_options.parse(argv, ""))
        return str(folder)

    def merge(self, name: str, result: str, dataset: str, mode: str, made_from: Sequence[str],
              streams: Sequence[str]) -> None:
        """Add a fusion of two streams' results. result: file to write. made_from: files that it depends on."""
        self.evaluate(name, result, made_from, MERGE, "--mode", mode, "--dataset", dataset, *self.splits,
                      "--prob1", streams[0], "--prob2", streams[1], "--output", result, shown=5)

    def evaluate(self, name: str, result: str, made_from: Sequence[str], script: str, *words: str, shown: int) -> None:
        """Add a command that is done once a file is there that is not older than what it is made from."""
        if script == MERGE:
            merge_2stream_prob.parse(words)
        else:
            main_classifier.check_inputs(classifier_options.parse(words, ""), self.made)
        self.add_evaluation(name, result, made_from, ("python", str(ROOT / script), *words), shown)

    def add_evaluation(self, name: str, result: str, made_from: Sequence[str], command: tuple[str, ...], shown: int
                       ) -> None:
        """Add a command without a look at it, otherwise as :meth:`evaluate`."""
        makes = partial(pipeline.newer, self.out / result, *(self.out / path for path in made_from))
        self._add(Step(name, command, makes, shown, self._makers_of([*made_from, *command])), result)

    def _add(self, step: Step, product: str) -> None:
        self.steps.append(step)
        self._makers[product] = step.name

    def _makers_of(self, words: Sequence[str]) -> tuple[str, ...]:
        """The steps that make what is named in a command."""
        return tuple(dict.fromkeys(self._makers[word] for word in words if word in self._makers))

    def _refuse_early(self, script: str, args: Namespace) -> None:
        """Refuse what a pretraining would: sizes, a cascade that is too deep, given checkpoints that do not fit."""
        check_sizes(args, self.processes)
        with torch.device("meta"):
            model = importlib.import_module(Path(script).stem).build(args)
        if script == COCLR:
            phases_made = {str(end_of(phase)) for phase in phases(args)}
            for given in {*args.pretrain} - self.made - phases_made:
                _refuse_unfit(model.encoder_q, given)

    def add_training(self, name: str, command: tuple[str, ...], args: Namespace, path: Path,
                     made_with: Mapping[str, int]) -> str:
        """Add a training without a look at it.

        Args:
            args, path: as of :func:`foresee`. made_with: facts that its checkpoint depends on besides the options.

        Returns:
            The checkpoint it will leave.
        """
        if str(path) in self.made:
            raise OptionError(f"step {name!r} would train in the same run folder as another one, {path.parents[1]}")
        self.made.add(str(path))
        makes = partial(is_trained, self.out / path, args, made_with)
        self._add(Step(name, command, makes, after=self._makers_of(command)), str(path))
        return str(path)


def _refuse_unfit(encoder: nn.Module, path: str) -> None:
    """Refuse a given checkpoint that a new encoder, on the meta device, cannot start from; raises CheckpointError."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that nothing is copied to the meta device
        checkpoint.load_state(encoder, main_coclr.query_encoder(checkpoint.load(path)["state_dict"], path))


def _without_workers(args: Namespace) -> Namespace:
    return Namespace(**vars(args) | {"workers": 0})


def _build_classifier_data(args: Namespace, devices: list[torch.device]) -> None:
    main_classifier.build_loaders(args, devices)
    _build_test_data(args)


def _build_test_data(args: Namespace) -> None:
    main_classifier.build_dataset(args, "test", CropsTransform(args.img_dim))


def scheduled(epochs: int, shares: Sequence[tuple[int, int]]) -> list[str]:
    """``--epochs`` and ``--schedule`` in the proportions of a published schedule: (epoch of a fall, epochs in all)."""
    falls = sorted({round(epochs * fall / whole) for fall, whole in shares})
    return ["--epochs", str(epochs), "--schedule", *map(str, falls)]
