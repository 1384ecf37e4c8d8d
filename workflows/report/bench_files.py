"""What `nwc bench` writes with --out, read back: as far as a report shows it, and checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from nwc_core.errors import FormatError, UsageError
from nwc_core.strict_json import parse_json, shown
from nwc_workflows.bench.sheets import Part, parts_from
from nwc_workflows.evaluation.models import Kind

M = TypeVar("M", bound="_Part")
_MAX_BYTES = 256 << 20  # all tensors of a large model, at many rates, take some ten million
WANTED = "an artifact, a catalog (its file, or where its results are), or what nwc bench wrote with --out"
Positive = Annotated[float, Field(gt=0)]


class _Part(BaseModel):
    """A later version may write more."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)


class Range(_Part):
    """A mean or a figure with its interval; None is what JSON has for not a number."""

    mean: float | None = None
    value: float | None = None
    low: float | None
    high: float | None


class Environment(_Part):
    """What it ran on."""

    cpu: str = ""
    cores: int | None = None
    system: str = ""
    python: str = ""
    packages: dict[str, str] = {}


class SourcePoint(_Part):
    """A contender at one rate, on samples of a source."""

    contender: str
    wanted: float | None
    bits: Annotated[float, Field(ge=0)]
    mse: Positive
    shannon_bits: float
    gap: float


class Source(_Part):
    """Samples of a source of variance 1."""

    name: str
    title: str
    shape: tuple[int, int]
    points: tuple[SourcePoint, ...]


class Summary(_Part):
    """A contender at one rate, over all tensors."""

    label: str
    wanted: float | None
    bits: float
    log2_distortion: float | None
    gap_weighted: Range


class Comparison(_Part):
    """What a contender saves against another at equal error."""

    label: str
    baseline: str
    wanted: float | None
    weighted: Range
    plain: Range


class Checkpoint(_Part):
    """Where tensors are from."""

    name: str


class Tensor(_Part):
    """A tensor that took part."""

    name: str
    weights: int


class CodecFile(_Part):
    """codec.json."""

    environment: Environment = Environment()
    rates: tuple[float, ...]
    sources: tuple[Source, ...]
    checkpoints: tuple[Checkpoint, ...]
    coded_losslessly: tuple[str, ...]
    tensors: tuple[Tensor, ...]
    summary: tuple[Summary, ...]
    comparison: tuple[Comparison, ...]


class Point(_Part):
    """A method at one of its settings."""

    method: str
    setting: str
    bytes: int
    bits_per_weight: float
    coded_tensors: int
    coded_bits_per_weight: float
    seconds: float
    figures: dict[str, Range | float | None]


class LeftOut(_Part):
    """A method that could not run."""

    name: str
    setting: str
    reason: str


class ModelsFile(_Part):
    """models.json."""

    task: Kind
    data: dict[str, Any]
    original: dict[str, Any]
    environment: Environment = Environment()
    scope: str
    scope_weights: Annotated[int, Field(gt=0)]
    scope_bytes: int
    points: tuple[Point, ...]
    left_out: tuple[LeftOut, ...]


class OtherFile(_Part):
    """Of any other benchmark: its tables alone are shown."""

    environment: Environment = Environment()


@dataclass(frozen=True)
class BenchFile:
    """A file.

    Attributes:
        name: its own.
        benchmark: that wrote it.
        content: what is drawn.
        parts: what was printed.
    """

    name: str
    benchmark: str
    content: CodecFile | ModelsFile | OtherFile
    parts: tuple[Part, ...]


def read_bench(place: Path) -> list[BenchFile]:
    """Results at a path: a file, or a folder that --out named, or one above it.

    Raises:
        UsageError: nothing there is a result that a report can show.
        FormatError: one is damaged; names the key.
    """
    paths = sorted(place.rglob("*.json")) if place.is_dir() else [place]
    found = [file for path in paths if (file := _read(path)) is not None]
    if not found:
        what = f"{len(paths)} JSON files" if place.is_dir() else "a file"
        raise UsageError(f"{place}: found {what} of another kind; wanted {WANTED}")
    return found


def _read(path: Path) -> BenchFile | None:
    """None for JSON of another kind."""
    try:
        size = path.stat().st_size
        if size > _MAX_BYTES:
            raise FormatError(str(path), f"{size} bytes", f"at most {_MAX_BYTES}")
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror or error}") from None
    value = parse_json(data, str(path))
    if not isinstance(value, dict):
        return None
    where = str(path)
    name = value.get("benchmark", "")
    parts = _parts(value.get("report", []), where)
    if {"sources", "comparison"} <= value.keys():
        return BenchFile(path.name, str(name or "codec"), _checked(CodecFile, value, where), parts)
    if {"points", "left_out"} <= value.keys():
        return BenchFile(path.name, str(name or "models"), _checked(ModelsFile, value, where), parts)
    if name and isinstance(name, str) and parts:
        return BenchFile(path.name, name, _checked(OtherFile, value, where), parts)
    return None


def _parts(value: object, where: str) -> tuple[Part, ...]:
    try:
        return tuple(parts_from(value))
    except TypeError:
        raise FormatError(f"{where}: key report", shown(value), "tables and paragraphs") from None


def _checked(model: type[M], value: Any, where: str) -> M:
    try:
        return model.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key: Sequence[Any] = first["loc"]
        found = "nothing" if first["type"] == "missing" else shown(first["input"])
        raise FormatError(f"{where}: key {'.'.join(map(str, key))}", found, first["msg"]) from None
