"""CATALOG.yaml: which models, with which options, to which places. What it says is checked before anything runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from nwc_core.artifact.objects import check_key
from nwc_core.errors import UsageError
from nwc_workflows.plan import MIN_BITS, CompressOptions
from nwc_workflows.request import Request
from nwc_workflows.targets import Target
from nwc_workflows.yaml_file import read_yaml

NAME = "{name}"  # in a location: replaced by the model's name
RECORD_FILES = ("status.json", "timeline.json")  # below a model's name, see `nwc_workflows.catalog.records`

# Options that say the same thing in different ways: an entry that has one of them has none of the defaults' others.
_SIZES = ("bits", "max_bytes", "quality", "lossless", "max_relative_error", "max_absolute_error")
_JUDGES = ("quality", "gate")
_OF_PLAN = ("bits", "max_bytes", "preset", "lossless", "max_relative_error", "max_absolute_error")
_OF_MEASURING = ("kind", "max_tokens", "max_items", "window", "factory")
_OF_REQUEST = ("calibration", "base", "quality_data", "recover", "recover_data", "recover_steps", "scratch")
_T = TypeVar("_T")


def _checked(check: Callable[[_T], object], wanted: str) -> Any:
    """A validator that complains as all of nwc does."""

    def validate(value: _T) -> _T:
        try:
            check(value)
        except ValueError as error:
            raise ValueError(f"found {value!r}; wanted {wanted} ({error})") from None
        return value

    return AfterValidator(validate)


def check_name(name: str) -> None:
    """Names become folders, of artifacts and of records. Raises ValueError."""
    check_key(name)
    parts = name.split("/")
    if any(part.startswith(".") for part in parts):
        raise ValueError("no part of it may start with a dot")
    taken = next((part for part in parts if part in RECORD_FILES), None)
    if taken:
        raise ValueError(f"no part of it may be {taken}")


def _check_target(text: str) -> None:
    Target.parse(text, "value")


Location = Annotated[str, Field(min_length=1)]
Quality = Annotated[str, _checked(_check_target, "METRIC=VALUE")]
Name = Annotated[str, _checked(check_name, "a name that is a relative path")]
Count = Annotated[int, Field(ge=1)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Options(_Section):
    """Options of `nwc compress` under the names that they have there. What is left out, or null, is as there.

    `base` may also name another model of the catalog, or be `auto`: the likest of those before it.
    """

    bits: Annotated[float, Field(ge=MIN_BITS)] | None = None
    max_bytes: Count | None = None
    quality: Quality | None = None
    gate: Quality | None = None
    calibration: Location | None = None
    base: Location | None = None
    preset: Literal["scalar", "fast", "default", "max"] | None = None
    quality_data: Location | None = None
    recover: Annotated[float, Field(gt=0)] | None = None
    recover_data: Location | None = None
    recover_steps: Count | None = None
    kind: Literal["auto", "language", "encoder", "classifier"] | None = None
    max_tokens: Annotated[int, Field(ge=2)] | None = None
    max_items: Count | None = None
    window: Annotated[int, Field(ge=2)] | None = None
    factory: str | None = None
    scratch: Location | None = None
    lossless: bool | None = None
    lossless_tensor: list[str] | None = None
    max_relative_error: Annotated[float, Field(gt=0, lt=0.5)] | None = None
    max_absolute_error: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None

    def given(self) -> dict[str, Any]:
        """Those that the file has, null ones too."""
        return {name: getattr(self, name) for name in Options.model_fields if name in self.model_fields_set}

    def over(self, defaults: Options) -> Options:
        """These, and of the defaults what these do not say otherwise."""
        own, taken = self.given(), defaults.given()
        for group in (_SIZES, _JUDGES):
            if any(own.get(name) is not None for name in group):
                taken = {name: value for name, value in taken.items() if name not in group}
        return Options(**{**taken, **own})

    def request(self, source: str, name: str) -> Request:
        """A compression with these options of the model of that name. Raises UsageError if they contradict each other."""
        found = {key: value for key, value in self.given().items() if value is not None}
        for key in ("calibration", "base", "quality_data", "recover_data", "scratch"):
            if key in found:
                found[key] = found[key].replace(NAME, name)
        targets = {key: Target.parse(found[key], key) for key in _JUDGES if key in found}
        sizes = {key: found[key] for key in _OF_PLAN if key in found}
        patterns = tuple(found.get("lossless_tensor", ()))
        options = CompressOptions(**dict[str, Any](**sizes, **targets), lossless_tensors=patterns)
        measuring: dict[str, Any] = {key: found[key] for key in _OF_MEASURING if key in found}
        more: dict[str, Any] = {key: found[key] for key in _OF_REQUEST if key in found}
        return Request(source, options, measuring=measuring, **more)


class Entry(Options):
    """One model (`source`, perhaps `name`), or all below a prefix (`prefix`, perhaps `include` and `exclude`)."""

    source: Location | None = None
    name: Name | None = None
    prefix: Location | None = None
    include: list[str] | None = None
    exclude: list[str] | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> Entry:
        if (self.source is None) == (self.prefix is None):
            found = "neither source nor prefix" if self.source is None else "both source and prefix"
            raise ValueError(f"found {found}; wanted one of them")
        strangers = ("include", "exclude") if self.source is not None else ("name",)
        for key in strangers:
            if getattr(self, key) is not None:
                raise ValueError(
                    f"found {key} with {'source' if self.source is not None else 'prefix'}; wanted it without"
                )
        return self


class Limits(_Section):
    """How much of the cluster, and of the store, a run may take.

    Attributes:
        workers: tasks at once.
        memory_gib: of all tasks at once, GiB.
        requests_per_second: to S3, of all workers together.
        models: that overlap.
    """

    workers: Count | None = None
    memory_gib: Annotated[float, Field(gt=0)] | None = None
    requests_per_second: Annotated[float, Field(gt=0)] | None = None
    models: Count | None = None


def _check_destination(template: str) -> None:
    root, found, _ = template.partition(NAME)
    if not found:
        raise ValueError(f"{NAME} must occur in it")
    if root.endswith("://") or ("://" in root and "/" not in root.partition("://")[2]):
        raise ValueError(f"{NAME} must not be in the place of the bucket")


class Catalog(_Section):
    """The file.

    Attributes:
        destination: of a model's artifact, with {name} in it.
        models: to compress, in this order.
        defaults: options of all.
        codec: of all: a shipped one, or a codec file.
        limits: of a run.
        price: of a GB (10**9 bytes) stored for a month, in any currency.
    """

    destination: Annotated[str, _checked(_check_destination, "a location such as s3://bucket/compressed/{name}")]
    models: Annotated[list[Entry], Field(min_length=1)]
    defaults: Options = Options()
    codec: Location = "default"
    limits: Limits = Limits()
    price: Annotated[float, Field(ge=0)] | None = None

    @property
    def root(self) -> str:
        """Where everything goes: what comes before {name}, up to the last slash."""
        before = self.destination.partition(NAME)[0]
        return before.rpartition("/")[0] or ("/" if before.startswith("/") else ".")


def read_catalog(path: str | Path) -> Catalog:
    """Read and check a file.

    Raises:
        UsageError: it cannot be read, or says what makes no sense; names the file and the key.
    """
    catalog = read_yaml(path, Catalog)
    for index, entry in enumerate(catalog.models):
        try:
            entry.over(catalog.defaults).request(entry.source or entry.prefix or "", "name")
        except UsageError as error:
            raise UsageError(f"{path}: models[{index}]: {error}") from None
    return catalog


def is_catalog(text: str) -> bool:
    """Whether an argument names a file rather than the place that a catalog was written to."""
    return "://" not in text and (text.endswith((".yaml", ".yml")) or Path(text).is_file())
