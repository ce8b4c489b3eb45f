"""The commands that train and evaluate the methods of a grid with one seed, and the files with their measures."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import main_coclr
from cotrain import CLASSIFIER, MERGE, ROOT, SCRIPTS
from engine.run_folder import last_checkpoint
from eval import main_classifier
from experiments.settings import METHODS, Grid
from utils.runner import Step

NCE, COCLR, PROBE, STUDY = "main_nce.py", "main_coclr.py", "eval/feature_linear_probe.py", "experiments/study.py"
SUFFIXES = {"RGB": "", "flow": "-f"}  # of the dataset's name
# Methods of an RGB and of a flow encoder: before co-training, after it, and where labels have helped.
PAIRS = [("infonce", "infonce"), ("coclr", "infonce"), ("taught_coclr", "ubernce")]
CASCADES_FILE = "cascades.json"


@dataclass
class MethodPlan:
    """What a method runs and leaves.

    Attributes:
        steps: its commands, without those that it shares with earlier methods.
        measures: by name, a file and the keys in it.
        run: run folder of the RGB encoder's training, "" if there is none.
    """

    steps: list[Step] = field(default_factory=list)
    measures: dict[str, tuple[str, tuple[str, ...]]] = field(default_factory=dict)
    run: str = ""


class SeedPlan:
    """All methods of a grid with one seed.

    Args:
        dataset: name of the set.
        out: the work folder, beside the set's data/.
        splits: name of the split folder beside data/.

    Attributes:
        steps: all commands, in order.
        methods: those that the queue allows and those that they start from, by name.
        miners: by view, the file with what the InfoNCE encoders are like as miners.
        pairs: the methods of the RGB and of the flow encoders in CASCADES_FILE.
    """

    def __init__(self, grid: Grid, dataset: str, seed: int, out: Path, splits: str) -> None:
        self.grid, self.dataset, self.out = grid, dataset, out
        self._splits = ["--split_root", f"../{splits}"]
        self._common = ["--net", grid.net, "--seq_len", str(grid.seq_len), "--img_dim", str(grid.img_dim), "--seed",
                        str(seed), "-j", str(grid.workers), "--precision", grid.precision, "--data_root", "../data",
                        *self._splits]
        self.steps: list[Step] = []
        self.methods: dict[str, MethodPlan] = {}
        self._models: dict[tuple[str, str], str] = {}  # (method, stream) -> checkpoint
        for name in grid.methods:
            if name not in grid.skipped:
                self._add(name)
        self.miners = self._study_miners()
        self.pairs = self._study_cascades()

    def _add(self, name: str) -> None:
        if name in self.methods:
            return
        for needed in self._needs(name):
            self._add(needed)
        before = len(self.steps)
        self.methods[name] = plan = MethodPlan()
        plans = {"random": self._random, "supervised": self._supervised, "infonce": self._infonce,
                 "longer": self._longer, "ubernce": self._ubernce, "mining": self._mining}
        plans[METHODS[name].kind](name, plan)
        plan.steps = self.steps[before:]

    def _needs(self, name: str) -> tuple[str, ...]:
        method = METHODS[name]
        if method.kind == "mining":
            residual = "residual_infonce" if method.second_view == "residual" else ""
            return tuple(each for each in ("infonce", method.miner or residual, method.after) if each)
        return ("infonce",) if method.kind in ("longer", "ubernce") or method.second_view == "residual" else ()

    def _random(self, name: str, plan: MethodPlan) -> None:
        self._models |= {(name, stream): "random" for stream in SUFFIXES}
        self._evaluate(name, plan, (name, "RGB"), (name, "flow"))

    def _supervised(self, name: str, plan: MethodPlan) -> None:
        self._classify(name, plan, "random", "--train_what", "all", "--lr", str(self.grid.label_lr))

    def _infonce(self, name: str, plan: MethodPlan) -> None:
        if name == "infonce":
            self._contrast(name, "RGB", self.grid.infonce_epochs, "--model", "infonce")
        self._contrast(name, "flow", self.grid.infonce_epochs, "--model", "infonce")
        plan.run = self._run(name, "RGB" if name == "infonce" else "flow")
        self._evaluate(name, plan, ("infonce", "RGB"), (name, "flow"))

    def _longer(self, name: str, plan: MethodPlan) -> None:
        self._contrast(name, "RGB", self.grid.coclr_epochs, "--model", "infonce", "--pretrain",
                       self._models["infonce", "RGB"])
        self._evaluate(name, plan, (name, "RGB"), ("infonce", "flow"))

    def _ubernce(self, name: str, plan: MethodPlan) -> None:
        for stream in SUFFIXES:
            self._contrast(name, stream, self.grid.infonce_epochs, "--model", "ubernce")
        self._evaluate(name, plan, (name, "RGB"), (name, "flow"))

    def _mining(self, name: str, plan: MethodPlan) -> None:
        method = METHODS[name]
        miner = (method.miner or ("residual_infonce" if method.second_view == "residual" else "infonce"), "flow")
        self._models[name, "RGB"] = self._train(
            f"{name} RGB", COCLR, "--dataset", f"{self.dataset}-2stream-2clip", *self._view(name),
            *self._pretraining(name, self.grid.coclr_epochs), "--topk", str(self.grid.topk), "--health_freq", "5",
            *method.options, "--pretrain", self._models[method.after or "infonce", "RGB"], self._models[miner])
        plan.run = self._run(name, "RGB")
        self._evaluate(name, plan, (name, "RGB"), miner)

    def _study_miners(self) -> dict[str, str]:
        """Look at the InfoNCE encoders of all views as miners, after their first epoch and after their last."""
        rgb, flow, residual = ("infonce", "RGB"), ("infonce", "flow"), ("residual_infonce", "flow")
        found = {}
        for view, own, other, words in (("flow", rgb, flow, ()), ("RGB", flow, rgb, ("--reverse",)),
                                        ("residual", rgb, residual, self._view("residual_infonce"))):
            if own in self._models and other in self._models:
                found[view] = f"miners_{view}.json"
                self._study(f"miners {view}", found[view], [self._models[own]], [self._models[other]], "--early",
                            *words)
        return found

    def _study_cascades(self) -> list[tuple[str, str]]:
        """Mine with the grid's cascades in pairs of encoders, whatever they were trained with."""
        found = [(rgb, flow) for rgb, flow in PAIRS if {(rgb, "RGB"), (flow, "flow")} <= set(self._models)]
        cascades = dict.fromkeys(METHODS[name].cascade for name in self.methods)
        words = [f"{each[0]},{each[1]}" for each in cascades if each is not None]
        if not found or not words:
            return []
        own, other = ([self._models[pair[i], stream] for pair in found] for i, stream in enumerate(SUFFIXES))
        self._study("cascades", CASCADES_FILE, own, other, "--cascades", *words)
        return found

    def _study(self, name: str, result: str, own: Sequence[str], other: Sequence[str], *words: str) -> None:
        self._step(name, result, STUDY, "--result", result, "--own", *own, "--other", *other, *words, "--dataset",
                   f"{self.dataset}-2stream-2clip", *self._common, "--batch_size", str(self.grid.batch_size),
                   "--moco-k", str(self.grid.moco_k), "--topk", str(self.grid.topk))

    def _view(self, name: str) -> tuple[str, ...]:
        view = METHODS[name].second_view
        return () if view == "flow" else ("--second_view", view)

    def _run(self, name: str, stream: str) -> str:
        return str(Path(self._models[name, stream]).parents[1])

    def _pretraining(self, name: str, epochs: int) -> list[str]:
        grid = self.grid
        return ["--batch_size", str(grid.batch_size), "--lr", str(grid.lr), "--moco-k", str(grid.moco_k), "--moco-m",
                str(grid.moco_m), "--save_freq", str(epochs), "--name_prefix", f"{name}_", *_schedule(epochs)]

    def _contrast(self, name: str, stream: str, epochs: int, *words: str) -> None:
        view = self._view(name) if stream == "flow" else ()
        self._models[name, stream] = self._train(
            f"{name} {stream}", NCE, "--dataset", f"{self.dataset}{SUFFIXES[stream]}-2clip", *view,
            *self._pretraining(name, epochs), *words)

    def _train(self, name: str, script: str, *words: str) -> str:
        """Add a training; the last checkpoint that it will leave."""
        words = (*self._common, *words, "--resume", "auto")
        options = SCRIPTS[script].parse(words, planned=True)
        if script == COCLR:
            options = main_coclr.phases(options)[-1]
        path = last_checkpoint(SCRIPTS[script].run_folder_of(options), options.epochs)
        self._step(name, path, script, *words)
        return str(path)

    def _step(self, name: str, product: str | Path, script: str, *words: str) -> None:
        """Add a command, unless another method has added it already."""
        if name not in {step.name for step in self.steps}:
            self.steps.append(Step(name, ("python", str(ROOT / script), *words), Path(product)))

    def _evaluate(self, name: str, plan: MethodPlan, rgb: tuple[str, str], flow: tuple[str, str]) -> None:
        """Retrieval and probe of a method's two encoders, retrieval by both, and finetuning of the RGB one."""
        features = []
        for (owner, stream), suffix in zip((rgb, flow), SUFFIXES.values(), strict=True):
            dataset, model = self.dataset + suffix, self._models[owner, stream]
            words = ["--dataset", dataset, *(self._view(owner) if suffix else ()), *self._common, "--test", model,
                     "--retrieval"]
            if model == "random":
                model = str(main_classifier.random_weights(main_classifier.parse(words)))
            folder = Path(model).parent / "feature"
            self._step(f"{owner} {stream} retrieval", folder / f"{dataset}_recall.json", CLASSIFIER, *words)
            probe = folder / f"{Path(model).name}-lp-{dataset}-acc.json"
            # Evaluated at its end alone: the best epoch would be chosen by test videos.
            self._step(f"{owner} {stream} probe", probe, PROBE, "--test", model, "--dataset", dataset, *self._splits,
                       "--final_bn", "--eval_freq", "0")
            plan.measures |= {f"{stream} R@{k}": (f"{folder}/{dataset}_recall.json", (k,))
                              for k in ("1", "5", "10", "20")} | {f"{stream} probe": (str(probe), ("1",))}
            features.append(str(folder))
        both = f"results/{name}_both.json"
        self._step(f"{name} both", both, MERGE, "--mode", "s", "--dataset", self.dataset, *self._splits, "--prob1",
                   features[0], "--prob2", features[1], "--output", both)
        plan.measures |= {f"both R@{k}": (both, ("both", k)) for k in ("1", "5", "10", "20")}
        if name in self.grid.finetuned:
            self._classify(name, plan, self._models[rgb], "--train_what", "ft", "--lr", str(self.grid.finetune_lr))

    def _classify(self, name: str, plan: MethodPlan, start: str, *words: str) -> None:
        """Training with labels, and the test of its last epoch with centre crops: no epoch is chosen by test videos."""
        words = ("--dataset", self.dataset, "--batch_size", str(self.grid.label_batch_size), "--dropout", "0.5", *words)
        epochs = self.grid.label_epochs
        path = self._train(f"{name} training with labels", CLASSIFIER, *words, *_schedule(epochs), "--eval_freq",
                           str(epochs), "--pretrain", start)
        result = f"{path}-acc-center.json"
        self._step(f"{name} test", result, CLASSIFIER, *words, *self._common, "--test", path, "--center_crop")
        plan.measures["RGB finetune"] = (result, ("center", "1"))


def _schedule(epochs: int) -> list[str]:
    """Let the learning rate fall after four fifths of the epochs."""
    return ["--epochs", str(epochs), "--schedule", str(round(epochs * 4 / 5))]
