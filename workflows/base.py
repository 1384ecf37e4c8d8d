"""A compression's base: the artifact that blocks are coded against where that takes less, see `nwc_core.delta`."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nwc_core.artifact.base import location_from
from nwc_core.artifact.manifest import MANIFEST_KEY, Base
from nwc_core.artifact.reader import Artifact
from nwc_core.delta import difference, encode_exact_delta, same_as_base, with_base
from nwc_core.encoded import EncodedTensor
from nwc_core.errors import NotFoundError, StoreError
from nwc_core.lossless import encode_lossless
from nwc_core.near_lossless import Bound, mean_squared_difference, rounded
from nwc_core.store import Store, open_store
from nwc_workflows.blocks import Block

if TYPE_CHECKING:
    import torch

    from nwc_core.codec import Codec

_KEEP = 4  # open bases per process


@dataclass(frozen=True)
class BaseArtifact:
    """Names an artifact; travels to workers.

    Attributes:
        store: where it is.
        manifest_sha256: digest (hex) of its manifest.
    """

    store: Store
    manifest_sha256: str

    @property
    def artifact(self) -> Artifact:
        """The artifact, opened once per process.

        Raises:
            StoreError: another one is there by now.
        """
        return _opened(self)

    def seen_from(self, destination: Store) -> Base:
        """What the manifest of an artifact at `destination` says of it."""
        return Base(manifest_sha256=self.manifest_sha256, location=location_from(self.store.uri, destination.uri))

    def elements(self, block: Block) -> torch.Tensor | None:
        """What the base has where the block is, the block's shape; None if it has no such tensor of that shape."""
        artifact, tensor = self.artifact, block.tensor
        if tensor.name not in artifact or artifact.index.blocks(tensor.name)[0].shape != tensor.shape:
            return None
        return artifact.get_elements(tensor.name, block.start, block.stop).reshape(block.shape)

    def copy(self, block: Block, source_sha256: bytes, exact: bool) -> EncodedTensor | None:
        """A block whose source is that of the same block of the base, coded as being that one; None for others.

        Args:
            source_sha256: digest of the block's source bytes.
            exact: the base's own loss is not good enough.
        """
        if block.tensor.name not in self.artifact:
            return None
        for row in self.artifact.index.blocks(block.tensor.name):
            where = (row.dtype, row.shape, row.start, row.stop, row.source_sha256)
            if where == (block.tensor.dtype.name, block.tensor.shape, block.start, block.stop, source_sha256):
                same = replace(same_as_base(block.tensor.dtype, block.shape), mse=row.mse)
                return None if exact and row.mse > 0 else same
        return None

    def alike(self, one: Block, other: Block) -> bool:
        """Whether two blocks, each the same range of its tensor, stand at places where the base has the same bytes, or nothing:
        what is added to one may be added to the other then."""
        return self._places(one) == self._places(other)

    def _places(self, block: Block) -> list[tuple[object, ...]]:
        index, name = self.artifact.index, block.tensor.name
        rows = index.blocks(name) if name in index else ()
        return [
            (row.shape, row.start, row.stop, row.object, row.offset)
            for row in rows
            if row.start < block.stop and row.stop > block.start
        ]


def encode_lossy(
    codec: Codec, tensor: torch.Tensor, rate: float, base: torch.Tensor | None, **how: Any
) -> EncodedTensor:
    """A tensor coded lossily, as its difference to `base` where that takes less; `how` as for the codec's `encode`."""
    apart = None if base is None else difference(tensor, base)
    if base is not None and apart is not None:
        inner = codec.encode(apart, rate, **how)
        coded = with_base(inner, tensor, base, codec) if inner.coder == "nwc" else None
        if coded is not None:
            return coded
    return codec.encode(tensor, rate, **how)


def encode_exact(tensor: torch.Tensor, base: torch.Tensor | None) -> EncodedTensor:
    """A tensor coded without loss, against `base` where that takes less."""
    alone = encode_lossless(tensor)
    against = None if base is None else encode_exact_delta(tensor, base)
    return alone if against is None or alone.nbytes <= against.nbytes else against


def encode_within(codec: Codec, tensor: torch.Tensor, bound: Bound | None, base: torch.Tensor | None) -> EncodedTensor:
    """The same for a tensor whose floats may be off by so much; None for not at all."""
    if bound is None:
        return encode_exact(tensor, base)
    if bound.absolute is not None:
        exact, coded = encode_exact(tensor, base), codec.encode_nearest(tensor, bound.absolute)
        return coded if coded.nbytes < exact.nbytes else exact
    assert bound.relative is not None
    near = rounded(tensor, bound.relative)
    encoded = encode_exact(near, base)
    if near is tensor:
        return encoded
    return replace(encoded, mse=mean_squared_difference(near, tensor))


def open_base(uri: str | Path | Store) -> BaseArtifact:
    """The artifact at `uri` as a base.

    Raises:
        NotFoundError: there is no artifact.
        VersionError, IntegrityError, FormatError: it is newer than this package, damaged, or none.
    """
    store = open_store(uri)
    try:
        Artifact(store)  # says what is wrong with it
    except NotFoundError as error:
        raise NotFoundError(
            error.key, "no such object: no artifact is there; wanted what nwc compress made of the relative"
        ) from None
    return BaseArtifact(store, hashlib.sha256(store.get(MANIFEST_KEY)).hexdigest())


_artifacts: dict[tuple[str, str], Artifact] = {}  # of this process, by URI and digest


def _opened(base: BaseArtifact) -> Artifact:
    key = (base.store.uri, base.manifest_sha256)
    if key not in _artifacts:
        if hashlib.sha256(base.store.get(MANIFEST_KEY)).hexdigest() != base.manifest_sha256:
            raise StoreError(
                f"{base.store.uri}/{MANIFEST_KEY}", "the base was replaced while it was in use; nothing was committed"
            )
        while len(_artifacts) >= _KEEP:
            _artifacts.pop(next(iter(_artifacts)))
        _artifacts[key] = Artifact(base.store)
    return _artifacts[key]
