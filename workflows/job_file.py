"""A catalog file that is to run on a cluster: checked here, where mistakes cost nothing, as it will be checked there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from nwc_core.errors import UsageError

if TYPE_CHECKING:
    from nwc_workflows.catalog.file import Catalog, Options

# Options that name a place. Data and recovery data are files of the machine that runs the job, wherever that is.
_PLACES = ("calibration", "quality_data", "recover_data", "scratch")


def check_job_file(path: Path, *, allow_local: bool = False) -> Catalog:
    """Read and check a catalog for machines that are not this one.

    Args:
        path: of the YAML file.
        allow_local: absolute local paths are fine: all machines of the cluster have them.

    Raises:
        UsageError: it is no catalog, or names a place that the cluster doesn't have; the file and the key are named.
    """
    from nwc_workflows.catalog.file import read_catalog

    catalog = read_catalog(path)
    for key, place in _places(catalog):
        if not _is_local(place):
            continue
        if not place.removeprefix("file://").startswith("/"):
            raise UsageError(
                f"{path}: {key}: found the relative path {place!r}, which leads nowhere on a cluster; wanted a URI such as "
                "s3://bucket/prefix"
            )
        if not allow_local:
            raise UsageError(
                f"{path}: {key}: found the local path {place!r}; wanted a URI such as s3://bucket/prefix, or --allow-local if "
                "every machine of the cluster has that path"
            )
    return catalog


def _places(catalog: Catalog) -> Iterator[tuple[str, str]]:
    """Every place that a catalog names, after its key."""
    from nwc_core.codec import Codec

    yield "destination", catalog.destination
    if catalog.codec not in Codec.available():
        yield "codec", catalog.codec
    yield from _option_places("defaults", catalog.defaults)
    for index, entry in enumerate(catalog.models):
        for name in ("source", "prefix"):
            place = getattr(entry, name)
            if place is not None:
                yield f"models[{index}].{name}", place
        yield from _option_places(f"models[{index}]", entry)


def _option_places(key: str, options: Options) -> Iterator[tuple[str, str]]:
    for name in _PLACES:
        place = getattr(options, name)
        if place is not None:
            yield f"{key}.{name}", place
    # Anything else without a scheme is the name of another model.
    if options.base is not None and options.base.startswith(("/", ".", "file://")):
        yield f"{key}.base", options.base


def _is_local(place: str) -> bool:
    return "://" not in place or place.startswith("file://")
