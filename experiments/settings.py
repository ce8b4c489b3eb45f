"""The grids of the experiment: the rendered set, the methods, how long each trains, and the seeds.

The settings were chosen on the validation split of the training groups (`--validation`), never on test groups.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from model.cascade import stage_sizes
from utils.errors import ModelError, OptionError


@dataclass(frozen=True)
class Method:
    """One way to train the RGB encoder.

    Attributes:
        title: name in tables.
        kind: "random" (no training), "supervised" (from scratch), "infonce", "longer" (InfoNCE for as many epochs as
            InfoNCE and co-training together), "ubernce" or "mining" (main_coclr.py).
        options: further options of the script.
        cascade: (stage, ratio), None without one.
    """

    title: str
    kind: str
    options: tuple[str, ...] = ()
    cascade: tuple[int, float] | None = None


def cascade_title(stage: int, ratio: float) -> str:
    """Format a cascade's settings for tables."""
    return f"s = {stage}, r = {ratio}"


def _cascade(stage: int, ratio: float, *options: str, title: str = "CPR") -> Method:
    return Method(f"{title}, {cascade_title(stage, ratio)}", "mining",
                  ("--cascade", "--stage", str(stage), "--ratio", str(ratio), *options), (stage, ratio))


METHODS: Mapping[str, Method] = {
    "random": Method("random weights", "random"),
    "supervised": Method("supervised from scratch", "supervised"),
    "infonce": Method("InfoNCE", "infonce"),
    "infonce_longer": Method("InfoNCE, as long as CoCLR", "longer"),
    "coclr": Method("CoCLR", "mining"),
    **{f"cpr_s{stage}_r{ratio}": _cascade(stage, ratio) for stage in (3, 5, 7) for ratio in (0.5, 0.8)},
    "progressive": _cascade(3, 0.8, "--progressive", "1", "2", "5", title="CPR, progressive"),
    "ubernce": Method("UberNCE (with labels)", "ubernce"),
}


@dataclass(frozen=True)
class Grid:
    """Everything a result depends on, except the seed."""

    methods: tuple[str, ...]  # the most informative first, in case the grid is stopped
    seeds: tuple[int, ...] = (0, 1, 2)
    finetuned: tuple[str, ...] = ()  # methods whose RGB encoder is finetuned
    # of the rendered set, see rendered_set.py
    classes: int = 10
    groups: int = 24
    clips: int = 2
    frames: int = 20
    size: str = "64x48"
    pace: float = 1.6
    spread: float = 0.2
    typical: float = 1.0
    muted: float = 0.3
    # of all trainings
    net: str = "s3d"
    seq_len: int = 8
    img_dim: int = 32
    workers: int = 0
    precision: str = "bf16"
    # of pretraining
    batch_size: int = 16
    moco_k: int = 128
    moco_m: float = 0.99
    lr: float = 3e-4
    topk: int = 5
    infonce_epochs: int = 12  # of InfoNCE and UberNCE
    coclr_epochs: int = 9  # of CoCLR and CPR
    # of training with labels
    label_batch_size: int = 8
    label_lr: float = 2e-4  # from scratch
    finetune_lr: float = 1e-3  # of a finetuned model's new layer; its backbone takes a tenth
    label_epochs: int = 8
    # overrides for the real clips, of which there are fewer
    fights: Mapping[str, Any] = field(default_factory=dict)

    def on(self, name: str) -> "Grid":
        """Return the settings for one of the sets."""
        return replace(self, fights={}, **(self.fights if name == "fights" else {}))

    @property
    def skipped(self) -> dict[str, str]:
        """Methods whose cascade is too deep for the queue, with the reason."""
        found = {}
        for name in self.methods:
            cascade = METHODS[name].cascade
            if cascade is not None:
                try:
                    stage_sizes(self.moco_k, self.topk, cascade[1], cascade[0])
                except ModelError as error:
                    found[name] = str(error)
        return found


# 113 training clips make 7 steps an epoch; the rendered set makes 21.
FIGHTS = {"moco_k": 64, "infonce_epochs": 24, "coclr_epochs": 18, "label_epochs": 16}
GRIDS: Mapping[str, Grid] = {
    "reduced": Grid(("random", "supervised", "infonce", "infonce_longer", "coclr", "cpr_s3_r0.8", "ubernce"),
                    fights=FIGHTS),
    "tiny": Grid(("supervised", "infonce", "coclr", "cpr_s7_r0.5"), seeds=(0, 1), classes=2, groups=4,
                 clips=4, frames=16, size="32x32", batch_size=2, label_batch_size=2, moco_k=8, topk=2, infonce_epochs=1,
                 coclr_epochs=2, label_epochs=1, finetuned=("coclr",), fights={"label_batch_size": 4}),
}


def changed(grid: Grid, changes: Iterable[str]) -> Grid:
    """Override settings of a grid on every set: ("lr=1e-3", "methods=infonce,coclr", ...).

    Raises:
        OptionError: unknown setting or invalid value.
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
