"""The grids of the experiment: the rendered set, the methods, how long each trains, and the seeds.

The settings were chosen on the validation split of the training groups (`--validation`), never on test groups.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from model.cascade import stage_sizes
from utils.errors import ModelError, OptionError

CASCADES = [(stage, ratio) for stage in (3, 5, 7) for ratio in (0.5, 0.8)]


@dataclass(frozen=True)
class Method:
    """One way to train the RGB encoder.

    Attributes:
        title: in tables.
        kind: "random" (no training), "supervised" (from scratch), "infonce", "longer" (InfoNCE for as many epochs as
            InfoNCE and co-training together), "ubernce" or "mining" (main_coclr.py).
        options: of its command line.
        second_view: what the other encoder sees.
        cascade: (stage, ratio).
        miner: the method whose flow encoder mines; "": InfoNCE on the second view.
        after: the method whose RGB encoder is trained on; "": InfoNCE's.
    """

    title: str
    kind: str
    options: tuple[str, ...] = ()
    second_view: str = "flow"
    cascade: tuple[int, float] | None = None
    miner: str = ""
    after: str = ""


def cascade_title(stage: int, ratio: float) -> str:
    """Name a cascade's settings, as tables do."""
    return f"s = {stage}, r = {ratio}"


def _cascade(stage: int, ratio: float, *options: str, title: str = "CPR", second_view: str = "flow") -> Method:
    return Method(f"{title}, {cascade_title(stage, ratio)}", "mining",
                  ("--cascade", "--stage", str(stage), "--ratio", str(ratio), *options), second_view, (stage, ratio))


METHODS: Mapping[str, Method] = {
    "random": Method("random weights", "random"),
    "supervised": Method("supervised from scratch", "supervised"),
    "infonce": Method("InfoNCE", "infonce"),
    "infonce_longer": Method("InfoNCE, as long as CoCLR", "longer"),
    "coclr": Method("CoCLR", "mining"),
    **{f"cpr_s{stage}_r{ratio}": _cascade(stage, ratio) for stage, ratio in CASCADES},
    "progressive": _cascade(3, 0.8, "--progressive", "1", "2", "5", title="CPR, progressive"),
    # Both start from the same encoders with the same miner: they differ in their mining alone.
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
    """All that a result depends on besides the seed.

    Attributes:
        methods, seeds: what is trained. finetuned: the methods whose RGB model is finetuned.
        classes ... muted: of the rendered set, see `rendered_set.py`.
        seq_len, img_dim, net: frames and pixels of a clip, and the network.
        batch_size, moco_k, moco_m, lr, topk: of pretraining.
        label_batch_size, label_lr: of training with labels. finetune_lr: of a finetuned model's new layer; its
            backbone takes a tenth.
        infonce_epochs: of InfoNCE and UberNCE. coclr_epochs: of CoCLR and CPR, for progressive training of each
            phase. label_epochs: of training with labels, from scratch and in finetuning.
        workers, precision: -j and --precision of all trainings.
        fights: settings that differ for the real clips, of which there are fewer: a smaller queue, and more epochs.
    """

    methods: tuple[str, ...]
    seeds: tuple[int, ...] = (0, 1, 2)
    finetuned: tuple[str, ...] = ()
    classes: int = 10
    groups: int = 24
    clips: int = 2
    frames: int = 20
    size: str = "64x48"
    pace: float = 1.6
    spread: float = 0.2
    typical: float = 1.0
    muted: float = 0.3
    seq_len: int = 8
    img_dim: int = 32
    net: str = "s3d"
    batch_size: int = 16
    moco_k: int = 128
    moco_m: float = 0.99
    lr: float = 3e-4
    topk: int = 5
    label_batch_size: int = 8
    label_lr: float = 2e-4
    finetune_lr: float = 1e-3
    infonce_epochs: int = 15
    coclr_epochs: int = 10
    label_epochs: int = 15
    workers: int = 0
    precision: str = "bf16"
    fights: Mapping[str, Any] = field(default_factory=dict)

    def on(self, name: str) -> "Grid":
        """Return the settings for one of the sets."""
        return replace(self, fights={}, **(self.fights if name == "fights" else {}))

    @property
    def skipped(self) -> dict[str, str]:
        """Methods whose cascade this queue does not allow, with the reason."""
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
# 113 training clips make 7 steps an epoch; the rendered set makes 21.
FIGHTS = {"moco_k": 64, "infonce_epochs": 24, "coclr_epochs": 18, "label_epochs": 16}
# Labels teach flow nothing there, and flow teaches CoCLR nothing: methods that build on these are left out.
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


def changed(grid: Grid, changes: Iterable[str]) -> Grid:
    """Change settings of a grid on every set: ("lr=1e-3", "methods=infonce,coclr", ...).

    Raises:
        OptionError: there is no such setting, or it cannot have this value.
    """
    kinds = {each.name: type(getattr(grid, each.name)) for each in fields(grid) if each.name != "fights"}
    new: dict[str, Any] = {}
    for change in changes:
        name, _, value = change.partition("=")
        if name not in kinds or not value:
            raise OptionError(f"--change {change}: give NAME=VALUE with a name among {', '.join(kinds)}")
        try:
            new[name] = (tuple(map(int, value.split(","))) if name == "seeds" else tuple(value.split(","))
                         if kinds[name] is tuple else kinds[name](value))
        except ValueError as error:
            raise OptionError(f"--change {change}: {error}") from error
    kept = {name: value for name, value in grid.fights.items() if name not in new}
    grid = replace(grid, **{"fights": kept, **new})
    unknown = {*grid.methods, *grid.finetuned} - set(METHODS)
    if unknown:
        raise OptionError(f"there is no method {min(unknown)}: take some of {', '.join(METHODS)}")
    return grid
