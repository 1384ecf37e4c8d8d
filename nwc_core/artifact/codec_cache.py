"""Codecs by digest: artifacts that share a codec share one parsed copy per process."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from threading import Lock
from typing import TYPE_CHECKING

from nwc_core.artifact.objects import ObjectRef
from nwc_core.codec_file import check_file_size
from nwc_core.errors import FormatError

if TYPE_CHECKING:
    from nwc_core.codec import Codec

_KEEP = 8  # codecs per process: up to some 50 MB each once used, and one serves a whole fleet
_codecs: OrderedDict[str, Codec] = OrderedDict()
_lock = Lock()


class CodecSource:
    """The codec that an artifact names, fetched at first use.

    Args:
        ref: the codec object, from the manifest.
        given: a codec that the caller has already, or None.
        fetch: reads an object and checks its digest.
        where: name of the codec object, for errors.

    Raises:
        FormatError: the given codec is another one, or the artifact's is larger than any.
    """

    def __init__(self, ref: ObjectRef, given: Codec | None, fetch: Callable[[ObjectRef], bytes], where: str) -> None:
        if given is not None and given.digest != ref.sha256:
            raise FormatError("the codec given", f"digest {given.digest}", f"{ref.sha256}, which the artifact names")
        check_file_size(ref.size, where)  # before anything of that size is fetched
        self._ref, self._given, self._fetch, self._where = ref, given, fetch, where

    def get(self) -> Codec:
        """The codec. Thread-safe."""
        if self._given is not None:
            return self._given
        digest = self._ref.sha256
        with _lock:
            if digest in _codecs:
                _codecs.move_to_end(digest)
                return _codecs[digest]
        from nwc_core.codec import Codec

        # Not under the lock: two threads may both parse it, to the same effect.
        codec = Codec.from_bytes(self._fetch(self._ref), self._where)
        with _lock:
            codec = _codecs.setdefault(digest, codec)
            while len(_codecs) > _KEEP:
                _codecs.popitem(last=False)
        return codec
