"""Where processes meet under torchrun, whose store still holds what the processes of earlier starts wrote to it.

PyTorch would read the addresses of dead processes there, and a run that torchrun starts again would not come up.
"""

import os
import time
from datetime import timedelta
from uuid import uuid4

import torch.distributed as dist

from utils.errors import TrainingError

PAUSE = 0.02  # seconds


def is_shared() -> bool:
    """Whether torchrun keeps one store for all starts of a run."""
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def fresh_store(url: str, rank: int, world_size: int, patience: timedelta) -> dist.Store:
    """A store that the processes of this start have to themselves.

    Raises:
        TrainingError: not all processes came in time.
    """
    try:
        store, _, _ = next(dist.rendezvous(url, rank, world_size, timeout=patience))
    except dist.DistError as error:
        raise TrainingError(f"the processes' meeting place did not answer within {patience.total_seconds():.0f} s: see "
                            "whether torchrun has ended") from error
    store.set_timeout(patience)
    return dist.PrefixStore(agree(store, rank, world_size, patience), store)


def agree(store: dist.Store, rank: int, world_size: int, patience: timedelta) -> str:
    """A name that only these processes know, whatever others before them have left in the store.

    Rank 0 makes it up and answers what each other process asks, under that process's own secret: an answer that is
    read was meant for it.

    Raises:
        TrainingError: not all processes came in time.
    """
    secret = uuid4().hex
    if rank > 0:
        store.set(f"asks/{rank}", secret)
        try:
            name = store.get(f"answer/{secret}").decode()
        except dist.DistStoreError as error:
            raise TrainingError(f"process 0 did not come within {patience.total_seconds():.0f} s: see what it said"
                                ) from error
        store.set(f"heard/{name}/{rank}", "")
        return name
    end, missing = time.monotonic() + patience.total_seconds(), list(range(1, world_size))
    while missing:
        for other in missing:
            if store.check([f"asks/{other}"]):
                store.set(f"answer/{store.get(f'asks/{other}').decode()}", secret)
        time.sleep(PAUSE)
        missing = [other for other in missing if not store.check([f"heard/{secret}/{other}"])]
        if missing and time.monotonic() > end:
            raise TrainingError(f"processes {', '.join(map(str, missing))} did not come within "
                                f"{patience.total_seconds():.0f} s: see what they said")
    return secret
