"""The codec: a trained, serialised object that codes any tensor.

A codec file is a safetensors file of at most 128 KB:

    prior.width      U8  [shapes, 64]   half width of every level's tables
    prior.freq       U16 [...]          frequencies, see `nwc_core.prior`
    transform.K      I16 [g, g]         K = 1, 2, ...: learned transforms, see `nwc_core.transform`

with one metadata entry "nwc": JSON with `format` ("nwc-codec"), `version` and `provenance` (how it was trained).

Body of an nwc-coded tensor: the layout (see `nwc_core.matrices`), then for each matrix a varint, the length of its
stream, and the stream (see `nwc_core.matrix_stream`).
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from nwc_core.dtypes import DTYPES, from_torch
from nwc_core.encoded import EncodedTensor, most_elements
from nwc_core.errors import FormatError, NotFoundError, UnknownCodecError, UsageError, VersionError
from nwc_core.lossless import decode_lossless, encode_lossless
from nwc_core.matrices import Layout, default_layout
from nwc_core.matrix_stream import MatrixStream, Transforms
from nwc_core.prior import TABLE_LEVELS, Prior
from nwc_core.quantise import Unsuitable, encode_matrix
from nwc_core.strict_json import parse_json, shown
from nwc_core.transform import SCALE_BITS
from nwc_core.wire import ByteReader, ByteWriter

if TYPE_CHECKING:
    import torch

FORMAT, VERSION = "nwc-codec", 1
MAX_CODEC_BYTES = 128 * 1024
PRESETS = {"scalar": 1, "fast": 4, "default": 8, "max": 256}  # trellis states
# Below this a tensor's header and scales cost more than its weights save.
MIN_LOSSY_WEIGHTS = 1024
MAX_TRANSFORMS = 255  # streams number them in one byte, from 1
# Share of the original bytes from which lossless coding may be smaller: bfloat16 weights pack to about two thirds.
_TRY_LOSSLESS = 0.625
_VALUES_SAMPLED = 4096  # to see whether a tensor has few distinct values
_SUFFIX = ".safetensors"


def lossy_candidate(dtype: str, shape: tuple[int, ...]) -> bool:
    """Whether a tensor of this dtype (safetensors name) and shape goes to the lossy coder at all.

    Vectors (norms, biases), small tensors and types that are not plain floats are coded losslessly.
    """
    matrix = sum(size > 1 for size in shape) >= 2
    return DTYPES[dtype].lossy and matrix and math.prod(shape) >= MIN_LOSSY_WEIGHTS


@dataclass(frozen=True, eq=False)
class Codec:
    """A neural weight codec. Build one with `load`, `from_bytes` or `nwc train`.

    Attributes:
        prior: entropy tables.
        transforms: [g, g] int16 each, numbered from 1 in streams.
        provenance: how it was trained: sources, configuration, seed, curves.
    """

    prior: Prior
    transforms: Transforms
    provenance: dict[str, Any]

    def __repr__(self) -> str:
        return f"Codec({self.digest[:12]}, {self.prior.shapes} shapes, {len(self.transforms)} transforms)"

    @staticmethod
    def available() -> list[str]:
        """Names of the codecs that ship with the package."""
        folder = resources.files("nwc_core.codecs")
        return sorted(item.name.removesuffix(_SUFFIX) for item in folder.iterdir() if item.name.endswith(_SUFFIX))

    @classmethod
    def load(cls, name: str | Path) -> Codec:
        """A shipped codec by name, or one from a file.

        Raises:
            UnknownCodecError: neither a shipped codec nor a file.
            FormatError: the file is not a codec.
        """
        if str(name) in cls.available():
            return cls.from_bytes(
                resources.files("nwc_core.codecs").joinpath(f"{name}{_SUFFIX}").read_bytes(), str(name)
            )
        path = Path(name)
        if not path.is_file():
            raise UnknownCodecError(str(name), cls.available())
        try:
            with path.open("rb") as file:
                return cls.from_bytes(file.read(MAX_CODEC_BYTES + 1), str(path))
        except OSError as error:
            raise NotFoundError(str(path), error.strerror or str(error)) from None

    @classmethod
    def from_bytes(cls, data: bytes, where: str = "codec") -> Codec:
        """Parse a codec file.

        Raises:
            VersionError: written by a newer nwc.
            FormatError: not a codec, or a damaged one.
        """
        from nwc_core.safetensors_header import parse_header

        if len(data) > MAX_CODEC_BYTES:
            raise FormatError(
                where, f"more than {MAX_CODEC_BYTES} bytes", f"a codec of at most {MAX_CODEC_BYTES} bytes"
            )
        header = parse_header(lambda start, stop: data[start:stop], len(data), where)
        provenance = _provenance(header.metadata, where)
        arrays: dict[str, npt.NDArray[np.generic]] = {}
        for name, info in header.tensors.items():
            kind = {"U8": "<u1", "U16": "<u2", "I16": "<i2"}.get(info.dtype.name)
            if kind is None:
                raise FormatError(f"{where}, {name}", f"dtype {info.dtype.name}", "U8, U16 or I16")
            # An array without elements may claim dimensions that numpy cannot hold.
            if len(info.shape) > 2 or info.start == info.stop:
                raise FormatError(f"{where}, {name}", f"shape {shown(list(info.shape))}", "one or two axes, not empty")
            arrays[name] = np.frombuffer(data[info.start : info.stop], kind).reshape(info.shape)
        transforms = [arrays.pop(f"transform.{k}") for k in range(1, len(arrays) - 1) if f"transform.{k}" in arrays]
        if set(arrays) != {"prior.width", "prior.freq"}:
            raise FormatError(
                where, f"tensors {', '.join(sorted(arrays)) or 'none'}", "prior.width, prior.freq, transform.1 ..."
            )
        width, freq = arrays["prior.width"], arrays["prior.freq"]
        if (
            width.dtype != np.uint8
            or width.ndim != 2
            or width.shape[1] != TABLE_LEVELS
            or not 1 <= width.shape[0] <= 255
        ):
            raise FormatError(
                f"{where}, prior.width", f"{width.dtype} {width.shape}", f"uint8 [1 to 255, {TABLE_LEVELS}]"
            )
        if freq.dtype != np.uint16 or freq.ndim != 1:
            raise FormatError(f"{where}, prior.freq", f"{freq.dtype} {freq.shape}", "uint16, one axis")
        if len(transforms) > MAX_TRANSFORMS:
            raise FormatError(where, f"{len(transforms)} transforms", f"at most {MAX_TRANSFORMS}")
        for number, matrix in enumerate(transforms, 1):
            _check_transform(matrix, f"{where}, transform.{number}")
        prior = Prior(width, freq)  # type: ignore[arg-type]
        prior.tables  # noqa: B018  checks them
        return cls(prior, transforms, provenance)  # type: ignore[arg-type]

    def to_bytes(self) -> bytes:
        """The codec file; equal codecs give equal bytes."""
        return self._bytes

    @cached_property
    def _bytes(self) -> bytes:
        from nwc_core.safetensors_header import build_header

        arrays: list[tuple[str, str, npt.NDArray[np.generic]]] = [
            ("prior.freq", "U16", self.prior.halves.astype("<u2")),
            *((f"transform.{k}", "I16", matrix.astype("<i2")) for k, matrix in enumerate(self.transforms, 1)),
            ("prior.width", "U8", self.prior.half_width),
        ]
        about = {"format": FORMAT, "version": VERSION, "provenance": self.provenance}
        header = build_header(
            [(name, dtype, array.shape) for name, dtype, array in arrays],
            {"nwc": json.dumps(about, sort_keys=True, separators=(",", ":"))},
        )
        data = header + b"".join(array.tobytes() for _, _, array in arrays)
        if len(data) > MAX_CODEC_BYTES:
            raise FormatError("codec", f"{len(data)} bytes", f"at most {MAX_CODEC_BYTES}")
        return data

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the codec file, in hex."""
        return hashlib.sha256(self._bytes).hexdigest()

    def encode(
        self,
        weight: torch.Tensor,
        bits: float,
        *,
        preset: str = "default",
        layout: Layout | None = None,
        threads: int = 1,
    ) -> EncodedTensor:
        """Code a tensor of any dtype and shape.

        Floating-point matrices, convolutions and stacks of them are coded at `bits` per weight, everything in; what the
        lossy coder should not touch (vectors, small tensors, integers, 8-bit floats, tensors that are constant or
        hold NaN or infinity) is coded losslessly.

        Args:
            weight: the tensor.
            bits: wanted rate in bits per weight, of the whole encoded tensor.
            preset: one of PRESETS: how hard to search; decoding costs the same.
            layout: how the tensor is seen as matrices; by its shape if None.
            threads: to search on; the result does not depend on it.

        Raises:
            UsageError: unknown preset, a rate that is not positive, or an element type that safetensors lacks.
        """
        import torch

        if preset not in PRESETS:
            raise UsageError(f"preset {preset!r}; wanted one of {', '.join(PRESETS)}")
        if not (math.isfinite(bits) and bits > 0):
            raise UsageError(f"bits per weight {bits!r}; wanted a positive number")
        try:
            dtype, shape = from_torch(weight.dtype), tuple(weight.shape)
        except KeyError:
            raise UsageError(f"a tensor of {weight.dtype}; wanted one of {', '.join(DTYPES)}") from None
        if not lossy_candidate(dtype.name, shape):
            return encode_lossless(weight)
        values = weight.detach().resolve_neg().cpu().to(torch.float32).numpy()
        # min and max see NaN and infinity too, without a temporary the size of the tensor.
        low, high = float(values.min()), float(values.max())
        if not (math.isfinite(low) and math.isfinite(high)) or low == high:
            return encode_lossless(weight)
        layout = layout or default_layout(shape)
        try:
            encoded = self._encode_lossy(weight, values, layout, bits, PRESETS[preset], threads)
        except Unsuitable:
            return encode_lossless(weight)
        # Sparse tensors, masks and the like, and high rates: without loss may take no more bytes.
        zeros = values.size - np.count_nonzero(values)
        if (
            2 * zeros > values.size
            or _few_values(values)
            or encoded.nbytes >= _TRY_LOSSLESS * weight.numel() * dtype.itemsize
        ):
            lossless = encode_lossless(weight)
            if len(lossless.body) <= encoded.nbytes:
                return lossless
        return encoded

    def _encode_lossy(
        self,
        weight: torch.Tensor,
        values: npt.NDArray[np.float32],
        layout: Layout,
        bits: float,
        n_states: int,
        threads: int,
    ) -> EncodedTensor:
        import torch

        dtype, shape = from_torch(weight.dtype), tuple(weight.shape)
        out = ByteWriter()
        layout.write(out)
        matrices = layout.to_matrices(values)
        header_bits = 8 * (len(out) + 4 + 2 * len(shape) + 3 * len(matrices)) / values.size
        side = len(out)
        decoded = np.empty(matrices.shape, np.float32)
        for index, matrix in enumerate(matrices):
            stream = encode_matrix(
                matrix,
                max(bits - header_bits, 1e-3),
                n_states=n_states,
                taps=layout.taps(shape),
                prior=self.prior,
                transforms=self.transforms,
                threads=threads,
            )
            body = ByteWriter()
            side += stream.write(body, self.prior) + 3
            out.varint(len(body))
            out.raw(body.getvalue())
            # The error is that of the real decoder, rounding to the tensor's own type included.
            decoded[index] = stream.weights(self.prior, self.transforms, "just encoded", threads)
        result = torch.from_numpy(layout.from_matrices(decoded, shape)).to(weight.dtype)
        error = result.to(torch.float32).numpy() - values
        mse = float(np.square(error, dtype=np.float64).mean())
        if not math.isfinite(mse):
            raise Unsuitable  # a weight near the end of float16's range was rounded past it
        return EncodedTensor(dtype, shape, "nwc", out.getvalue(), side_nbytes=side, mse=mse)

    def decode(self, encoded: EncodedTensor, threads: int = 1, where: str = "coded tensor") -> torch.Tensor:
        """The tensor, same shape and dtype; bit for bit the same on every machine.

        Raises:
            FormatError: the bytes are damaged, or were coded with another codec; `where` names the tensor.
        """
        import torch

        if encoded.coder != "nwc":
            return decode_lossless(encoded, where)
        reader = ByteReader(encoded.body, where)
        layout = Layout.read(reader, len(encoded.shape))
        count, m, n = layout.matrix_shape(encoded.shape)
        if not (encoded.numel and encoded.dtype.lossy):
            raise FormatError(
                where, f"{encoded.dtype.name} {list(encoded.shape)} coded by nwc", "a non-empty tensor of floats"
            )
        most = most_elements("nwc", encoded.dtype, len(encoded.body))
        if encoded.numel > most:
            raise FormatError(
                where,
                f"shape {list(encoded.shape)} in {len(encoded.body)} bytes",
                f"at most {most} weights",
            )
        # All headers and sizes are read, and checked, before memory for the weights is taken.
        streams = []
        for index in range(count):
            body = ByteReader(reader.raw(reader.varint()), f"{where}, matrix {index}")
            streams.append(MatrixStream.read(body, m, n, self.prior, self.transforms))
            body.end()
        reader.end()
        decoded = np.empty((count, m, n), np.float32)
        for index, stream in enumerate(streams):
            decoded[index] = stream.weights(self.prior, self.transforms, f"{where}, matrix {index}", threads)
        return torch.from_numpy(layout.from_matrices(decoded, encoded.shape)).to(encoded.dtype.torch)


def _provenance(metadata: dict[str, str], where: str) -> dict[str, Any]:
    """What the metadata says of the training, once it says that this is a codec of a version that we read."""
    if "nwc" not in metadata:
        raise FormatError(where, "a safetensors file that is no codec", f"metadata nwc with format {FORMAT}")
    about = parse_json(metadata["nwc"].encode(), f"{where}, metadata nwc")
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise FormatError(f"{where}, metadata nwc", shown(about), f"an object with format {FORMAT}")
    version, provenance = about.get("version"), about.get("provenance", {})
    if type(version) is not int or version < 1:  # True would pass for 1
        raise FormatError(f"{where}, metadata nwc", f"version {shown(version)}", f"a whole number, {VERSION} at most")
    if version > VERSION:
        raise VersionError(where, f"codec version {version}", f"at most {VERSION}; a newer nwc may read it")
    if not isinstance(provenance, dict):
        raise FormatError(f"{where}, metadata nwc", f"provenance {shown(provenance)}", "an object")
    return provenance


def _few_values(values: npt.NDArray[np.float32]) -> bool:
    """Whether a tensor looks like a mask or a table of a few constants, which a general compressor codes in far less."""
    sample = values.reshape(-1)[:: max(1, values.size // _VALUES_SAMPLED)]
    return bool(np.unique(sample).size <= sample.size // 16)


def _check_transform(matrix: npt.NDArray[np.generic], where: str) -> None:
    if (
        matrix.dtype != np.int16
        or matrix.ndim != 2
        or matrix.shape[0] != matrix.shape[1]
        or not 2 <= matrix.shape[0] <= 64
    ):
        raise FormatError(where, f"{matrix.dtype} {matrix.shape}", "int16 [g, g], g from 2 to 64")
    basis = matrix.astype(np.float64) / (1 << SCALE_BITS)
    error = float(np.abs(basis @ basis.T - np.eye(matrix.shape[0])).max())
    # Rounding to 2^-14 is 0.0005 away at most; what is farther would show as error at high rates.
    if error > 0.001:
        raise FormatError(where, f"a matrix {error:.4f} away from orthonormal", "at most 0.001")
