"""`nwc bench`: measure on this machine."""

from __future__ import annotations

import click

from nwc_workflows.console import Output, with_output
from nwc_workflows.wording import bytes_text


@click.group()
def bench() -> None:
    """Measure rate, distortion and speed on this machine, in one run."""


@bench.command()
@click.option("--codec", "name", default="default", show_default=True, help="A shipped codec, or a codec file.")
@click.option("--rows", type=click.IntRange(64), default=1024, show_default=True)
@click.option("--columns", type=click.IntRange(64), default=4096, show_default=True)
@click.option("--bits", "rates", multiple=True, type=float, help="Rates; repeatable. [3, 4, 5]")
@click.option("--preset", "presets", multiple=True, help="Presets; repeatable. [scalar, default]")
@with_output
def codec(
    output: Output, name: str, rows: int, columns: int, rates: tuple[float, ...], presets: tuple[str, ...]
) -> None:
    """Rate, distortion and speed on a Gaussian matrix, beside Shannon's bound, zstd and memcpy; one core."""
    import torch

    from nwc_core.codec import Codec
    from nwc_workflows.bench.codec import gaussian, rate_points, speeds

    torch.set_num_threads(1)
    loaded = Codec.load(name)
    weight = gaussian(rows, columns)
    chosen = list(presets or ("scalar", "default"))
    points = rate_points(loaded, weight, chosen, list(rates or (3.0, 4.0, 5.0)))
    timed = speeds(loaded, weight, 4.0, chosen)
    output.table(
        ["preset", "wanted", "bits/weight", "D", "above Shannon", "over ideal code"],
        [
            [
                *(p.preset, f"{p.wanted:g}", f"{p.bits:.4f}", f"{p.mse:.3e}", f"{p.gap:.4f}"),
                f"{100 * (p.bits / p.ideal_bits - 1):.2f} %",
            ]
            for p in points
        ],
    )
    output.note("")
    memcpy = timed[0].seconds
    output.table(
        ["operation (one core)", "M weights/s", "times memcpy's time", "result"],
        [
            [
                t.what,
                f"{t.weights_per_second / 1e6:.1f}",
                f"{t.seconds / memcpy:.1f}",
                bytes_text(t.nbytes) if t.nbytes is not None else "",
            ]
            for t in timed
        ],
    )
    output.result(
        {
            "codec": loaded.digest,
            "shape": [rows, columns],
            "rate": [
                {
                    "preset": p.preset,
                    "wanted": p.wanted,
                    "bits_per_weight": p.bits,
                    "distortion": p.mse,
                    "gap": p.gap,
                    "ideal_bits": p.ideal_bits,
                }
                for p in points
            ],
            "speed": [{"what": t.what, "seconds": t.seconds, "weights": t.weights, "bytes": t.nbytes} for t in timed],
        },
        f"{rows} x {columns} Gaussian weights, codec {name}",
    )
