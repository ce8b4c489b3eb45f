"""Class mining recall by class (CPR, arXiv 2201.07989, section 4), beside a second run's where one is given."""

from dataclasses import dataclass

from report.run_files import RunFiles


@dataclass(frozen=True)
class ClassMining:
    """Of the last epoch that mined. rows: class, the run's recall and the second run's (None where it has none), the
    lowest first. median: over classes. epoch, other_epoch: 0-based; None without a second run that mined."""

    epoch: int
    rows: list[tuple[str, float, float | None]]
    median: float
    other_epoch: int | None = None
    other_median: float | None = None


def read(run: RunFiles, other: RunFiles | None = None) -> ClassMining | None:
    """What the journals say; None where the run has not told it."""
    own, beside = _last(run), _last(other) if other else None
    if own is None:
        return None
    epoch, classes, median = own
    others = beside[1] if beside else {}
    rows = sorted(((name, value, others.get(name)) for name, value in classes.items()),
                  key=lambda row: (row[1], row[0]))
    return ClassMining(epoch, rows, median, beside[0] if beside else None, beside[2] if beside else None)


def _last(run: RunFiles) -> tuple[int, dict[str, float], float] | None:
    lines = [line for line in run.lines("mining") if line["classes"] and "cmr_median" in line["values"]]
    if not lines:
        return None
    line = max(lines, key=lambda line: line["epoch"])
    return line["epoch"], line["classes"], line["values"]["cmr_median"]
