"""Geometry of line charts: scales, round ticks and paths. The template draws them, as SVG."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

WIDTH, HEIGHT = 360, 230  # of the drawing, about pixels on a phone
LEFT, RIGHT, TOP, BOTTOM = 52, 10, 10, 36  # margins
COLOURS = 7  # of the page's palette

Points = list[tuple[float, float]]


@dataclass(frozen=True)
class Series:
    """A line. colour: its number in the palette. dashed: of the second run. faint: behind the others, and cut off where
    it leaves their range. beside: the second run's last value, "" for none."""

    name: str
    points: Points
    colour: int
    dashed: bool = False
    faint: bool = False
    beside: str = ""

    @property
    def last(self) -> str:
        """The last value, to be read."""
        return shown(self.points[-1][1])


@dataclass(frozen=True)
class Chart:
    """A line chart. x, y: what the axes tell, with units. low: a value that the y axis must show, None for any."""

    title: str
    x: str
    y: str
    series: list[Series]
    low: float | None = 0.0
    about: str = ""
    x_range: tuple[float, float] = field(init=False)
    y_ticks: list[float] = field(init=False)

    def __post_init__(self) -> None:
        xs = [x for line in self.series for x, _ in line.points]
        ys = [y for line in self.series for _, y in line.points if not line.faint]
        object.__setattr__(self, "x_range", (min(xs), max(xs) if max(xs) > min(xs) else min(xs) + 1))
        low = min(ys) if self.low is None else min(*ys, self.low)
        object.__setattr__(self, "y_ticks", ticks(low, max(ys)))

    @property
    def y_marks(self) -> list[tuple[float, str]]:
        """Place and text of each tick of the y axis."""
        return [(self.at(0, value)[1], shown(value)) for value in self.y_ticks]

    @property
    def x_marks(self) -> list[tuple[float, str]]:
        """Place and text of each tick of the x axis."""
        low, high = self.x_range
        return [(self.at(value, 0)[0], shown(value)) for value in ticks(low, high) if low <= value <= high]

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Where a point lies in the drawing."""
        (low_x, high_x), (low_y, high_y) = self.x_range, (self.y_ticks[0], self.y_ticks[-1])
        return (round(LEFT + (x - low_x) / (high_x - low_x) * (WIDTH - LEFT - RIGHT), 2),
                round(HEIGHT - BOTTOM - (y - low_y) / (high_y - low_y) * (HEIGHT - TOP - BOTTOM), 2))

    def _cut(self, y: float) -> float:
        return min(max(y, self.y_ticks[0]), self.y_ticks[-1])

    def path(self, line: Series) -> str:
        """A series as the "d" of an SVG path."""
        return "M" + "L".join(f"{x:g} {y:g}" for x, y in (self.at(x, self._cut(y)) for x, y in line.points))

    @property
    def values(self) -> dict:
        """What the page shows under the pointer: the drawing's scale and all points."""
        return {"x": self.x, "range": self.x_range, "lines": [
            {"name": line.name, "colour": line.colour, "dashed": line.dashed, "points": line.points}
            for line in self.series if not line.faint]}


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers at equal steps that enclose low ... high, about ``most`` of them and at least two."""
    if not high > low:
        low, high = (low - abs(low) / 2, high + abs(high) / 2) if low else (0.0, 1.0)
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]


def shown(value: float) -> str:
    """A number with three digits: 0.294, 12.6, 1200, 1e-05."""
    if value and (abs(value) >= 1e5 or abs(value) < 1e-3):
        return f"{value:.3g}"
    return f"{round(value):d}" if abs(value) >= 1000 else f"{value:.3g}"


def thinned(points: Sequence[tuple[float, float]], most: int = 400) -> Points:
    """Points by groups of neighbours, the mean of each, so that there are at most so many."""
    size = -(-len(points) // most)
    groups = (points[i:i + size] for i in range(0, len(points), size))
    return [(sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group)) for group in groups]
