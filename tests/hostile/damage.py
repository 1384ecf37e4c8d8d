"""Accidents that happen to stored artifacts, drawn at random: each kind maps the objects to damaged ones.

Only what can be told from the objects alone is damage here. Whoever can write a new manifest with right digests can
write any weights they like; of these kinds the resealed ones contradict themselves, and so must be found.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import cache

from codec_samples import laplace_cdf, pmf
from hostile_sample import Objects, intact, manifest_of, resealed, rows_of

from nwc_core.artifact.manifest import MANIFEST_KEY
from nwc_core.codec import Codec
from nwc_core.prior import TABLE_LEVELS, Prior

Damage = Callable[[random.Random, Objects], Objects]
OTHER_RATE = 5.0


def _any(chance: random.Random, objects: Objects) -> str:
    """An object, small ones as likely as large ones."""
    return chance.choice(sorted(objects))


def flip_bits(chance: random.Random, objects: Objects) -> Objects:
    key = _any(chance, objects)
    data = bytearray(objects[key])
    for _ in range(chance.randint(1, 3)):
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    return {**objects, key: bytes(data)}


def truncate(chance: random.Random, objects: Objects) -> Objects:
    key = _any(chance, objects)
    return {**objects, key: objects[key][: chance.randrange(len(objects[key]))]}


def append(chance: random.Random, objects: Objects) -> Objects:
    key = _any(chance, objects)
    return {**objects, key: objects[key] + chance.randbytes(chance.randint(1, 600))}


def lose_page(chance: random.Random, objects: Objects) -> Objects:
    """A stretch of zeros or noise, as a torn write or a bad sector leaves it."""
    key = _any(chance, objects)
    data = bytearray(objects[key])
    start = chance.randrange(len(data))
    size = min(chance.choice([16, 512, 4096]), len(data) - start)
    data[start : start + size] = bytes(size) if chance.random() < 0.5 else chance.randbytes(size)
    return {**objects, key: bytes(data)}


def shift(chance: random.Random, objects: Objects) -> Objects:
    """Bytes lost or doubled in the middle."""
    key = _any(chance, objects)
    data = objects[key]
    at, size = chance.randrange(len(data)), chance.randint(1, 64)
    more = data[at : at + size]
    return {**objects, key: data[:at] + data[at + size :] if chance.random() < 0.5 else data[:at] + more + data[at:]}


def lose_objects(chance: random.Random, objects: Objects) -> Objects:
    lost = chance.sample(sorted(objects), chance.randint(1, 3))
    return {key: data for key, data in objects.items() if key not in lost}


def exchange_objects(chance: random.Random, objects: Objects) -> Objects:
    a, b = chance.sample(sorted(objects), 2)
    return {**objects, a: objects[b], b: objects[a]}


def copy_over(chance: random.Random, objects: Objects) -> Objects:
    """One object has the content of another, or of the same place in another artifact."""
    key = _any(chance, objects)
    others = [data for name, data in {**objects, **_other(chance)}.items() if name != key]
    return {**objects, key: chance.choice(others)}


def exchange_blocks(chance: random.Random, objects: Objects) -> Objects:
    """The bytes of two blocks trade places, in one payload or between two; the shorter one is padded."""
    a, b = chance.sample(rows_of(intact()), 2)
    first = intact()[a.object][a.offset : a.offset + a.length]
    second = intact()[b.object][b.offset : b.offset + b.length]
    out = {a.object: bytearray(objects[a.object]), b.object: bytearray(objects[b.object])}
    out[a.object][a.offset : a.offset + a.length] = second[: a.length].ljust(a.length, b"\0")
    out[b.object][b.offset : b.offset + b.length] = first[: b.length].ljust(b.length, b"\0")
    return {**objects, **{key: bytes(data) for key, data in out.items()}}


def stale_index(chance: random.Random, objects: Objects) -> Objects:
    """The index of another run, under this name, or under its own and vouched for by the manifest."""
    other = _other(chance)
    data = other[manifest_of(other).index.object]
    if chance.random() < 0.5:
        return {**objects, manifest_of(objects).index.object: data}
    both = chance.random() < 0.5  # its payloads may even be there
    return resealed(
        {**objects, **({k: v for k, v in other.items() if k not in objects} if both else {})}, "index", data
    )


def other_codec(chance: random.Random, objects: Objects) -> Objects:
    """A sound codec that is another one, under this name, or under its own and vouched for by the manifest."""
    data = _other_codecs()[chance.randrange(len(_other_codecs()))]
    if chance.random() < 0.5:
        return {**objects, manifest_of(objects).codec.object: data}
    return resealed(objects, "codec", data)


def other_manifest(chance: random.Random, objects: Objects) -> Objects:
    """The manifest of another run over these objects, some of that run's own objects beside them."""
    other = _other(chance)
    extra = [key for key in sorted(other) if key not in objects]
    kept = chance.sample(extra, chance.randrange(len(extra)))
    return {**objects, **{key: other[key] for key in kept}, MANIFEST_KEY: other[MANIFEST_KEY]}


def _other(chance: random.Random) -> Objects:
    return intact(chance.choice([OTHER_RATE, OTHER_RATE + 1]))


@cache
def _other_codecs() -> list[bytes]:
    """Other tables; and the right ones without the transform that a tensor needs."""
    from codec_samples import sample_codec

    laplace = [pmf(laplace_cdf, level) for level in range(TABLE_LEVELS)]
    shifted = [pmf(laplace_cdf, min(level + 3, TABLE_LEVELS - 1)) for level in range(TABLE_LEVELS)]
    mine = sample_codec()
    codecs = [
        Codec(Prior.from_pmf([laplace]), list(mine.transforms), {}),
        Codec(Prior.from_pmf([shifted, laplace]), list(mine.transforms), {}),
        Codec(mine.prior, [], {}),
    ]
    return [codec.to_bytes() for codec in codecs]


KINDS: dict[str, Damage] = {
    "1 to 3 bits flipped": flip_bits,
    "object cut off": truncate,
    "bytes appended": append,
    "stretch of zeros or noise": lose_page,
    "bytes lost or doubled inside": shift,
    "objects missing": lose_objects,
    "two objects exchanged": exchange_objects,
    "object with another's content": copy_over,
    "two blocks exchanged": exchange_blocks,
    "stale index": stale_index,
    "another codec": other_codec,
    "another run's manifest": other_manifest,
}
