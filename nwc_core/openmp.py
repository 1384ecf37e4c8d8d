"""torch's operations on one thread, for threads that decode side by side.

With OpenMP torch gives every thread that copies or converts a tensor a team of as many threads as there are cores, which
keep a core busy for a while after each operation, waiting for the next. Decoding threads with a team each are slower
than one thread alone. How many threads OpenMP takes is a setting of each thread: changed in one, it stays in all others.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from threadpoolctl import LibController


@cache
def _libraries() -> list[LibController]:
    import torch  # noqa: F401  finds only libraries that are loaded
    from threadpoolctl import ThreadpoolController

    return [found for found in ThreadpoolController().lib_controllers if found.user_api == "openmp"]


def work_alone() -> None:
    """Have this thread do all of torch's work for it by itself, as long as it lives."""
    import torch

    torch.get_num_threads()  # the first thing that a thread asks of torch sets the number: not after this
    for library in _libraries():
        library.set_num_threads(1)
