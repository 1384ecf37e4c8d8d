"""The models that a catalog's entries stand for: those that are named, and those that are found below a prefix.

A prefix is listed once. A folder with safetensors files is a model as `open_checkpoint` takes it, and nothing below it is
one; a folder of several files that no index and no model.safetensors ties together holds as many models. Artifacts and
calibrations are none.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from nwc_core.errors import NwcError, UsageError
from nwc_core.store import ObjectInfo, Store, open_store
from nwc_workflows.catalog.file import NAME, Catalog, Entry, check_name
from nwc_workflows.catalog.places import check_places, inside, real
from nwc_workflows.request import Request
from nwc_workflows.source_files import INDEX_SUFFIX, SAFETENSORS, SINGLE

_READERS = 16  # listings at once
_SHARD = re.compile(r"-\d{5}-of-\d{5}\.safetensors$")
# What `nwc compress` and `nwc calibrate` write: a prefix may hold their results, too.
_OURS = re.compile(r"(payload|codec|statistics|partial)-[0-9a-f]{32}\.safetensors$")


@dataclass(frozen=True)
class Member:
    """One model of a catalog.

    Attributes:
        name: unique.
        source: path or URI.
        destination: path or URI of its artifact.
        request: what is asked for.
        entry: which of the file's `models` it comes from, from 0.
        nbytes: of the weights, as listed; 0 if there is nothing (yet).
        base: name of the model whose artifact it is coded against, and which it waits for; None for none of the catalog.
    """

    name: str
    source: str
    destination: str
    request: Request
    entry: int
    nbytes: int = 0
    base: str | None = None


def find_members(catalog: Catalog, where: str) -> list[Member]:
    """All models, in the file's order, those of a prefix by name.

    A model that an entry names itself is left out where a prefix finds it, so that one entry may say how one of many is
    treated differently.

    Args:
        catalog: read from a file.
        where: the file, for errors.

    Raises:
        UsageError: two models of one name, a place inside another, or a prefix without models; names the entry.
        StoreError: a prefix cannot be listed.
    """
    named = {real(entry.source) for entry in catalog.models if entry.source is not None}
    members: list[Member] = []
    for index, entry in enumerate(catalog.models):
        for name, source, nbytes in _of_entry(entry, catalog.root, named, f"{where}: models[{index}]"):
            request = entry.over(catalog.defaults).request(source, name)
            members.append(Member(name, source, catalog.destination.replace(NAME, name), request, index, nbytes))
    check_places(members, catalog.root, where)
    return _sized(members)


def _of_entry(entry: Entry, root: str, named: set[str], where: str) -> Iterator[tuple[str, str, int]]:
    """(name, source, bytes) of each."""
    if entry.source is not None:
        yield entry.name or _last_part(entry.source, where), entry.source, 0
        return
    assert entry.prefix is not None
    found = find_models(open_store(entry.prefix, "source"), root)
    kept = [(name, source, size) for name, source, size in found if _wanted(entry, name)]
    if not kept:
        what = f"{len(found)} models, none of them wanted" if found else "no folder with safetensors files"
        raise UsageError(f"{where}.prefix: found {what} below {entry.prefix}; wanted models")
    for name, source, size in kept:
        try:
            check_name(name)
        except ValueError as error:
            raise UsageError(f"{where}: found a model {name!r}; wanted a name that can be kept ({error})") from None
        if real(source) not in named:
            yield name, source, size


def _wanted(entry: Entry, name: str) -> bool:
    return any(
        fnmatchcase(name, pattern) for pattern in (["*"] if entry.include is None else entry.include)
    ) and not any(fnmatchcase(name, pattern) for pattern in entry.exclude or ())


def _last_part(source: str, where: str) -> str:
    name = real(source).rpartition("/")[2].removesuffix(SAFETENSORS)
    try:
        check_name(name)
    except ValueError as error:
        raise UsageError(f"{where}.source: found {source!r}; wanted a name beside it ({error})") from None
    return name


def find_models(store: Store, without: str = "") -> list[tuple[str, str, int]]:
    """(name relative to the store's root, URI, bytes of safetensors) of all models in a store, by name as people count:
    step_2000 before step_16000, so that for `base: auto` checkpoints of a training come in its order.

    Args:
        store: to list, once.
        without: a location that is left out: that of the results.
    """
    folders: dict[str, list[ObjectInfo]] = {}
    tied = set()  # folders with an index or model.safetensors
    apart = real(without) if without else None
    base = store.uri.rstrip("/")
    place = real(base)
    for info in store.list():
        folder, _, file = info.key.rpartition("/")
        if not file.endswith((SAFETENSORS, INDEX_SUFFIX)) or any(part.startswith(".") for part in folder.split("/")):
            continue
        if _OURS.match(file) or (apart and inside(f"{place}/{folder}", apart)):
            continue
        if file == SINGLE or file.endswith(INDEX_SUFFIX) or _SHARD.search(file):
            tied.add(folder)
        if file.endswith(SAFETENSORS):
            folders.setdefault(folder, []).append(info)
    return sorted(_models(base, folders, tied), key=_counted)


def _counted(found: tuple[str, str, int]) -> tuple[list[tuple[int, int, str]], tuple[str, str, int]]:
    """What names are sorted by: their numbers as numbers."""
    parts = re.split(r"(\d+)", found[0])
    return [(1, int(part), "") if part.isdecimal() else (0, 0, part) for part in parts], found


def _models(base: str, folders: Mapping[str, list[ObjectInfo]], tied: set[str]) -> Iterator[tuple[str, str, int]]:
    last_of_base = base.rpartition("/")[2]
    whole = {folder for folder, files in folders.items() if folder in tied or (len(files) == 1 and folder)}
    for folder, files in folders.items():
        if any(above in whole for above in _above(folder)):
            continue
        if folder in whole:
            yield folder or last_of_base, f"{base}/{folder}".rstrip("/"), sum(info.size for info in files)
        else:
            for info in files:
                yield info.key.removesuffix(SAFETENSORS), f"{base}/{info.key}", info.size


def _above(folder: str) -> Iterator[str]:
    """All folders above one, the root, "", last."""
    while folder:
        folder = folder.rpartition("/")[0]
        yield folder


def _sized(members: Iterable[Member]) -> list[Member]:
    """With the bytes of those that no prefix listed. What cannot be listed has none: its turn will tell."""

    def size(member: Member) -> Member:
        if member.nbytes:
            return member
        return replace(member, nbytes=source_nbytes(member.source))

    with ThreadPoolExecutor(_READERS) as pool:
        return list(pool.map(size, members))


def source_nbytes(source: str) -> int:
    """Bytes of the safetensors files at a location, from one listing; 0 if there are none."""
    try:
        store = open_store(source, "source")
        listing = list(store.list())
        if not listing:
            parent, _, name = store.uri.rpartition("/")
            return open_store(f"{parent}/", "source").size(name)
    except NwcError:
        return 0
    return sum(info.size for info in listing if "/" not in info.key and info.key.endswith(SAFETENSORS))
