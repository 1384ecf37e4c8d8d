"""Writes the golden files: `python tests/nwc_core/make_golden.py`. See golden/README.md for when (hardly ever).

The tests never run this: they hold the decoder against the files as they are.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from codec_samples import bits_of, gaussian, random_bits, sample_codec
from hand_streams import segments_of

from nwc_core.basis import COLUMNS, ROWS, Basis
from nwc_core.codec import Codec
from nwc_core.dtypes import DTYPES
from nwc_core.encoded import EncodedTensor
from nwc_core.lossless import encode_lossless
from nwc_core.matrices import Layout
from nwc_core.matrix_stream import MatrixHeader, MatrixStream
from nwc_core.scales import Scales
from nwc_core.synthesis import MAX_STEP_RANGE
from nwc_core.wire import ByteWriter

FOLDER = Path(__file__).parent / "golden"


def _smooth(*shape: int) -> torch.Tensor:
    return 0.3 * gaussian(*shape) + gaussian(*shape[:2], 1, 1, seed=1)


def _outliers() -> torch.Tensor:
    weight = gaussian(40, 40, seed=2)
    weight[3, 5], weight[20, 20] = 4e4, -700
    return weight


def _few_directions() -> torch.Tensor:
    """Noise, and three directions in which all rows are strong."""
    return gaussian(200, 64, seed=9) + gaussian(200, 3, seed=10) @ gaussian(3, 64, seed=11)


def _hessian(size: int) -> torch.Tensor:
    """Of correlated inputs."""
    inputs = gaussian(4 * size, size, seed=13).cumsum(1) * torch.linspace(0.1, 3, size)
    return inputs.T @ inputs


def encoded_by_the_codec(codec: Codec) -> dict[str, EncodedTensor]:
    """What the encoder writes today: every preset, float type and kind of layout."""
    ramp = torch.logspace(-2, 2, 64)
    hole = gaussian(3, 64, 64, seed=6)
    hole[1] = 0
    return {
        "f32-default": codec.encode(gaussian(64, 48), 4.0),
        "f16-fast-rows": codec.encode((gaussian(64, 48, seed=1) * ramp[:, None]).half(), 3.0, preset="fast"),
        "bf16-scalar-columns": codec.encode((gaussian(48, 64, seed=3) * ramp).bfloat16(), 5.0, preset="scalar"),
        "f64-max": codec.encode(gaussian(48, 48, seed=4).double(), 2.0, preset="max"),
        "conv-transform": codec.encode(_smooth(16, 16, 3, 3), 3.0),
        "calibrated": codec.encode(
            gaussian(96, 64, seed=12), 3.0, hessian=_hessian(64), rows=1 + gaussian(96).square()
        ),
        "basis": codec.encode(_few_directions(), 3.0),
        "conv-hwio": codec.encode(gaussian(3, 3, 12, 16, seed=5), 2.5),
        "experts-one-zero": codec.encode(hole, 1.5),
        "raw-bits": codec.encode(gaussian(32, 40, seed=7), 14.0),
        "escapes": codec.encode(_outliers(), 5.0),
        "huge": codec.encode(gaussian(32, 40, seed=8) * 2.0**90, 3.0),
    }


def _by_hand(
    codec: Codec,
    m: int,
    n: int,
    *,
    n_states: int,
    transform: int = 0,
    bases: tuple[Basis, ...] = (),
    by_columns: bool = False,
    lanes: int,
    lines: int,
    shape: int,
    absolute: tuple[bool, bool] = (False, False),
) -> EncodedTensor:
    """A stream that uses what the format has and the encoder does not yet choose: step exponents, scans, segments."""
    rng = np.random.default_rng(m * n + n_states)
    header = MatrixHeader(
        m=m,
        n=n,
        shape=shape,
        n_states=n_states,
        transform=transform,
        bases=bases,
        by_columns=by_columns,
        lanes=lanes,
        step=np.float32(0.0123),
        row_exponent=rng.integers(-20, 21, m).astype(np.int32),
        column_exponent=rng.integers(0, MAX_STEP_RANGE + 1 if transform or bases else 129, n).astype(np.int32),
        absolute=absolute,
        scales=Scales(30, rng.integers(-9, 10, m).astype(np.int32), rng.integers(-3, 4, n).astype(np.int32), 1, 3),
        lines=lines,
    )
    segments, _ = segments_of(header, codec.prior, rng)
    body, out = ByteWriter(), ByteWriter()
    MatrixStream(header, segments).write(body, codec.prior)
    Layout((1, 0), 0, 1).write(out)
    out.varint(len(body))
    out.raw(body.getvalue())
    return EncodedTensor(DTYPES["F32"], (n, m), "nwc", out.getvalue())


def encoded_by_hand(codec: Codec) -> dict[str, EncodedTensor]:
    return {
        "hand-columns": _by_hand(
            codec, 30, 21, n_states=16, by_columns=True, lanes=7, lines=12, shape=1, absolute=(False, True)
        ),
        "hand-rows": _by_hand(codec, 21, 30, n_states=32, lanes=32, lines=5, shape=0, absolute=(True, False)),
        "hand-transform": _by_hand(codec, 20, 36, n_states=64, transform=1, lanes=3, lines=20, shape=1),
        "hand-transform-columns": _by_hand(
            codec, 33, 18, n_states=128, transform=1, by_columns=True, lanes=1, lines=7, shape=0
        ),
        "hand-bases": _by_hand(
            codec,
            *(24, 36),
            n_states=8,
            transform=1,
            bases=(Basis(COLUMNS, _vectors(9, 8)), Basis(ROWS, _vectors(24, 3))),
            lanes=2,
            lines=9,
            shape=1,
        ),
        "hand-basis-columns": _by_hand(
            codec,
            10,
            50,
            n_states=4,
            bases=(Basis(COLUMNS, _vectors(50, 4)),),
            by_columns=True,
            lanes=5,
            lines=50,
            shape=0,
        ),
    }


def _vectors(size: int, rank: int) -> npt.NDArray[np.int32]:
    return np.tril(np.random.default_rng(size).integers(1, 30, (size, rank))).astype(np.int32)


def encoded_without_loss() -> dict[str, EncodedTensor]:
    made = {f"raw-{name}": encode_lossless(random_bits(dtype, (3, 5), 9)) for name, dtype in DTYPES.items()}
    for name in ("BF16", "F32", "I64", "BOOL", "C64"):
        made[f"zstd-{name}"] = encode_lossless(random_bits(DTYPES[name], (1, 10), 10).expand(20, 10))
    made["scalar"] = encode_lossless(torch.tensor(-0.0))
    made["empty"] = encode_lossless(torch.empty(4, 0, 2, dtype=torch.float16))
    return made


def encoded_floats() -> dict[str, EncodedTensor]:
    """Lossless, of every type that coder "float" takes: learned and own tables, escapes, signs, dead bits, two groups."""
    ramp = torch.logspace(-1, 1, 40)
    odd = gaussian(70, 40, seed=21)
    odd.view(torch.int32)[::7, 3] = torch.arange(10, dtype=torch.int32) * 0x1357_9BDF + 0x7F80_0000 - 5
    halves = gaussian(120, 40, seed=22)
    halves[::2] = halves[::2].half().float()
    made = {
        "float-BF16": (gaussian(70, 40, seed=20) * ramp).bfloat16(),
        "float-F16": (gaussian(70, 40, seed=20) * ramp).half(),
        "float-F32": odd,
        "float-groups": halves,
        "float-positive": gaussian(800, seed=23).abs().bfloat16(),
        "float-dead": gaussian(50, 40, seed=24).bfloat16().float(),
        "float-F8_E4M3": gaussian(60, 40, seed=25).to(torch.float8_e4m3fn),
        "float-F8_E5M2": gaussian(60, 40, seed=26).to(torch.float8_e5m2),
    }
    return {name: encode_lossless(tensor) for name, tensor in made.items()}


def main() -> None:
    """Write every file anew."""
    codec = sample_codec()
    for old in FOLDER.glob("*.nwc"):
        old.unlink()
    (FOLDER / "codec.safetensors").write_bytes(codec.to_bytes())
    cases = encoded_by_the_codec(codec) | encoded_by_hand(codec) | encoded_without_loss() | encoded_floats()
    digests = {}
    for name, encoded in cases.items():
        (FOLDER / f"{name}.nwc").write_bytes(encoded.to_bytes())
        digests[name] = {
            "coder": encoded.coder,
            "dtype": encoded.dtype.name,
            "shape": list(encoded.shape),
            "sha256": hashlib.sha256(bits_of(codec.decode(encoded))).hexdigest(),
        }
    (FOLDER / "decoded.json").write_text(json.dumps(digests, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
