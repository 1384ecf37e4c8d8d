"""What workers do: each function is one task, given names and ranges, and returns a small row."""

from __future__ import annotations

from collections.abc import Sequence

from nwc_core.store import Store
from nwc_infra.scheduler import Job
from nwc_workflows.blocks import BASE_MEMORY
from nwc_workflows.calibration.finish import Finished, Weight, finish_families
from nwc_workflows.calibration.items import Items
from nwc_workflows.calibration.partials import write_partial
from nwc_workflows.calibration.plan import Placements, weight_nbytes
from nwc_workflows.calibration.source import ModelSource, kept_module
from nwc_workflows.calibration.survey import Survey, survey
from nwc_workflows.calibration.triangles import triangle_size

# While a model is loaded its stored weights are there beside the module.
_COPIES_LOADING = 2
# A backward pass keeps what products take and make, what lies between them (normalisation, softmax), and gradients.
_COPIES_BACKWARD = 6
_MATRICES_FINISHING = 9  # in float64, packed


def survey_job(source: ModelSource, weights: int) -> Job:
    """Arguments of `take_survey`, for a model of so many weights."""
    return Job("survey", (source,), BASE_MEMORY + _COPIES_LOADING * 4 * weights)


def take_survey(source: ModelSource, *, items: Items) -> Survey:
    """See `survey`."""
    return survey(source, items)


def measure_job(found: Survey, group: Sequence[str], chunk: tuple[int, int], prefix: str, input_only: bool) -> Job:
    """Arguments of `measure`: a group of weights and a chunk of items.

    Args:
        prefix: how the object's name begins.
    """
    placements = {name: found.placements[name] for name in group}
    nbytes = BASE_MEMORY + _COPIES_LOADING * found.model_nbytes + sum(weight_nbytes(of) for of in placements.values())
    nbytes += found.activation_nbytes * (1 if input_only else _COPIES_BACKWARD)
    more = f" and {len(group) - 1} more" if len(group) > 1 else ""
    return Job(f"{group[0]}{more}, items {chunk[0]} to {chunk[1]}", (placements, chunk, prefix), nbytes)


def measure(
    placements: Placements,
    chunk: tuple[int, int],
    prefix: str,
    *,
    source: ModelSource,
    digest: str,
    items: Items,
    store: Store,
    input_only: bool,
    seed: int,
) -> str:
    """Add up what a chunk of items says about a group of weights, and store it; returns the object's key."""
    from nwc_workflows.calibration.gather import Gathering

    gathering = Gathering(kept_module(source, digest), placements, input_only=input_only, seed=seed)
    gathering.run(items, *chunk)
    return write_partial(store, prefix, gathering.sums)


def finish_job(families: Sequence[Sequence[Weight]]) -> Job:
    """Arguments of `finish`: families of weights."""
    weights = [weight for family in families for weight in family]
    largest = max(triangle_size(weight.matrix_shape[2]) for weight in weights)
    nbytes = BASE_MEMORY + 2 * sum(weight.nbytes for weight in weights) + _MATRICES_FINISHING * 8 * largest
    return Job(f"statistics of {weights[0].name}", (families,), nbytes)


def finish(families: Sequence[Sequence[Weight]], *, predictions: int, store: Store, input_only: bool) -> Finished:
    """See `finish_families`."""
    return finish_families(families, predictions, store=store, input_only=input_only)
