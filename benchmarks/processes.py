"""What a process and all that descend from it hold, seen from outside (Linux)."""

import os
from dataclasses import dataclass
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")  # of a processor, in a second


@dataclass(frozen=True)
class Look:
    """What the run's processes hold. second: since the start. memory: in bytes."""

    second: float
    memory: int
    handles: int
    processes: int


def tree(root: int) -> list[int]:
    """A process and all that descend from it."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue  # it has ended
    found = [root]
    for process in found:
        found += [child for child, parent in parents.items() if parent == process]
    return found


def memory(process: int) -> int:
    """Anonymous and shared memory of a process in bytes, a page that several share in equal parts."""
    rows = (line.split() for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()[1:])
    kilobytes = {row[0]: int(row[1]) for row in rows}
    return 1024 * (kilobytes["Pss_Anon:"] + kilobytes["Pss_Shmem:"])


def cpu_seconds(process: int) -> float:
    """Processor time of a process so far, of the system's calls too."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def look(root: int, second: float) -> Look | None:
    """All processes of the run, None if one of them ended just then."""
    try:
        processes = tree(root)
        handles = sum(len(list(Path(f"/proc/{process}/fd").iterdir())) for process in processes)
        return Look(second, sum(map(memory, processes)), handles, len(processes))
    except OSError:
        return None
