"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from nwc_workflows.wording import name_text

if TYPE_CHECKING:
    from nwc_workflows.base import BaseArtifact
    from nwc_workflows.calibration.reading import Calibration
    from nwc_workflows.evaluation.subset import Subset
    from nwc_workflows.plan import CompressOptions, Plan

_F = Callable[..., Any]


def _all_of(*options: _F) -> Callable[[_F], _F]:
    """Several options as one decorator; help lists them in this order."""

    def decorate(command: _F) -> _F:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def model_options(*more_kinds: str, subset: Subset) -> Callable[[_F], _F]:
    """How a model is run on data, as of `nwc evaluate`; `more_kinds` of models than that takes."""
    tokens, items = {
        "first": ("only the data's first N.", "only the first N texts or images."),
        "evenly": ("only N, in windows spread evenly over the data.", "only N texts, spread likewise, or images."),
    }[subset]
    return _all_of(
        click.option(
            "--kind",
            type=click.Choice(["auto", "language", *more_kinds, "encoder", "classifier"]),
            default="auto",
            show_default=True,
            help="What the model is; auto goes by config.json and the data.",
        ),
        click.option("--max-tokens", type=click.IntRange(2), default=None, help=f"Language models: {tokens}"),
        click.option("--max-items", type=click.IntRange(1), default=None, help=f"Others: {items}"),
        click.option(
            "--window",
            type=click.IntRange(2),
            default=256,
            show_default=True,
            help="Tokens that a language model sees at once; encoders' texts are cut off there.",
        ),
        click.option(
            "--factory",
            default=None,
            metavar="MODULE:FUNCTION",
            help="Makes the torch module from config.json as a dict, for models that transformers does not know.",
        ),
    )


data_option = click.option(
    "--data",
    required=True,
    metavar="PATH",
    help="A text, JSON lines, an npz of images and labels, or a folder: of texts, or of images by class.",
)
batch_option = click.option("--batch", type=click.IntRange(1), default=None, help="Windows, texts or images at a time.")

compress_options = _all_of(
    click.option(
        "--bits",
        type=float,
        default=None,
        help="Bits per weight, over all bytes that hold weights; 4.5 if neither this nor another size is given.",
    ),
    click.option(
        "--max-bytes",
        type=click.IntRange(1),
        default=None,
        metavar="N",
        help="Instead of --bits: the whole artifact, with all files that it carries, takes at most N bytes.",
    ),
    click.option(
        "--quality",
        default=None,
        metavar="METRIC=VALUE",
        help="Instead of --bits: the smallest artifact that is good enough. kl=0.01: divergence from the original's "
        "predictions in nats per token or image; rel-error=0.01: squared error of embeddings over their squared length; "
        "top1-drop=0.5: percentage points of accuracy, or of a language model's agreement with the original.",
    ),
    click.option(
        "--calibration",
        default=None,
        metavar="URI",
        help="What nwc calibrate made of this model: errors go, and bits with them, where the output does not mind.",
    ),
    click.option(
        "--base",
        default=None,
        metavar="URI",
        help="An artifact of a relative, such as the model that this one was fine-tuned from: only what differs is coded, "
        "and reading needs both. --bits then says how good the artifact is, as if it were coded alone; it is smaller.",
    ),
    click.option(
        "--preset",
        type=click.Choice(["scalar", "fast", "default", "max"]),
        default="default",
        show_default=True,
        help="How hard to search; decoding costs the same.",
    ),
    click.option("--codec", default="default", show_default=True, help="A shipped codec, or a codec file."),
    click.option("--lossless", is_flag=True, help="Instead of a size: every tensor is stored bit for bit."),
    click.option(
        "--lossless-tensor",
        "lossless_tensors",
        multiple=True,
        metavar="GLOB",
        help="Tensors of such names are stored bit for bit, the others take what is left of the size; repeatable.",
    ),
    click.option(
        "--max-relative-error",
        type=float,
        default=None,
        metavar="R",
        help="Instead of a size: no weight is off by more than R of its own magnitude, e.g. 0.01.",
    ),
    click.option(
        "--max-absolute-error",
        type=float,
        default=None,
        metavar="E",
        help="Instead of a size: no weight is off by more than E, e.g. 0.001.",
    ),
)

quality_options = _all_of(
    click.option(
        "--gate",
        default=None,
        metavar="METRIC=VALUE",
        help="With --bits or --max-bytes: measure the artifact, and write nothing if it is not good enough.",
    ),
    click.option(
        "--quality-data",
        default=None,
        metavar="PATH",
        help="What --quality and --gate are measured on, as nwc evaluate reads it; not what the model was calibrated on.",
    ),
    click.option(
        "--recover",
        type=click.FloatRange(min=0, min_open=True),
        default=None,
        metavar="MINUTES",
        help="Tune what is stored without loss (norms, biases) for so long that the output comes closer to the original's; "
        "with --quality, every artifact on trial. How far that gets depends on the machine: two runs may differ.",
    ),
    click.option(
        "--recover-data",
        default=None,
        metavar="PATH",
        help="What --recover tunes on, as nwc evaluate reads it; calibration data will do, --quality-data will not.",
    ),
    click.option(
        "--recover-steps",
        type=click.IntRange(1),
        default=None,
        metavar="N",
        help="With --recover: at most N steps; given time for all of them, runs on one machine do not differ.",
    ),
    model_options(subset="evenly"),
    click.option(
        "--scratch",
        default=None,
        metavar="URI",
        help="Where artifacts lie until they are good; a temporary folder if left out, which a cluster cannot reach.",
    ),
)

ray_options = _all_of(
    click.option(
        "--address",
        default=None,
        metavar="ADDRESS",
        help="A running Ray cluster (auto, HOST:PORT, ray://HOST:PORT). Without it a local Ray starts and stops.",
    ),
    click.option("--workers", type=int, default=None, help="Tasks at once; one per CPU if left out."),
)


def chosen_options(
    bits: float | None,
    max_bytes: int | None,
    quality: str | None,
    preset: str,
    gate: str | None = None,
    *,
    lossless: bool = False,
    lossless_tensors: tuple[str, ...] = (),
    max_relative_error: float | None = None,
    max_absolute_error: float | None = None,
) -> CompressOptions:
    """What the options of a command ask for. Raises UsageError if that makes no sense."""
    from nwc_core.errors import UsageError
    from nwc_workflows.plan import CompressOptions
    from nwc_workflows.targets import Target

    found = {
        name: None if text is None else Target.parse(text, f"--{name}")
        for name, text in (("quality", quality), ("gate", gate))
    }
    if bits is not None and quality is not None:
        raise UsageError("bits and quality: found both; wanted one of them")
    if lossless and click.get_current_context().get_parameter_source("preset") == ParameterSource.COMMANDLINE:
        raise UsageError("lossless and preset: found both; wanted one of them")
    sizes = {"bits": bits, "max_bytes": max_bytes}
    return CompressOptions(
        **dict[str, Any](**sizes, **found),
        **dict[str, Any](max_relative_error=max_relative_error, max_absolute_error=max_absolute_error),
        **dict[str, Any](preset=preset, lossless=lossless, lossless_tensors=lossless_tensors),
    )


def unmatched_text(plan: Plan) -> str | None:
    """A word on patterns of --lossless-tensor that no tensor has."""
    if not plan.unmatched:
        return None
    return f"--lossless-tensor: no tensor is called {', '.join(map(name_text, plan.unmatched))}"


def open_calibration(uri: str | None) -> Calibration | None:
    """What --calibration names."""
    if uri is None:
        return None
    from nwc_workflows.calibration.reading import Calibration

    return Calibration.open(uri)


def open_base(uri: str | None) -> BaseArtifact | None:
    """What --base names."""
    if uri is None:
        return None
    from nwc_workflows import base

    return base.open_base(uri)


def unreached_text(plan: Plan) -> str:
    """Which tensors a plan's calibration says nothing about; "" if it has something on all, or there is none."""
    from nwc_workflows.wording import name_text

    names = plan.unreached
    if not names:
        return ""
    shown = ", ".join(name_text(name) for name in names[:3]) + (" ..." if len(names) > 3 else "")
    what = "the average rate, and their errors count alike" if plan.allocates else "errors that count alike"
    return f"no statistics of {len(names)} tensors ({shown}): they get {what}"
