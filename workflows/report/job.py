"""A job's options, as a manifest holds them, in words."""

from __future__ import annotations

from collections.abc import Mapping

from nwc_core.artifact.manifest import JobValue
from nwc_core.errors import UsageError
from nwc_workflows.recovery.rewrite import RECOVERED
from nwc_workflows.report.content import Fact
from nwc_workflows.targets import Target
from nwc_workflows.wording import bytes_text, name_text

_METRICS = {
    "kl": "a KL divergence from the original of at most {:g} nats",
    "rel-error": "a squared error of embeddings of at most {:g} of their squared length",
    "top1-drop": "at most {:g} percentage points less top-1",
}
# Said elsewhere: by a fact of its own, or together with another option.
_TOLD = ("bits", "max_bytes", "preset", "quality", "gate", "lossless", "lossless_tensors", "max_relative_error")
_OF_DATA = ("quality_", "recover_")


def job_facts(job: Mapping[str, JobValue], codec: str) -> list[Fact]:
    """What was asked for, what was reached, and with which help.

    Args:
        job: of a manifest. Options that are not known, as of a later version, are listed as they are.
        codec: in words.
    """
    facts = [Fact("Asked for", _size(job)), Fact("Codec", codec, str(job.get("codec", "")))]
    if "preset" in job and not job.get("lossless") and not job.get("max_relative_error"):
        facts.append(Fact("Search", f"preset {name_text(str(job['preset']))}"))
    patterns = job.get("lossless_tensors")
    if patterns:
        facts.append(Fact("Bit for bit", f"tensors called {', '.join(map(name_text, str(patterns).splitlines()))}"))
    calibration = job.get("calibration")
    if calibration is None:
        facts.append(Fact("Calibration", "none: an error counts alike in all weights"))
    else:
        facts.append(Fact("Calibration", "errors weighed by what they do to the output", str(calibration)))
    for key in ("quality", "gate"):
        if key in job:
            facts.append(Fact("Quality reached", f"{_target(str(job[key]))}, measured on {_data(job, 'quality_')}"))
    if RECOVERED in job:
        text = (
            f"tensors stored without loss were tuned for up to {job[RECOVERED]:g} minutes on {_data(job, 'recover_')}"
        )
        facts.append(Fact("Recovery", text))
    known = (*_TOLD, "codec", "calibration", "base")
    facts += [
        Fact(name_text(key), name_text(str(value)))
        for key, value in sorted(job.items())
        if key not in known and not key.startswith(_OF_DATA)
    ]
    return facts


def _size(job: Mapping[str, JobValue]) -> str:
    bits, most, bound = job.get("bits"), job.get("max_bytes"), job.get("max_relative_error")
    if job.get("lossless"):
        return "every tensor bit for bit"
    if isinstance(bound, int | float):
        return f"no weight off by more than {100 * bound:g} % of itself"
    if isinstance(most, int):
        return f"at most {bytes_text(most)} in all"
    if job.get("quality") is not None:
        found = f", found at {bits:g} bits per weight" if isinstance(bits, int | float) else ""
        return f"the smallest with {_target(str(job['quality']))}{found}"
    return f"{bits:g} bits per weight, all bytes counted" if isinstance(bits, int | float) else "nothing known"


def _target(text: str) -> str:
    try:
        target = Target.parse(text, "quality")
    except UsageError:  # of a later version
        return name_text(text)
    return _METRICS[target.metric].format(target.value)


def _data(job: Mapping[str, JobValue], prefix: str) -> str:
    """What a model was run on: counts and digest."""
    found = {key.removeprefix(prefix): value for key, value in job.items() if key.startswith(prefix)}
    digest = found.get("sha256")
    data = f" of data {str(digest)[:12]}…" if digest else ""
    return (counts_text(found) or "data") + data


def counts_text(described: Mapping[str, object]) -> str:
    """How much data it is that a model was run on: "4,096 tokens, 16 windows"."""
    counts = {
        key: value for key, value in described.items() if isinstance(value, int) and key not in ("window", "steps")
    }
    return ", ".join(f"{value:,} {key}" for key, value in sorted(counts.items()))
