"""One hostile file: how it is made, who reads it, the error it must give, and what reading it may cost."""

from __future__ import annotations

import re
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass

from nwc_core.errors import FormatError, NwcError

MEGABYTE = 1 << 20
_SHORT = 2000  # characters: an error is for a person to read


@dataclass(frozen=True)
class Case:
    """A file, or several, that nobody honest would write.

    Attributes:
        name: what is wrong with it.
        make: builds it; not part of the cost.
        read: the public function that has to refuse it, with what `make` gave.
        words: regular expression that the error must match.
        error: the class that it must have, exactly.
        memory: bytes that reading may hold at its peak, numpy's arrays counted.
        seconds: generous, for busy machines: what is caught is work without bound.
    """

    name: str
    make: Callable[[], object]
    read: Callable[..., object]
    words: str
    error: type[NwcError] = FormatError
    memory: int = 2 * MEGABYTE
    seconds: float = 10.0

    def check(self, *, traced: bool) -> None:
        """Read the file and compare error and cost with what is wanted; `traced` counts memory too.

        Raises:
            AssertionError: it was accepted, or the error or the cost is another.
        """
        made = self.make()
        if traced:
            tracemalloc.start()
        started = time.perf_counter()
        try:
            self.read(made)
        except NwcError as error:
            took = time.perf_counter() - started
            peak = tracemalloc.get_traced_memory()[1] if traced else 0
            text = str(error)
            assert type(error) is self.error, f"{self.name}: {type(error).__name__}: {text[:_SHORT]}"
            assert re.search(self.words, text), f"{self.name}: {text[:_SHORT]}"
            assert len(text) < _SHORT, f"{self.name}: an error of {len(text)} characters"
            assert peak < self.memory, f"{self.name}: {peak:,} bytes"
            assert took < self.seconds, f"{self.name}: {took:.1f} s"
        else:
            raise AssertionError(f"{self.name}: accepted")
        finally:
            if traced:
                tracemalloc.stop()
