"""The commands that train and evaluate the methods of a grid with one seed, and the files with their measures."""

from dataclasses import dataclass, field
from pathlib import Path

import main_coclr
from cotrain import CLASSIFIER, MERGE, ROOT, SCRIPTS
from engine.run_folder import last_checkpoint
from eval import main_classifier
from experiments.settings import METHODS, Grid
from utils.runner import Step

NCE, COCLR, PROBE = "main_nce.py", "main_coclr.py", "eval/feature_linear_probe.py"
SUFFIXES = {"RGB": "", "flow": "-f"}  # of the dataset's name


@dataclass
class MethodPlan:
    """The commands of a method, and the files with its results.

    Attributes:
        steps: its commands, except those shared with earlier methods.
        measures: by name, a file and the keys in it.
        run: run folder of the RGB encoder's pretraining, "" if there is none.
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
        methods: by name, those that the queue length allows and those that they start from.
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

    def _add(self, name: str) -> None:
        if name in self.methods:
            return
        if METHODS[name].kind in ("longer", "mining"):
            self._add("infonce")
        before = len(self.steps)
        self.methods[name] = plan = MethodPlan()
        if METHODS[name].kind == "supervised":
            self._classify(name, plan, "random", "--train_what", "all", "--lr", str(self.grid.label_lr))
        else:
            rgb, flow = self._pretrain(name, plan)
            self._evaluate(name, plan, rgb, flow)
        plan.steps = self.steps[before:]

    def _pretrain(self, name: str, plan: MethodPlan) -> tuple[tuple[str, str], tuple[str, str]]:
        """Plan a method's trainings; return its RGB and flow encoder, each as (training method, stream)."""
        method, grid, models = METHODS[name], self.grid, self._models
        rgb, flow = (name, "RGB"), (name, "flow")
        if method.kind == "random":
            models |= {rgb: "random", flow: "random"}
        elif method.kind in ("infonce", "ubernce"):
            for owner in (rgb, flow):
                models[owner] = self._contrast(*owner, grid.infonce_epochs, "--model", method.kind)
        elif method.kind == "longer":
            flow = ("infonce", "flow")
            models[rgb] = self._contrast(*rgb, grid.coclr_epochs, "--model", "infonce", "--pretrain",
                                         models["infonce", "RGB"])
        else:
            flow = ("infonce", "flow")
            models[rgb] = self._train(
                f"{name} RGB", COCLR, "--dataset", f"{self.dataset}-2stream-2clip",
                *self._pretraining(name, grid.coclr_epochs), "--topk", str(grid.topk), "--health_freq", "5",
                *method.options, "--pretrain", models["infonce", "RGB"], models[flow])
        if method.kind in ("infonce", "mining"):
            plan.run = str(Path(models[rgb]).parents[1])
        return rgb, flow

    def _pretraining(self, name: str, epochs: int) -> list[str]:
        grid = self.grid
        return ["--batch_size", str(grid.batch_size), "--lr", str(grid.lr), "--moco-k", str(grid.moco_k), "--moco-m",
                str(grid.moco_m), "--save_freq", str(epochs), "--name_prefix", f"{name}_", *_schedule(epochs)]

    def _contrast(self, name: str, stream: str, epochs: int, *words: str) -> str:
        return self._train(f"{name} {stream}", NCE, "--dataset", f"{self.dataset}{SUFFIXES[stream]}-2clip",
                           *self._pretraining(name, epochs), *words)

    def _train(self, name: str, script: str, *words: str) -> str:
        """Add a training; return the path of its last checkpoint."""
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
        """Add retrieval and probe of a method's two encoders, retrieval by both, and finetuning of the RGB one."""
        features = []
        for (owner, stream), suffix in zip((rgb, flow), SUFFIXES.values(), strict=True):
            dataset, model = self.dataset + suffix, self._models[owner, stream]
            words = ["--dataset", dataset, *self._common, "--test", model, "--retrieval"]
            if model == "random":
                model = str(main_classifier.random_weights(main_classifier.parse(words)))
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
        if name in self.grid.finetuned:
            self._classify(name, plan, self._models[rgb], "--train_what", "ft", "--lr", str(self.grid.finetune_lr))

    def _classify(self, name: str, plan: MethodPlan, start: str, *words: str) -> None:
        """Add a supervised training and the test of its last epoch; test videos never select an epoch."""
        words = ("--dataset", self.dataset, "--batch_size", str(self.grid.label_batch_size), "--dropout", "0.5", *words)
        epochs = self.grid.label_epochs
        path = self._train(f"{name} training with labels", CLASSIFIER, *words, *_schedule(epochs), "--eval_freq",
                           str(epochs), "--pretrain", start)
        result = f"{path}-acc-center.json"
        self._step(f"{name} test", result, CLASSIFIER, *words, *self._common, "--test", path, "--center_crop")
        plan.measures["RGB finetune"] = (result, ("center", "1"))


def _schedule(epochs: int) -> list[str]:
    """Return --epochs, and --schedule to drop the learning rate after four fifths of them."""
    return ["--epochs", str(epochs), "--schedule", str(round(epochs * 4 / 5))]
