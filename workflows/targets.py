"""How much worse a compressed model may be: METRIC=VALUE, as the command line and a manifest hold it.

Metrics, all better when smaller: `kl`, KL divergence from the original's predictions in nats per token or image; `rel-error`,
the squared error of a text's embedding over its squared length (0.01 is -20 dB); `top1-drop`, percentage points of accuracy
that a classifier loses, or of predictions in which a language model no longer agrees with the original.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from nwc_core.errors import UsageError

METRICS = ("kl", "rel-error", "top1-drop")


@dataclass(frozen=True)
class Target:
    """The most that a metric may be.

    Raises:
        UsageError: an unknown metric, or a value that is not positive.
    """

    metric: str
    value: float

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise UsageError(f"metric: found {self.metric!r}; wanted one of {', '.join(METRICS)}")
        if not 0 < self.value < math.inf:
            raise UsageError(f"{self.metric}: found {self.value}; wanted a number above 0")

    @classmethod
    def parse(cls, text: str, option: str) -> Target:
        """Read "kl=0.01"; `option` names it in errors.

        Raises:
            UsageError: something else.
        """
        metric, _, value = text.partition("=")
        try:
            return cls(metric, float(value))
        except ValueError as error:  # of float; UsageError is one, too
            found = str(error) if isinstance(error, UsageError) else f"found {text!r}; wanted METRIC=VALUE"
            raise UsageError(f"{option}: {found}; for example {METRICS[0]}=0.01") from None

    def __str__(self) -> str:
        return f"{self.metric}={self.value!r}"
