"""Runs a fuzz target in a process of its own, which another one watches: it may hang, crash or grow."""

import contextlib
import faulthandler
import mmap
import multiprocessing
import os
import random
import resource
import signal
import struct
import time
import traceback
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import hypothesis
import torch
from fuzz_inputs import mutated
from fuzz_targets import Target

SECONDS, GRACE = 5.0, 2.0  # an input may take so long; the watch waits a little longer than the alarm
# Bytes that an input may take: the largest frame (2^25 pixels) decoded, once more in its clip, and its coefficients.
GROWTH = (3 + 3 + 6) << 25
LIMIT = 2 << 30  # bytes of address space on top of what the process starts with
SHARED = 8 << 20  # bytes
STATE = "<qqqqqddq"  # inputs, results, refused, findings, grown; slowest, start of the input (0: none); its length


class Slow(BaseException):
    """An input takes too long. No code under test may catch it."""


@dataclass
class Count:
    """What came of a target's inputs. slowest: seconds. grown: the most bytes that a process has grown by."""

    name: str
    inputs: int = 0
    results: int = 0
    refused: int = 0
    findings: int = 0
    slowest: float = 0.0
    grown: int = 0


class Watched:
    """A target, tried in processes that start again when they end early. findings: folder for what is found."""

    def __init__(self, target: Target, count: Count, findings: Path) -> None:
        self.target, self.count, self.findings = target, count, findings
        self._shared = mmap.mmap(-1, SHARED)

    def run(self, seed: str, size: int, by_strategy: float, end: float) -> None:
        """Try so many inputs, or until the time ends (monotonic seconds)."""
        first = self.count.inputs
        while (done := self.count.inputs - first) < size and time.monotonic() < end:
            given = f"{seed}/{done}", size - done, by_strategy, end
            process = multiprocessing.Process(target=self._child, args=given)
            self._write(Count(""), 0.0, b"")
            process.start()
            self._watch(process)
            self._add()
            if self.count.inputs == first + done and time.monotonic() < end:
                raise SystemExit(f"{self.target.name}: its process ended before an input (code {process.exitcode})")

    def _watch(self, process: multiprocessing.Process) -> None:
        while process.is_alive():
            process.join(0.05)
            _, start, _ = self._read()
            if start and time.monotonic() - start > SECONDS + GRACE:
                process.kill()
                process.join()
                return self._ended_by("hangs: the alarm was not heard")
        if process.exitcode:
            self._ended_by(f"ends the process: code {process.exitcode}")
        return None

    def _ended_by(self, what: str) -> None:
        count, start, data = self._read()
        if start:
            count.inputs += 1
            count.findings += 1
            self._write(count, 0.0, b"")
            save(self.findings, self.target.name, data, what)

    def _add(self) -> None:
        new, mine = self._read()[0], self.count
        for name in ("inputs", "results", "refused", "findings"):
            setattr(mine, name, getattr(mine, name) + getattr(new, name))
        mine.slowest, mine.grown = max(mine.slowest, new.slowest), max(mine.grown, new.grown)

    def _write(self, count: Count, start: float, data: bytes) -> None:
        head = struct.pack(STATE, count.inputs, count.results, count.refused, count.findings, count.grown,
                           count.slowest, start, len(data))
        self._shared[:len(head) + len(data)] = head + data

    def _read(self) -> tuple[Count, float, bytes]:
        *numbers, grown, slowest, start, length = struct.unpack_from(STATE, self._shared)
        begin = struct.calcsize(STATE)
        return Count("", *numbers, slowest, grown), start, self._shared[begin:begin + length]

    def _child(self, seed: str, size: int, by_strategy: float, end: float) -> None:
        quiet()
        limit_memory()
        count, first = Count(""), resident()

        def attempt(data: bytes) -> None:
            if count.inputs >= size or time.monotonic() > end:
                return
            start = time.monotonic()
            self._write(count, start, data)
            wrong = ""
            try:
                with alarm():
                    results = self.target.read(data)
                count.results, count.refused = count.results + (results > 0), count.refused + (results == 0)
            except (Exception, Slow):
                wrong = traceback.format_exc()
            grown = resident() - first
            if grown > GROWTH and not wrong:
                wrong = f"memory has grown by {grown >> 20} MB"
            count.inputs, count.findings = count.inputs + 1, count.findings + bool(wrong)
            count.slowest, count.grown = max(count.slowest, time.monotonic() - start), max(count.grown, grown)
            self._write(count, 0.0, b"")
            if wrong:
                save(self.findings, self.target.name, data, wrong)
        rng = random.Random(seed)
        by_hypothesis(self.target, attempt, rng.getrandbits(64), round(size * by_strategy))
        while count.inputs < size and time.monotonic() < end:
            attempt(mutated(rng, self.target.seeds))
        os._exit(0)


def by_hypothesis(target: Target, attempt, seed: int, size: int) -> None:
    """Try so many inputs of the target's strategy."""
    settings = hypothesis.settings(max_examples=max(1, size), database=None, deadline=None,
                                   phases=[hypothesis.Phase.generate],
                                   suppress_health_check=list(hypothesis.HealthCheck))
    hypothesis.seed(seed)(settings(hypothesis.given(target.odd)(attempt)))()


def save(folder: Path, name: str, data: bytes, what: str) -> None:
    """Keep an input, and what came of it; the first ten of a kind."""
    kind = "".join(c if c.isalnum() else "-" for c in f"{name} {what.strip().splitlines()[-1]}")[:120]
    folder.mkdir(parents=True, exist_ok=True)
    number = len(list(folder.glob(f"{kind}-*.input")))
    if number < 10:
        (folder / f"{kind}-{number}.input").write_bytes(data)
        (folder / f"{kind}-{number}.txt").write_text(what)
    print(f"{name}: {what.strip().splitlines()[-1][:200]}", flush=True)


@contextlib.contextmanager
def alarm() -> Iterator[None]:
    """Raise Slow in what takes too long, where it is Python that takes it."""
    def ring(*_: object) -> None:
        raise Slow
    signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def quiet() -> None:
    """One thread, and nothing of what decoders say of damaged input."""
    faulthandler.disable()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    cv2.utils.logging.setLogLevel(0)
    warnings.simplefilter("ignore")
    void = os.open(os.devnull, os.O_WRONLY)
    os.dup2(void, 2)


def limit_memory() -> None:
    """No more address space than what is there and LIMIT."""
    there = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (there + LIMIT, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def resident() -> int:
    """The most memory that this process has had, bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) << 10
    return 0
