"""The grids of the experiment: how large the rendered set is, how long each training, which methods, which seeds.

The settings were chosen on the validation split of the training groups (`--validation`), never on test groups.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from model.cascade import stage_sizes
from model.errors import ModelError
from utils.errors import OptionError

CASCADES = [(stage, ratio) for stage in (3, 5, 7) for ratio in (0.5, 0.8)]


@dataclass(frozen=True)
class Method:
    """One way to train the RGB encoder.

    title: in tables. kind: "random" (no training), "supervised" (from scratch), "infonce", "longer" (InfoNCE for as
    many epochs as InfoNCE and co-training together), "ubernce" or "mining" (main_coclr.py). words: of its command
    line. second_view: what the other encoder sees. cascade: (stage, ratio) of a cascade. miner: the method whose flow
    encoder mines; "": InfoNCE on the second view. after: the method whose RGB encoder is trained on; "": InfoNCE's.
    """

    title: str
    kind: str
    words: tuple[str, ...] = ()
    second_view: str = "flow"
    cascade: tuple[int, float] | None = None
    miner: str = ""
    after: str = ""


def cascade_title(stage: int, ratio: float) -> str:
    """A cascade's settings, in tables."""
    return f"s = {stage}, r = {ratio}"


def _cascade(stage: int, ratio: float, *words: str, title: str = "CPR", second_view: str = "flow") -> Method:
    return Method(f"{title}, {cascade_title(stage, ratio)}", "mining",
                  ("--cascade", "--stage", str(stage), "--ratio", str(ratio), *words), second_view, (stage, ratio))


METHODS: Mapping[str, Method] = {
    "random": Method("random weights", "random"),
    "supervised": Method("supervised from scratch", "supervised"),
    "infonce": Method("InfoNCE", "infonce"),
    "infonce_longer": Method("InfoNCE, as long as CoCLR", "longer"),
    "coclr": Method("CoCLR", "mining"),
    **{f"cpr_s{stage}_r{ratio}": _cascade(stage, ratio) for stage, ratio in CASCADES},
    "progressive": _cascade(3, 0.8, "--progressive", "1", "2", "5", title="CPR, progressive"),
    # From the same encoders with the same miner, so that they differ in their mining alone.
    "coclr_longer": Method("CoCLR, twice as long", "mining", after="coclr"),
    "cpr_later": replace(_cascade(3, 0.5, title="CoCLR, then CPR"), after="coclr"),
    "residual_infonce": Method("InfoNCE, residual frames for flow", "infonce", second_view="residual"),
    "residual_coclr": Method("CoCLR, residual frames for flow", "mining", second_view="residual"),
    "residual_cpr": _cascade(3, 0.8, title="CPR, residual frames for flow", second_view="residual"),
    "ubernce": Method("UberNCE (with labels)", "ubernce"),
    "taught_coclr": Method("CoCLR, mined in UberNCE's flow (with labels)", "mining", miner="ubernce"),
    "taught_cpr": replace(_cascade(3, 0.8), title="CPR, mined in UberNCE's flow (with labels)", miner="ubernce"),
}


@dataclass(frozen=True)
class Grid:
    """Everything that a result depends on besides the seed.

    classes, groups, clips, frames, size, pace, spread, typical, colours, muted: of the rendered set, see
    `render_demo.py`.
    seq_len, img_dim: frames and pixels of a clip. batch_size, moco_k, moco_m, lr, topk: of pretraining.
    label_batch_size, label_lr: of training with labels. finetune_lr: of a finetuned model's new layer, its backbone
    takes a tenth. *_epochs: of InfoNCE and UberNCE, of CoCLR and CPR (each phase
    of progressive training), of training with labels (from scratch, and finetuning). finetuned: methods whose RGB model
    is finetuned. cycle: methods that also train the flow encoder, with positives mined by the new RGB encoder.
    precision: of all trainings, as --precision. fights: what is different for the real clips, of which there are fewer:
    a smaller queue, and more epochs.
    """

    methods: tuple[str, ...]
    seeds: tuple[int, ...] = (0, 1, 2)
    classes: int = 10
    groups: int = 24
    clips: int = 2
    frames: int = 20
    size: str = "64x48"
    pace: float = 1.6
    spread: float = 0.2
    typical: float = 1.0
    colours: str = "class"
    muted: float = 0.3
    seq_len: int = 8
    img_dim: int = 32
    batch_size: int = 16
    label_batch_size: int = 8
    moco_k: int = 128
    moco_m: float = 0.99
    lr: float = 3e-4
    label_lr: float = 2e-4
    finetune_lr: float = 1e-3
    topk: int = 5
    infonce_epochs: int = 15
    coclr_epochs: int = 10
    label_epochs: int = 15
    finetuned: tuple[str, ...] = ()
    cycle: tuple[str, ...] = ()
    net: str = "s3d"
    workers: int = 0
    precision: str = "bf16"
    fights: Mapping[str, Any] = field(default_factory=dict)

    def on(self, name: str) -> "Grid":
        """The settings for a set."""
        return replace(self, fights={}, **(self.fights if name == "fights" else {}))

    @property
    def skipped(self) -> dict[str, str]:
        """Methods whose cascade this queue does not allow, and why."""
        found = {}
        for name in self.methods:
            cascade = METHODS[name].cascade
            if cascade is not None:
                try:
                    stage_sizes(self.moco_k, self.topk, cascade[1], cascade[0])
                except ModelError as error:
                    found[name] = str(error)
        return found


# The most telling first: a grid that is stopped has whole methods.
ALL = ("random", "supervised", "infonce", "infonce_longer", "coclr", "cpr_s3_r0.8", "ubernce", "cpr_s3_r0.5",
       "cpr_s5_r0.5", "cpr_s5_r0.8", "cpr_s7_r0.5", "cpr_s7_r0.8", "progressive", "coclr_longer", "cpr_later",
       "residual_infonce", "residual_coclr", "residual_cpr", "taught_coclr", "taught_cpr")
FINETUNED = ("random", "infonce", "infonce_longer", "coclr", "cpr_s3_r0.8", "ubernce", "residual_coclr", "progressive",
             "coclr_longer", "cpr_later")
# 113 training clips make 7 steps an epoch where the rendered set makes 21
FIGHTS = {"moco_k": 64, "infonce_epochs": 24, "coclr_epochs": 18, "label_epochs": 16}
# Labels teach flow nothing there, nor flow CoCLR: what goes on from these is left out.
FIGHTS_FULL = {"moco_k": 64, "infonce_epochs": 40, "coclr_epochs": 24, "label_epochs": 16,
               "methods": tuple(name for name in ALL if not METHODS[name].after and not METHODS[name].miner),
               "finetuned": ("random", "infonce_longer", "coclr", "cpr_s3_r0.8", "ubernce")}
GRIDS: Mapping[str, Grid] = {
    "full": Grid(ALL, lr=1e-4, infonce_epochs=50, coclr_epochs=30, label_epochs=12, finetuned=FINETUNED,
                 fights=FIGHTS_FULL),
    "reduced": Grid(("random", "supervised", "infonce", "infonce_longer", "coclr", "cpr_s3_r0.8", "ubernce"),
                    infonce_epochs=12, coclr_epochs=9, label_epochs=8, fights=FIGHTS),
    "tiny": Grid(("supervised", "infonce", "coclr", "cpr_s3_r0.8", "cpr_s7_r0.5"), seeds=(0, 1), classes=2, groups=4,
                 clips=4, frames=16, size="32x32", batch_size=2, label_batch_size=2, moco_k=8, topk=2, infonce_epochs=1,
                 coclr_epochs=2, label_epochs=1, finetuned=("coclr",), fights={"label_batch_size": 4}),
}


def _several(name: str, value: str) -> tuple[Any, ...]:
    return tuple(int(each) if name == "seeds" else each for each in value.split(","))


def changed(grid: Grid, changes: Iterable[str]) -> Grid:
    """A grid with other settings, on every set: ("lr=1e-3", "methods=infonce,coclr", ...).

    Raises:
        OptionError: there is no such setting, or it cannot have this value.
    """
    kinds = {each.name: type(getattr(grid, each.name)) for each in fields(grid)}
    new: dict[str, Any] = {}
    for change in changes:
        name, _, value = change.partition("=")
        if name not in kinds or not value:
            raise OptionError(f"--change {change}: give NAME=VALUE with a name among {', '.join(kinds)}")
        try:
            new[name] = _several(name, value) if kinds[name] is tuple else kinds[name](value)
        except ValueError as error:
            raise OptionError(f"--change {change}: {error}") from error
    kept = {name: value for name, value in grid.fights.items() if name not in new}
    grid = replace(grid, **{"fights": kept, **new})
    unknown = {name for name in (*grid.methods, *grid.finetuned, *grid.cycle) if name not in METHODS}
    if unknown:
        raise OptionError(f"there is no method {min(unknown)}: take some of {', '.join(METHODS)}")
    return grid
