"""The commands of one set and seed, method by method, and the files in which their measures will be."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cotrain_plan import CLASSIFIER, COCLR, NCE, ROOT, Planner, foresee, scheduled
from eval import options as classifier_options
from experiments.settings import METHODS, Grid
from utils import run_folder
from utils.pipeline import Step

PROBE = "eval/feature_linear_probe.py"
FALL = [(4, 5)]  # of the learning rate: after four fifths of the epochs
STREAMS = {"RGB": "", "flow": "-f"}
# Methods of an RGB and of a flow encoder: before co-training, after it, and where labels have helped.
PAIRS = [("infonce", "infonce"), ("coclr", "infonce"), ("taught_coclr", "ubernce")]
CASCADES_FILE = "cascades.json"


@dataclass
class MethodPlan:
    """What a method runs and leaves. measures: by name, the file and the keys in it. journal: metrics.jsonl of the
    RGB encoder's training, "" where there is none."""

    steps: list[Step] = field(default_factory=list)
    measures: dict[str, tuple[str, tuple[str, ...]]] = field(default_factory=dict)
    journal: str = ""


class SeedPlan:
    """All methods of a grid with one seed.

    Args:
        out: the work folder, beside the set's data/. dataset: its name. splits: name of the split folder beside data/.

    Attributes:
        methods: by name, those that the queue allows, and those they start from.
        oracles: files with the signs of mining health and the PMR of the encoders that mine, or might.
        pairs: whose RGB and whose flow encoder are looked at with all cascades, in the order of CASCADES_FILE.
    """

    def __init__(self, grid: Grid, dataset: str, seed: int, out: Path, splits: str) -> None:
        self.grid, self.dataset = grid, dataset
        common = ["--net", grid.net, "--seq_len", str(grid.seq_len), "--img_dim", str(grid.img_dim), "--seed",
                  str(seed), "-j", str(grid.workers), "--precision", grid.precision]
        self.planner = Planner(out, common=common, roots={"--data_root": "../data", "--split_root": f"../{splits}"},
                               processes=1)
        self.methods: dict[str, MethodPlan] = {}
        self._models: dict[tuple[str, str], str] = {}  # of a method's stream
        for name in grid.methods:
            if name not in grid.skipped:
                self._add(name)
        self.oracles = self._plan_oracles()
        self.pairs = self._plan_cascades()

    @property
    def steps(self) -> list[Step]:
        """All steps, in order."""
        return self.planner.steps

    def _add(self, name: str) -> MethodPlan:
        if name not in self.methods:
            for needed in self._needs(name):
                self._add(needed)
            before = len(self.steps)
            self.methods[name] = plan = MethodPlan()
            getattr(self, f"_plan_{METHODS[name].kind}")(name, plan)
            plan.steps = self.steps[before:]
        return self.methods[name]

    def _needs(self, name: str) -> tuple[str, ...]:
        method = METHODS[name]
        if method.miner or method.after:
            return "infonce", method.miner or method.after
        if method.kind == "mining" and method.second_view == "residual":
            return "infonce", "residual_infonce"
        bare = method.kind in ("random", "supervised") or name == "infonce"
        return () if bare else ("infonce",)

    def _plan_random(self, name: str, plan: MethodPlan) -> None:
        self._models |= {(name, stream): "random" for stream in STREAMS}
        self._evaluate(name, plan, (name, "RGB"), (name, "flow"))

    def _plan_supervised(self, name: str, plan: MethodPlan) -> None:
        self._classify(name, plan, "random", "--train_what", "all", "--lr", str(self.grid.label_lr))

    def _plan_infonce(self, name: str, plan: MethodPlan) -> None:
        view = self._view(name)
        for stream in STREAMS:
            if stream == "flow" or not view:
                self._contrast(name, stream, self.grid.infonce_epochs, "--model", "infonce")
        plan.journal = self._journal(name, "flow" if view else "RGB")
        self._evaluate(name, plan, ("infonce", "RGB"), (name, "flow"))

    def _plan_longer(self, name: str, plan: MethodPlan) -> None:
        self._contrast(name, "RGB", self.grid.coclr_epochs, "--model", "infonce", "--pretrain",
                       self._models["infonce", "RGB"])
        self._evaluate(name, plan, (name, "RGB"), ("infonce", "flow"))

    def _plan_ubernce(self, name: str, plan: MethodPlan) -> None:
        for stream in STREAMS:
            self._contrast(name, stream, self.grid.infonce_epochs, "--model", "ubernce")
        self._evaluate(name, plan, (name, "RGB"), (name, "flow"))

    def _plan_mining(self, name: str, plan: MethodPlan) -> None:
        method = METHODS[name]
        oracle = (method.miner or ("residual_infonce" if method.second_view == "residual" else "infonce"), "flow")
        self._mine(name, "RGB", self._models[method.after or "infonce", "RGB"], self._models[oracle])
        plan.journal = self._journal(name, "RGB")
        flow = oracle
        if name in self.grid.cycle:
            self._mine(name, "flow", self._models[oracle], self._models[name, "RGB"], "--reverse")
            flow = (name, "flow")
        self._evaluate(name, plan, (name, "RGB"), flow)

    def _plan_oracles(self) -> list[str]:
        """Look at the InfoNCE encoders of all views as miners, after their first epoch and after their last."""
        rgb, flow, residual = ("infonce", "RGB"), ("infonce", "flow"), ("residual_infonce", "flow")
        found = []
        for view, own, miner, words in (("flow", rgb, flow, ()), ("RGB", flow, rgb, ("--reverse",)),
                                        ("residual", rgb, residual, self._view("residual_infonce"))):
            if own in self._models and miner in self._models and miner[0] in self.methods:
                found.append(f"oracles_{view}.json")
                miners = self._models[miner]
                self._add_evaluation(f"oracles {view}", found[-1], [miners], "experiments/oracles.py", [
                    "--result", found[-1], "--early", "--miners", miners, "--own", self._models[own], *words,
                    *self._mining()])
        return found

    def _plan_cascades(self) -> list[tuple[str, str]]:
        """Mine with the grid's cascades in pairs of encoders, whatever they were trained with."""
        found = [(rgb, flow) for rgb, flow in PAIRS if {(rgb, "RGB"), (flow, "flow")} <= set(self._models)]
        cascades = dict.fromkeys(METHODS[name].cascade for name in self.methods)
        words = [f"{each[0]},{each[1]}" for each in cascades if each is not None]
        if not found or not words:
            return []
        own, other = ([self._models[pair[i], stream] for pair in found] for i, stream in enumerate(STREAMS))
        self._add_evaluation("cascades", CASCADES_FILE, [*own, *other], "experiments/cascades.py", [
            "--result", CASCADES_FILE, "--own", *own, "--other", *other, "--cascades", *words, *self._mining()])
        return found

    def _mining(self) -> list[str]:
        """The options of main_coclr.py for what only looks at the mining."""
        return ["--dataset", f"{self.dataset}-2stream-2clip", *self.planner.common, *self.planner.roots, "--batch_size",
                str(self.grid.batch_size), "--moco-k", str(self.grid.moco_k), "--topk", str(self.grid.topk)]

    def _view(self, name: str) -> tuple[str, ...]:
        view = METHODS[name].second_view
        return () if view == "flow" else ("--second_view", view)

    def _pretraining(self, name: str, epochs: int) -> list[str]:
        grid = self.grid
        return ["--batch_size", str(grid.batch_size), "--lr", str(grid.lr), "--moco-k", str(grid.moco_k), "--moco-m",
                str(grid.moco_m), "--save_freq", str(epochs), "--name_prefix", f"{name}_", *scheduled(epochs, FALL)]

    def _contrast(self, name: str, stream: str, epochs: int, *words: str) -> None:
        view = self._view(name) if stream == "flow" else ()
        self._models[name, stream] = self.planner.pretrain(
            f"{name} {stream}", NCE, "--dataset", f"{self.dataset}{STREAMS[stream]}-2clip", *view,
            *self._pretraining(name, epochs), *words)

    def _mine(self, name: str, stream: str, own: str, other: str, *words: str) -> None:
        self._models[name, stream] = self.planner.pretrain(
            f"{name} {stream}", COCLR, "--dataset", f"{self.dataset}-2stream-2clip", *self._view(name),
            *self._pretraining(name, self.grid.coclr_epochs), "--topk", str(self.grid.topk), "--health_freq", "5",
            *METHODS[name].words, *words, "--pretrain", own, other)

    def _journal(self, name: str, stream: str) -> str:
        return str(Path(self._models[name, stream]).parents[1] / "metrics.jsonl")

    def _evaluate(self, name: str, plan: MethodPlan, rgb: tuple[str, str], flow: tuple[str, str]) -> None:
        """Retrieval and probe of a method's two encoders, retrieval by both, and finetuning of the RGB one."""
        made = []
        for (owner, stream), suffix in zip((rgb, flow), STREAMS.values(), strict=True):
            dataset, view = self.dataset + suffix, self._view(owner) if suffix else ()
            folder = self._retrieve(f"{owner} {stream} retrieval", dataset, self._models[owner, stream], view)
            made.append(folder)
            plan.measures |= {f"{stream} R@{k}": (f"{folder}/{dataset}_recall.json", (k,))
                              for k in ("1", "5", "10", "20")}
            plan.measures[f"{stream} probe"] = self._probe(f"{owner} {stream} probe", dataset, folder,
                                                           self._models[owner, stream])
        both = f"results/{name}_both.json"
        recalls = [f"{folder}/{self.dataset}{suffix}_recall.json"
                   for folder, suffix in zip(made, STREAMS.values(), strict=True)]
        self.planner.merge(f"{name} both", both, self.dataset, "s", recalls, made)
        plan.measures |= {f"both R@{k}": (both, ("both", k)) for k in ("1", "5", "10", "20")}
        if name in self.grid.finetuned:
            self._classify(name, plan, self._models[rgb], "--train_what", "ft", "--lr", str(self.grid.finetune_lr))

    def _retrieve(self, name: str, dataset: str, model: str, view: Sequence[str]) -> str:
        argv = ["--dataset", dataset, *view, *self.planner.common, *self.planner.roots, "--test", model, "--retrieval"]
        folder = Path(model).parent / "feature"
        if model == "random":
            args = classifier_options.parse(argv, "")
            home = run_folder.classifier_folder(args, 1)
            folder = home.with_name(f"{home.name}_pt=random") / "model" / "feature"
        self._add_evaluation(name, folder / f"{dataset}_recall.json", [] if model == "random" else [model],
                             CLASSIFIER, argv)
        return str(folder)

    def _probe(self, name: str, dataset: str, folder: str, model: str) -> tuple[str, tuple[str, ...]]:
        """The linear probe on features, evaluated at its end alone: the best epoch would be chosen by test videos."""
        path = Path(folder).parent / Path(model).name
        result = Path(folder) / f"{path.name}-lp-{dataset}-acc.json"
        self._add_evaluation(name, result, [f"{folder}/{dataset}_recall.json"], PROBE,
                             ["--test", str(path), "--dataset", dataset, *self.planner.splits, "--final_bn",
                              "--eval_freq", "0"])
        return str(result), ("1",)

    def _classify(self, name: str, plan: MethodPlan, start: str, *words: str) -> None:
        """Training with labels, and the test of its last epoch with centre crops: no epoch is chosen by test videos."""
        argv = ["--dataset", self.dataset, *self.planner.common, *self.planner.roots, "--batch_size",
                str(self.grid.label_batch_size), "--dropout", "0.5", *words]
        epochs = self.grid.label_epochs
        training = [*argv, *scheduled(epochs, FALL), "--eval_freq", str(epochs), "--pretrain", start, "--resume",
                    "auto"]
        args, path = foresee(CLASSIFIER, training, self.planner.made)
        result = f"{path}-acc-center.json"
        if str(path) not in self.planner.made:  # methods may share an encoder
            self.planner.add_training(f"{name} training with labels", ("python", str(ROOT / CLASSIFIER), *training),
                                      args, path, {"gpus": 1})
            self._add_evaluation(f"{name} test", result, [str(path)], CLASSIFIER,
                                 [*argv, "--test", str(path), "--center_crop"])
        plan.measures["RGB finetune"] = (result, ("center", "1"))

    def _add_evaluation(self, name: str, result: str | Path, made_from: list[str], script: str, words: list[str]
                        ) -> None:
        """Two methods may share an encoder, whose evaluation is then one step."""
        if name not in {step.name for step in self.steps}:
            self.planner.add_evaluation(name, str(result), made_from, ("python", str(ROOT / script), *words), shown=3)
