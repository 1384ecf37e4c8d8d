"""All methods by name."""

from __future__ import annotations

from collections.abc import Sequence

from nwc_core.errors import UsageError
from nwc_workflows.bench.rivals import gguf, gptq, hqq, nf4, nwc, rtn, torchao, waterfilling
from nwc_workflows.bench.rivals.rival import Rival

_FAMILIES = (nwc, waterfilling, rtn, gptq, hqq, nf4, torchao, gguf)
_ALL_RATES = range(1, 9)  # at which every method has a setting


def find_rivals(rates: Sequence[float], methods: Sequence[str]) -> list[Rival]:
    """Methods at those of their settings that come close to the rates.

    Args:
        rates: bits per weight.
        methods: names, all methods if empty.

    Raises:
        UsageError: there is no method of that name.
    """
    names = list(dict.fromkeys(rival.name for family in _FAMILIES for rival in family.rivals(_ALL_RATES)))
    for method in methods:
        if method not in names:
            raise UsageError(f"--method: found {method!r}; wanted one of {', '.join(names)}")
    found: list[Rival] = [rival for family in _FAMILIES for rival in family.rivals(rates)]
    return [rival for rival in found if not methods or rival.name in methods]
