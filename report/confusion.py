"""Confusion matrices: of trained classifiers where their probabilities are there, else of the nearest neighbour."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dataset import catalog
from dataset.errors import DataError
from dataset.split_files import video_name
from eval.merge_2stream_prob import read_probabilities
from report.results import CROP_TITLES, TRAINED
from report.retrieval_gallery import Retrieved, class_names
from report.run_files import RunFiles, downstream
from utils.errors import CheckpointError

CROPS = re.compile(r"(?P<checkpoint>.+)-prob-(?P<crops>center|five|ten)\.json")
PROBE = re.compile(r"(?P<checkpoint>.+)-lp-(?P<dataset>.+)-prob\.json")
MOST = 4  # matrices in a page
PAIRS = 8  # most confused ones


@dataclass(frozen=True)
class Confusion:
    """A matrix. title: what decided. classes: names, by number. counts: test clips by (true, predicted), above 0."""

    title: str
    classes: list[str]
    counts: Mapping[tuple[int, int], int]

    @property
    def total(self) -> int:
        """Test clips."""
        return sum(self.counts.values())

    @property
    def accuracy(self) -> float:
        """Share that is right."""
        return sum(n for (true, said), n in self.counts.items() if true == said) / self.total

    @property
    def of_class(self) -> Counter:
        """Test clips by true class."""
        totals: Counter = Counter()
        for (true, _), count in self.counts.items():
            totals[true] += count
        return totals

    @property
    def worst(self) -> list[tuple[int, int, int, float]]:
        """The most frequent confusions: true class, predicted class, clips, share of the true class's."""
        totals = self.of_class
        wrong = [(true, said, count, count / totals[true])
                 for (true, said), count in self.counts.items() if true != said]
        return sorted(wrong, key=lambda row: (-row[2], -row[3], row[0], row[1]))[:PAIRS]


def find(run: RunFiles, split_root: Path, retrieved: Retrieved | None, notes: list[str]) -> list[Confusion]:
    """The matrices that can be made, of the best protocol first; what cannot be read is told in ``notes``."""
    found: list[Confusion] = []
    for owner in [run, *([] if run.is_classifier else downstream(run))]:
        for path in sorted(owner.files("*-prob*.json"), key=lambda path: ("-ten" not in path.name, path.name)):
            match = CROPS.fullmatch(path.name) or PROBE.fullmatch(path.name)
            if match is None or len(found) == MOST:
                continue
            try:
                found.append(_of_probabilities(owner, path, match, split_root))
            except (CheckpointError, DataError) as error:
                notes.append(f"no confusion matrix of {run.shown(path)}: {error}")
    return found + ([of_neighbours(retrieved)] if retrieved else [])


def of_neighbours(found: Retrieved) -> Confusion:
    """Each test clip takes the class of its nearest training clip."""
    names = class_names(found.query, found.gallery)
    number = {label: place for place, label in enumerate(names)}
    labels = found.query.labels.tolist(), found.gallery.labels[found.index[:, 0]].tolist()
    pairs = [(number[true], number[near]) for true, near in zip(*labels, strict=True)]
    return Confusion(f"nearest neighbour in retrieval on {found.dataset} (no classifier)", list(names.values()),
                     Counter(pairs))


def of_probabilities(rows: Mapping[str, Sequence[float]], classes: Sequence[str], title: str) -> Confusion:
    """Each test clip takes its most probable class. rows: by csv path, (classes,).

    Raises:
        CheckpointError: the classes are others.
    """
    number = {name: place for place, name in enumerate(classes)}
    counts: Counter = Counter()
    for name, row in rows.items():
        true = number.get(video_name(name).split("/")[0])
        if true is None or len(row) != len(classes):
            raise CheckpointError(f"it has {len(row)} classes, or one that is not among the {len(classes)} of "
                                  "ClassInd.txt: check --split_root")
        counts[true, max(range(len(row)), key=row.__getitem__)] += 1
    return Confusion(title, list(classes), counts)


def _of_probabilities(owner: RunFiles, path: Path, match: re.Match, split_root: Path) -> Confusion:
    named = match.groupdict()
    trained = TRAINED.get(str(owner.options.get("train_what")), "trained classifier")
    title = (f"{trained}, {CROP_TITLES[named['crops']]}, {named['checkpoint']}" if "crops" in named else
             f"linear probe on stored features of {named['dataset']}, {named['checkpoint']}")
    dataset = named.get("dataset") or owner.options.get("dataset")
    if not isinstance(dataset, str):
        raise CheckpointError("its run.json does not say which dataset it is of")
    rows = {name: row.tolist() for name, row in read_probabilities(path).items()}
    return of_probabilities(rows, catalog.class_names(dataset, split_root), title)
