"""The grids of the experiment, and the commands that train and evaluate their methods with one seed.

The settings were chosen on the validation split of the training groups (`--validation`), never on test groups.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import main_coclr
from cotrain import CLASSIFIER, MERGE, ROOT, SCRIPTS
from engine.run_folder import last_checkpoint
from eval import main_classifier
from utils.errors import OptionError
from utils.runner import Step

NCE, COCLR, PROBE = "main_nce.py", "main_coclr.py", "eval/feature_linear_probe.py"
SUFFIXES = {"RGB": "", "flow": "-f"}  # of the dataset's name
EVALUATIONS = (CLASSIFIER, PROBE, MERGE)  # each needs what the ones before have written


@dataclass(frozen=True)
class Method:
    """One way to train the RGB encoder."""

    title: str  # in tables
    kind: str  # random, infonce, longer (from InfoNCE on, for as many epochs as with co-training), or mining
    options: tuple[str, ...] = ()  # further options of main_nce.py or main_coclr.py
    start: str = "infonce"  # of kinds longer and mining: the method whose RGB encoder is trained on
    times: float = 1.0  # epochs, as a multiple of the grid's coclr_epochs


def _cpr(stage: int, *options: str, title: str = "CPR") -> Method:
    return Method(f"{title}, s = {stage}, r = 0.5", "mining",
                  ("--cascade", "--stage", str(stage), "--ratio", "0.5", *options))


FUSED, FROZEN, RESIDUAL = ("--mining", "fused"), ("--own_view", "frozen"), ("--second_view", "residual")
METHODS = {
    "random": Method("random weights", "random"),
    "infonce": Method("InfoNCE", "infonce"),
    "infonce_longer": Method("InfoNCE, as long as CoCLR", "longer", ("--model", "infonce")),
    "coclr": Method("CoCLR", "mining"),
    "cpr": _cpr(3),
    "cpr_frozen": _cpr(3, *FROZEN, title="CPR, own view frozen"),
    "fused_frozen": Method("fused ranks, own view frozen", "mining", (*FUSED, *FROZEN)),
    "ubernce": Method("UberNCE (with labels)", "longer", ("--model", "ubernce")),
    # of the extended grid
    "cpr_s7": _cpr(7),
    "cpr_s7_frozen": _cpr(7, *FROZEN, title="CPR, own view frozen"),
    "cpr_first_own": _cpr(3, "--cascade_first", "own", title="CPR, own view first"),
    "fused": Method("fused ranks", "mining", FUSED),
    "progressive": _cpr(3, "--progressive", "1", "2", "5", title="CPR, progressive"),
    "residual": Method("CoCLR, mined in residual frames", "mining", RESIDUAL),
    "residual_fused": Method("fused ranks, own view frozen, residual frames", "mining", (*FUSED, *FROZEN, *RESIDUAL))}
LONG = ("infonce_longer", "coclr", "fused_frozen")
METHODS |= {f"{name}_x4": replace(METHODS[name], title=f"{METHODS[name].title}, 4 x epochs", times=4) for name in LONG}
# Half of the epochs with one rule at a constant rate, then the other half with another rule.
for _one, _two in (("coclr", "fused_frozen"), ("fused_frozen", "coclr"), ("cpr", "cpr_s7"), ("cpr_s7", "cpr")):
    _first, _then, _half = METHODS[_one], METHODS[_two], f"{_one}_half"
    METHODS[_half] = replace(_first, title=f"{_first.title}, half", options=(*_first.options, "--schedule"), times=0.5)
    METHODS[f"{_half}_{_two}"] = replace(_then, title=f"{_first.title}, then {_then.title}", start=_half, times=0.5)


# Named before the runs; what else the tables show is descriptive.
COMPARISONS = (("cpr", "coclr"), ("fused_frozen", "coclr"))


@dataclass(frozen=True)
class Grid:
    """Everything a result depends on, except the seed."""

    methods: tuple[str, ...]  # in the order of the tables
    seeds: tuple[int, ...] = (0, 1, 2)
    more: tuple[int, ...] = ()  # further seeds, of the methods in COMPARISONS alone
    # of the synthetic set, see synthetic.py
    groups: int = 60
    clips: int = 2
    frames: int = 20
    pace: float = 1.6
    swapped: float = 0.1
    # of the trainings
    net: str = "s3d_small"
    seq_len: int = 8
    ds: int = 1
    img_dim: int = 32
    workers: int = 0
    precision: str = "fp32"
    batch_size: int = 32
    moco_k: int = 1024
    moco_m: float = 0.99
    lr: float = 5e-4  # of InfoNCE
    coclr_lr: float = 5e-4
    topk: int = 5
    infonce_epochs: int = 20
    coclr_epochs: int = 8  # of all that starts from InfoNCE
    # overrides for the real clips, of which there are fewer
    fights: Mapping[str, Any] = field(default_factory=dict)

    def on(self, name: str) -> "Grid":
        """Return the settings for one of the sets."""
        return replace(self, fights={}, **(self.fights if name == "fights" else {}))

    def with_seed(self, seed: int) -> "Grid":
        """Return the grid for a seed; further seeds train the compared methods and InfoNCE as long only."""
        compared = dict.fromkeys(("infonce_longer", *(name for pair in COMPARISONS for name in pair)))
        return replace(self, methods=tuple(compared)) if seed in self.more else self


HEADLINE = ("random", "infonce", "infonce_longer", "coclr", "cpr", "cpr_frozen", "fused_frozen", "ubernce")
# 113 training clips of the real set make 7 steps of 16 an epoch. Its queue is too short for seven stages.
REAL = {"more": (), "batch_size": 16, "moco_k": 64, "img_dim": 64, "infonce_epochs": 20, "coclr_epochs": 10}
GRIDS: Mapping[str, Grid] = {
    "headline": Grid(HEADLINE, more=(3, 4), fights=REAL),
    "extended": Grid(tuple(METHODS), fights=REAL | {"methods": tuple(each for each in METHODS if "_s7" not in each)}),
    "long": Grid(tuple(f"{name}_x4" for name in LONG), fights=REAL),
    "tiny": Grid(("infonce", "coclr"), seeds=(0, 1), groups=3, clips=1, frames=16, batch_size=2, moco_k=8, topk=2,
                 infonce_epochs=1, coclr_epochs=2)}


def changed(grid: Grid, changes: Iterable[str]) -> Grid:
    """Override settings of a grid on every set: ("lr=1e-3", "methods=infonce,coclr", ...)."""
    kinds = {each.name: type(getattr(grid, each.name)) for each in fields(grid)
             if each.name not in ("fights", "seeds", "more")}
    new: dict[str, Any] = {}
    for change in changes:
        name, _, value = change.partition("=")
        if name not in kinds or not value:
            raise OptionError(f"--change {change}: give NAME=VALUE with a name among {', '.join(kinds)}")
        try:
            new[name] = tuple(value.split(",")) if name == "methods" else kinds[name](value)
        except ValueError as error:
            raise OptionError(f"--change {change}: {error}") from error
    if unknown := {*new.get("methods", ())} - {*METHODS}:
        raise OptionError(f"there is no method {min(unknown)}: take some of {', '.join(METHODS)}")
    return replace(grid, fights={name: value for name, value in grid.fights.items() if name not in new}, **new)


@dataclass
class MethodPlan:
    """The commands of a method, and the files with its results."""

    steps: list[Step] = field(default_factory=list)  # except those shared with earlier methods
    measures: dict[str, tuple[str, tuple[str, ...]]] = field(default_factory=dict)  # a file and the keys in it
    run: str = ""  # run folder of the RGB encoder, if it was trained to mine or to be mined for
    features: dict[str, tuple[str, str]] = field(default_factory=dict)  # by stream: folder, and the dataset's name


def _turn(step: Step, made: Mapping[str, Step]) -> int:
    """Return when a step may run: after the training it starts from, evaluations last; ``made``: steps by product."""
    if script := [number for number, each in enumerate(EVALUATIONS) if step.command[1].endswith(each)]:
        return len(made) + script[0]
    return 1 + max((_turn(made[word], made) for word in step.command if word in made), default=-1)


class SeedPlan:
    """All methods of a grid with one seed: in ``out``, beside the set's data/ and the split folder ``splits``."""

    def __init__(self, grid: Grid, dataset: str, seed: int, out: Path, splits: str) -> None:
        self.grid, self.dataset, self.out = grid, dataset, out
        self._splits = ["--split_root", f"../{splits}"]
        self._common = ["--net", grid.net, "--seq_len", str(grid.seq_len), "--ds", str(grid.ds), "--img_dim",
                        str(grid.img_dim), "--seed", str(seed), "-j", str(grid.workers), "--precision", grid.precision,
                        "--data_root", "../data", *self._splits]
        self.steps: list[Step] = []
        self.methods: dict[str, MethodPlan] = {}  # with those that they start from
        self._models: dict[tuple[str, str], str] = {}  # (method, stream) -> checkpoint
        for name in grid.methods:
            self._add(name)
        made = {str(step.product): step for step in self.steps}
        turn = partial(_turn, made=made)
        self.steps = [replace(step, beside=number > 0) for _, group in groupby(sorted(self.steps, key=turn), turn)
                      for number, step in enumerate(group)]

    def _add(self, name: str) -> None:
        """Add a method's trainings and evaluations."""
        if name in self.methods:
            return
        method, grid, models = METHODS[name], self.grid, self._models
        if method.kind in ("longer", "mining"):
            self._add(method.start)
        before, plan = len(self.steps), MethodPlan()
        self.methods[name] = plan
        rgb, flow = (name, "RGB"), ("infonce", "flow")
        if method.kind == "random":
            flow = (name, "flow")
            models |= {rgb: "random", flow: "random"}
        elif method.kind == "infonce":
            for stream, suffix in SUFFIXES.items():
                models[name, stream] = self._train(f"{name} {stream}", NCE, f"{self.dataset}{suffix}-2clip",
                                                   grid.infonce_epochs, "--model", "infonce")
        else:
            start, miner = models[method.start, "RGB"], models[flow]
            if RESIDUAL[0] in method.options:
                miner = self._train("infonce residual", NCE, f"{self.dataset}-f-2clip", grid.infonce_epochs, *RESIDUAL)
            if method.kind == "longer":
                script, clips, words = NCE, "2clip", [*method.options, "--pretrain", start]
            else:
                script, clips, words = COCLR, "2stream-2clip", [
                    "--topk", str(grid.topk), "--health_freq", "5", *method.options, "--pretrain", start, miner]
            epochs = round(method.times * grid.coclr_epochs)
            models[rgb] = self._train(f"{name} RGB", script, f"{self.dataset}-{clips}", epochs, *words)
        plan.features = {stream: (str(Path(model).parent / "feature"), f"{self.dataset}{SUFFIXES[stream]}")
                         for stream, model in (("RGB", models[rgb]), ("flow", models[flow])) if model != "random"}
        if method.kind in ("infonce", "mining"):
            plan.run = str(Path(models[rgb]).parents[1])
        self._evaluate(name, plan, rgb, flow)
        plan.steps = self.steps[before:]

    def _train(self, title: str, script: str, dataset: str, epochs: int, *words: str) -> str:
        """Add a pretraining, whose rate drops after four fifths unless ``words`` set it; return its last checkpoint."""
        grid = self.grid
        lr = grid.coclr_lr if "--pretrain" in words else grid.lr
        if "--progressive" in words:  # three phases, together about as long as the others
            epochs = -(-epochs // 3)
        words = (*self._common, "--dataset", dataset, "--batch_size", str(grid.batch_size), "--lr", str(lr),
                 "--moco-k", str(grid.moco_k), "--moco-m", str(grid.moco_m), "--save_freq", str(epochs), "--epochs",
                 str(epochs), "--schedule", str(round(epochs * 4 / 5)), "--name_prefix", f"{title.split()[0]}_",
                 *words, "--resume", "auto")
        options = SCRIPTS[script].parse(words, planned=True)
        if script == COCLR:
            options = main_coclr.phases(options)[-1]
        path = last_checkpoint(SCRIPTS[script].run_folder_of(vars(options)), options.epochs)
        self._step(title, path, script, *words)
        return str(path)

    def _step(self, name: str, product: str | Path, script: str, *words: str) -> None:
        """Add a command, unless another method has added it already."""
        if name not in {step.name for step in self.steps}:
            self.steps.append(Step(name, ("python", str(ROOT / script), *words), Path(product)))

    def _evaluate(self, name: str, plan: MethodPlan, rgb: tuple[str, str], flow: tuple[str, str]) -> None:
        """Add retrieval and probe of a method's two encoders, each (training method, stream), and retrieval by both."""
        features = []
        for owner, stream in (rgb, flow):
            dataset, model = self.dataset + SUFFIXES[stream], self._models[owner, stream]
            words = ["--dataset", dataset, *self._common, "--test", model, "--retrieval"]
            if model == "random":
                model = str(main_classifier.random_weights(vars(main_classifier.parse(words))))
            folder = Path(model).parent / "feature"
            recall = folder / f"{dataset}_recall.json"
            self._step(f"{owner} {stream} retrieval", recall, CLASSIFIER, *words)
            probe = folder / f"{Path(model).name}-lp-{dataset}-acc.json"
            # Evaluated only after the last epoch: picking the best epoch would use test videos.
            self._step(f"{owner} {stream} probe", probe, PROBE, "--test", model, "--dataset", dataset, *self._splits,
                       "--final_bn", "--eval_freq", "0")
            plan.measures |= {f"{stream} R@{k}": (str(recall), (k,)) for k in ("1", "5", "10", "20")}
            plan.measures[f"{stream} probe"] = (str(probe), ("1",))
            features.append(str(folder))
        both = f"results/{name}_both.json"
        self._step(f"{name} both", both, MERGE, "--mode", "s", "--dataset", self.dataset, *self._splits, "--prob1",
                   features[0], "--prob2", features[1], "--output", both)
        plan.measures |= {f"both R@{k}": (both, ("both", k)) for k in ("1", "5", "10", "20")}
