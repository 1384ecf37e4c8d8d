"""The codec: a trained, serialised object that codes any tensor.

It knows tensors: how each is seen as matrices, what is better coded losslessly, and the bytes around the coded matrices. What
codes a matrix is one of two architectures, "nwc" (`nwc_core.nwc_coder`) or the published one to compare with, "nwc-paper"
(`nwc_core.reference.coder`). The file that holds a codec: `nwc_core.codec_file`.

Body of an nwc-coded tensor: the layout (see `nwc_core.matrices`), then for each matrix a varint, the length of its
stream, and the stream, which is the architecture's.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from nwc_core.codec_file import MAX_CODEC_BYTES, MAX_FILE_BYTES, PAPER, build_codec_file, parse_codec_file
from nwc_core.distortion import mean_squared_error
from nwc_core.dtypes import DTYPES, DType, from_torch
from nwc_core.encoded import WITH_BASE, EncodedTensor, most_elements
from nwc_core.errors import FormatError, NotFoundError, UnknownCodecError, UsageError
from nwc_core.importance import Importance, importances
from nwc_core.lossless import decode_lossless, encode_lossless
from nwc_core.matrices import Layout, default_layout
from nwc_core.matrix_coder import CodedMatrix, MatrixCoder
from nwc_core.matrix_stream import Transforms
from nwc_core.near_lossless import within
from nwc_core.nwc_coder import NwcCoder
from nwc_core.prior import Prior
from nwc_core.quantise import Unsuitable
from nwc_core.rate_curve import RateCurve, curve_of
from nwc_core.room import check_room
from nwc_core.wire import ByteReader, ByteWriter

if TYPE_CHECKING:
    import torch

__all__ = ["MAX_CODEC_BYTES", "MIN_LOSSY_WEIGHTS", "PRESETS", "Codec", "lossy_candidate"]

PRESETS = {"scalar": 1, "fast": 4, "default": 8, "max": 256}  # trellis states
# Below this a tensor's header and scales cost more than its weights save.
MIN_LOSSY_WEIGHTS = 1024
# Parts of an allowed error to take as step: all but what float32 rounds by; less where a narrower type rounds once more, for
# which half is always enough.
_SHARES_OF_ERROR = (1 - 2**-16, 0.9, 0.75, 0.5 - 2**-16)
# Share of the original bytes from which lossless coding may be smaller: bfloat16 weights pack to about two thirds.
_TRY_LOSSLESS = 0.625
_VALUES_SAMPLED = 4096  # to see whether a tensor has few distinct values
_SUFFIX = ".safetensors"


def lossy_candidate(dtype: str, shape: tuple[int, ...]) -> bool:
    """Whether a tensor of this dtype (safetensors name) and shape goes to the lossy coder at all.

    Vectors (norms, biases), small tensors and types that are not plain floats are coded losslessly.
    """
    if len(shape) < 2 or not DTYPES[dtype].lossy or math.prod(shape) < MIN_LOSSY_WEIGHTS:
        return False
    return len(shape) - shape.count(1) >= 2


class Codec:
    """A neural weight codec. Get one with `load`, `from_bytes` or `nwc train`.

    Attributes:
        coder: what codes the matrices.
        provenance: how it was trained: sources, configuration, seed, curves.
    """

    def __init__(self, prior: Prior, transforms: Transforms, provenance: dict[str, Any]) -> None:
        """A codec of architecture "nwc" from its trained parts; others by `of`."""
        self.coder: MatrixCoder = NwcCoder(prior, transforms)
        self.provenance = provenance

    @classmethod
    def of(cls, coder: MatrixCoder, provenance: dict[str, Any]) -> Codec:
        """A codec of any architecture."""
        codec = cls.__new__(cls)
        codec.coder, codec.provenance = coder, provenance
        return codec

    def __repr__(self) -> str:
        return f"Codec({self.digest[:12]}, {self.architecture})"

    @property
    def architecture(self) -> str:
        """What codes the matrices: "nwc", or "nwc-paper", the published autoencoder."""
        return self.coder.architecture

    @property
    def prior(self) -> Prior:
        """Entropy tables; of architecture "nwc" only."""
        return self._nwc.prior

    @property
    def transforms(self) -> Transforms:
        """[g, g] int16 each, numbered from 1 in streams; of architecture "nwc" only."""
        return self._nwc.transforms

    @property
    def _nwc(self) -> NwcCoder:
        if not isinstance(self.coder, NwcCoder):
            raise UsageError(
                f"a codec of architecture {self.architecture}; wanted nwc: only that has prior and transforms"
            )
        return self.coder

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
                return cls.from_bytes(file.read(MAX_FILE_BYTES + 1), str(path))
        except OSError as error:
            raise NotFoundError(str(path), error.strerror or str(error)) from None

    @classmethod
    def from_bytes(cls, data: bytes, where: str = "codec") -> Codec:
        """Parse a codec file.

        Raises:
            VersionError: written by a newer nwc.
            FormatError: not a codec, or a damaged one.
        """
        file = parse_codec_file(data, where)
        if file.architecture == PAPER:
            from nwc_core.reference.coder import ReferenceCoder

            codec = cls.of(ReferenceCoder.from_arrays(file.arrays, where), file.provenance)
        else:
            codec = cls.of(NwcCoder.from_arrays(file.arrays, where), file.provenance)
        codec._bytes = bytes(data)  # another version of Zstandard might pack it into other bytes, of another digest
        return codec

    def to_bytes(self) -> bytes:
        """The codec file: the one it was read from, or a new one; equal codecs give equal new ones."""
        return self._bytes

    @cached_property
    def _bytes(self) -> bytes:
        return build_codec_file(self.architecture, self.provenance, self.coder.arrays())

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
        hessian: torch.Tensor | None = None,
        rows: torch.Tensor | None = None,
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
            hessian: [n, n], or [matrices, n, n]: the loss of an error E [m, n] is tr(E hessian E'), as with the second
                moment E[x x'] of a layer's inputs; the error is then shaped to make that small. None: the identity.
            rows: [m], or [matrices, m]: how much the error of each output counts, positive. None: all alike.

        Raises:
            UsageError: unknown preset, a rate that is not positive, an element type that safetensors lacks, or a hessian
                or rows of another shape, or not finite; a hessian that is not positive semi-definite.
        """
        if preset not in PRESETS:
            raise UsageError(f"preset {preset!r}; wanted one of {', '.join(PRESETS)}")
        if not (math.isfinite(bits) and bits > 0):
            raise UsageError(f"bits per weight {bits!r}; wanted a positive number")
        dtype, shape = _dtype(weight), tuple(weight.shape)
        values = _lossy_values(weight, dtype.name)
        if values is None:
            return encode_lossless(weight)
        layout = layout or default_layout(shape)
        importance = importances(layout.matrix_shape(shape), hessian, rows)
        try:
            encoded = self._encode_lossy(weight, values, layout, bits, PRESETS[preset], threads, importance)
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

    def rate_curve(
        self,
        weight: torch.Tensor,
        *,
        layout: Layout | None = None,
        hessian: torch.Tensor | None = None,
        rows: torch.Tensor | None = None,
        bits: float = 4.0,
    ) -> RateCurve | None:
        """What rate the tensor takes at a given price of error; None for one that is coded losslessly.

        Args:
            weight, layout, hessian, rows: as for `encode`; rows with their absolute scale make tensors comparable.
            bits: rate about which the tensor will be coded.

        Raises:
            UsageError: a codec of another architecture than "nwc", or as `encode`.
        """
        coder, shape = self._nwc, tuple(weight.shape)
        values = _lossy_values(weight, _dtype(weight).name)
        if values is None:
            return None
        layout = layout or default_layout(shape)
        matrices, importance = layout.to_matrices(values), importances(layout.matrix_shape(shape), hessian, rows)
        problems = [
            coder.problem(matrix, bits, layout.taps(shape), importance[index])
            for index, matrix in enumerate(matrices)
            if matrix.any()
        ]
        return replace(curve_of(problems), numel=values.size)

    def _encode_lossy(
        self,
        weight: torch.Tensor,
        values: npt.NDArray[np.float32],
        layout: Layout,
        bits: float,
        n_states: int,
        threads: int,
        importance: Sequence[Importance | None],
    ) -> EncodedTensor:
        shape = tuple(weight.shape)
        header_nbytes = 3 * len(shape) + 6 + 3 * layout.matrix_shape(shape)[0]
        header_bits = 8 * header_nbytes / values.size

        def code(index: int, matrix: npt.NDArray[np.float32]) -> CodedMatrix:
            return self.coder.encode(
                matrix,
                max(bits - header_bits, 1e-3),
                n_states=n_states,
                taps=layout.taps(shape),
                threads=threads,
                importance=importance[index],
            )

        return _of_matrices(weight, values, layout, code)[0]

    def encode_nearest(self, weight: torch.Tensor, max_error: float, *, threads: int = 1) -> EncodedTensor:
        """Code a tensor so that no element is off by more than a bound, however many bits that takes.

        What the lossy coder does not take, and what would be no smaller, is coded losslessly.

        Args:
            weight: of any dtype and shape.
            max_error: above 0, in the unit of the weights.
            threads: to work on; the result does not depend on it.

        Raises:
            UsageError: a codec of another architecture than "nwc", or an element type that safetensors lacks.
        """
        values = _lossy_values(weight, _dtype(weight).name)
        lossless = encode_lossless(weight)
        if values is None:
            return lossless
        layout = default_layout(tuple(weight.shape))
        for share in _SHARES_OF_ERROR:

            def code(index: int, matrix: npt.NDArray[np.float32], step: float = share * max_error) -> CodedMatrix:
                return self._nwc.encode_nearest(matrix, step, threads)

            try:
                encoded, decoded = _of_matrices(weight, values, layout, code)
            except Unsuitable:
                break
            if within(decoded, weight, max_error):
                return encoded if encoded.nbytes < lossless.nbytes else lossless
        return lossless

    def decode(
        self,
        encoded: EncodedTensor,
        threads: int = 1,
        where: str = "coded tensor",
        out: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The tensor, same shape and dtype; bit for bit the same on every machine.

        Args:
            encoded: what to decode.
            threads: to decode on; the result does not depend on it.
            where: names the tensor in errors.
            out: where the result is wanted: contiguous, on the CPU, of the same dtype, of the same shape or flat. Matrices
                that lie as they are coded, float32 and bfloat16, are decoded right there. After an error it holds anything.

        Raises:
            FormatError: the bytes are damaged, or were coded with another codec; `where` names the tensor.
            UsageError: `out` does not fit.
        """
        import torch

        if out is not None:
            check_room(out, encoded.dtype, encoded.shape, where)

        if encoded.coder in WITH_BASE:
            raise FormatError(
                where, f"a tensor coded by {encoded.coder}", "one without a base; an artifact brings its own"
            )
        if encoded.coder != "nwc":
            lossless = decode_lossless(encoded, where, threads)
            return lossless if out is None else out.view(encoded.shape).copy_(lossless)
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
            streams.append(self.coder.read(body, m, n))
            body.end()
        reader.end()
        bits = encoded.dtype.torch is torch.bfloat16  # which numpy lacks: rounded to while decoding, as bits
        kind = np.uint16 if bits else np.float32
        in_place = out is not None and layout.is_plain and (bits or encoded.dtype.torch is torch.float32)
        if out is not None and in_place:
            decoded = out.view(-1).view(torch.uint16 if bits else torch.float32).numpy().reshape(count, m, n)
        else:
            decoded = np.empty((count, m, n), kind)
        for index, stream in enumerate(streams):
            stream.weights_into(decoded[index], f"{where}, matrix {index}", threads)
        tensor = torch.from_numpy(layout.from_matrices(decoded, encoded.shape))
        tensor = tensor.view(torch.bfloat16) if bits else tensor
        if out is None:
            return tensor.to(encoded.dtype.torch)
        return out.view(encoded.shape) if in_place else out.view(encoded.shape).copy_(tensor)


def _of_matrices(
    weight: torch.Tensor,
    values: npt.NDArray[np.float32],
    layout: Layout,
    code: Callable[[int, npt.NDArray[np.float32]], CodedMatrix],
) -> tuple[EncodedTensor, torch.Tensor]:
    """A tensor whose matrices are coded one by one, and what it decodes to. Raises Unsuitable."""
    import torch

    dtype, shape = from_torch(weight.dtype), tuple(weight.shape)
    out = ByteWriter()
    layout.write(out)
    matrices = layout.to_matrices(values)
    side = len(out)
    decoded = np.empty(matrices.shape, np.float32)
    for index, matrix in enumerate(matrices):
        coded = code(index, matrix)
        side += coded.side_nbytes + 3
        out.varint(len(coded.data))
        out.raw(coded.data)
        # From the points, by what decodes them, rounding to the tensor's own type included; that the entropy code
        # gives the points back is left to `nwc verify`.
        decoded[index] = coded.weights
    result = torch.from_numpy(layout.from_matrices(decoded, shape)).to(weight.dtype)
    mse = mean_squared_error(result.to(torch.float32).numpy(), values)
    if not math.isfinite(mse):
        raise Unsuitable  # a weight near the end of float16's range was rounded past it
    return EncodedTensor(dtype, shape, "nwc", out.getvalue(), side_nbytes=side, mse=mse), result


def _dtype(weight: torch.Tensor) -> DType:
    """Raises UsageError for an element type that safetensors lacks."""
    try:
        return from_torch(weight.dtype)
    except KeyError:
        raise UsageError(f"a tensor of {weight.dtype}; wanted one of {', '.join(DTYPES)}") from None


def _lossy_values(weight: torch.Tensor, dtype: str) -> npt.NDArray[np.float32] | None:
    """Float32 values of a tensor that the lossy coder takes; None for one that it should not touch."""
    import torch

    if not lossy_candidate(dtype, tuple(weight.shape)):
        return None
    values: npt.NDArray[np.float32] = weight.detach().resolve_neg().cpu().to(torch.float32).numpy()
    # min and max see NaN and infinity too, without a temporary the size of the tensor.
    low, high = float(values.min()), float(values.max())
    return values if math.isfinite(low) and math.isfinite(high) and low != high else None


def _few_values(values: npt.NDArray[np.float32]) -> bool:
    """Whether a tensor looks like a mask or a table of a few constants, which a general compressor codes in far less."""
    sample = values.reshape(-1)[:: max(1, values.size // _VALUES_SAMPLED)]
    return bool(np.unique(sample).size <= sample.size // 16)
