"""What pages of reports are made of: money, bars, levels of maps, options in words, plots."""

from __future__ import annotations

import math
import re
from xml.etree import ElementTree as ET

import pytest

from nwc_workflows.inspect import TensorSummary
from nwc_workflows.report.content import Price, Saved, bars
from nwc_workflows.report.heat_map import LEVELS, layer_maps
from nwc_workflows.report.job import job_facts
from nwc_workflows.report.plots import Plot, Series
from nwc_workflows.report.svg import VARIABLES, StyleSheet

GB = 10**9


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [
        (1000 * GB, "$23.00"),
        (10**6 * GB, "$23,000.00"),
        (78 * 10**6, "$0.0018"),
        (10 * GB, "$0.23"),
        (0, "$0.00"),
        (1, "$0.00"),
        (-1000 * GB, "−$23.00"),
    ],
)
def test_money(nbytes, text):
    assert Price().money_text(nbytes) == text


def test_what_is_saved():
    assert Saved(100, 25).times == 4
    assert [figure.value for figure in Saved(100 * GB, 25 * GB, Price(2, "")).figures()] == [
        "4.00×",
        "25.0 GB",
        "150.00",
    ]
    assert Saved(0, 25).figures() == ()
    assert Saved(100, 0).times is None


def test_bars_are_parts_of_the_longest():
    assert bars([5, 10, 0]) == [50, 100, 0]
    assert bars([]) == []
    assert bars([0, 0]) == [0, 0]


def tensor(name, bits=4.0, mse=1e-6, power=None, coder="nwc"):
    return TensorSummary(name, "F32", (100, 80), (coder,), 1, round(1000 * bits), 10, mse, power)


def levels(found):
    return [[None if cell is None else cell.level for cell in cells] for _, cells in found.rows]


def test_levels_go_from_the_least_to_the_most():
    tensors = [tensor(f"l.{i}.{k}", bits=1 + i + 3 * (k == "b"), mse=10.0 ** -(i + 1)) for i in range(3) for k in "ab"]
    ((bits, error),) = [layers.maps for layers in layer_maps(tensors)]
    assert (bits.low, bits.high) == ("1.00", "6.00")
    assert levels(bits) == [[0, 5], [1, 7], [3, LEVELS - 1]]
    assert levels(error) == [[LEVELS - 1] * 2, [4, 4], [0, 0]]  # logarithmic
    assert error.unit == "root mean square error"


def test_what_is_nearly_the_same_looks_the_same():
    tensors = [tensor(f"l.{i}.{k}", bits=4 + 0.001 * i) for i in range(4) for k in "ab"]
    ((bits, error),) = [layers.maps for layers in layer_maps(tensors)]
    assert {level for row in levels(bits) for level in row} == {LEVELS // 2}
    assert {level for row in levels(error) for level in row} == {LEVELS // 2}


def test_what_is_exact_has_no_level():
    tensors = [
        tensor(f"l.{i}.{k}", mse=0.0 if (i, k) == (1, "a") or k == "norm" else 1e-6)
        for i in range(3)
        for k in ("a", "norm", "b")
    ]
    (layers,) = layer_maps(tensors)
    assert layers.selected
    assert layers.maps[0].columns == ("a", "b")
    assert levels(layers.maps[0])[1][0] is None
    assert layers.maps[0].exact
    assert "stored without loss" in layers.maps[0].rows[1][1][0].title
    (layers,) = layer_maps([tensor(f"l.{i}.{k}", mse=0.0, bits=8 + i) for i in range(3) for k in "ab"])
    assert [found.title for found in layers.maps] == ["Bits"]
    assert levels(layers.maps[0]) == [[0, 0], [4, 4], [8, 8]]


def test_several_tensors_in_a_cell_count_by_their_weights():
    tensors = [
        tensor(f"l.{i}.experts.{e}.w", bits=2 + e % 2, mse=1e-6, power=1e-4) for i in range(4) for e in range(20)
    ]
    ((bits, error),) = [layers.maps for layers in layer_maps(tensors)]
    cell = bits.rows[0][1][0]
    assert cell.text == "2.50"
    assert cell.title.startswith("l.0.experts.0.w and 19 more: 2.500 bits per weight, 160,000 weights, ")
    assert error.rows[0][1][0].text == "10"


def facts(**job):
    return {fact.label: fact.text for fact in job_facts(job, "default")}


def test_options_in_words():
    assert facts(bits=4.5, preset="max")["Asked for"] == "4.5 bits per weight, all bytes counted"
    assert facts(max_bytes=4_000_000)["Asked for"] == "at most 4.00 MB in all"
    found = facts(bits=3.5, quality="kl=0.01", quality_tokens=4096, quality_windows=16, quality_sha256="ab" * 32)
    assert found["Asked for"].startswith("the smallest with a KL divergence from the original of at most 0.01 nats")
    assert found["Asked for"].endswith(", found at 3.5 bits per weight")
    assert found["Quality reached"].endswith("measured on 4,096 tokens, 16 windows of data abababababab…")
    assert "Calibration" in found
    assert facts(bits=4.0, lossless_tensors="*embed*\nhead")["Bit for bit"] == "tensors called *embed*, head"
    assert facts(recover_minutes=10.0, recover_texts=7)["Recovery"].endswith("for up to 10 minutes on 7 texts")


def test_options_of_a_later_version_are_listed():
    assert facts(bits=4.0, flavour="\x1b[31mred", quality="taste=3") == {
        **facts(bits=4.0),
        "Asked for": "the smallest with taste=3, found at 4 bits per weight",
        "Quality reached": "taste=3, measured on data",
        "flavour": r"'\x1b[31mred'",
    }


def plot(**changes):
    series = Series("a $x$ & <b>", (1.0, 2.0), (-6.0, -12.0), ('tip <1> "', "tip 2"), (-7.0, -13.0), (-5.0, -11.0))
    values = {"name": "p", "title": '"Title" <&>', "x": "bits $x$", "y": "y <", "series": (series,), **changes}
    return Plot(**values)


def test_a_plot_follows_the_page():
    sheet = StyleSheet()
    text = str(plot(bound="bound", bound_x=(0.0, 3.0), bound_y=(0.0, -18.0), zero=True).svg(sheet))
    root = ET.fromstring(text)
    assert root.attrib == {"class": "plot", "viewBox": "0 0 640 380", "role": "img", "aria-label": '"Title" <&>'}
    assert root[0].tag == "title"
    assert [title.text for title in root.iter("title")][1:] == ['tip <1> "', "tip 2"]
    words = [element.text for element in root.iter("text")]
    assert "bits $x$" in words
    assert "y <" in words
    assert "style" not in text
    for colour in VARIABLES:
        assert colour not in text + sheet.text
    assert "var(--accent)" in sheet.text
    assert "#000000" not in sheet.text
    assert set(re.findall(r"class=\"(p\d+)\"", text)) <= set(re.findall(r"^\.(p\d+)\{", sheet.text, re.MULTILINE))


def test_equal_plots_are_equal_and_ids_are_their_own():
    first, again, other = (str(plot(name=name).svg(StyleSheet())) for name in ("p", "p", "q"))
    assert first == again
    ids = [set(re.findall(r'id="([^"]+)"', text)) for text in (first, other)]
    assert ids[0]
    assert not ids[0] & ids[1]


def test_a_tip_for_every_mark_or_none():
    series = Series("s", (1.0, 2.0, 3.0), (1.0, math.nan, 2.0), ("a", "b", "c"))
    with pytest.raises(ValueError, match="series-0: found 2 markers; wanted 3"):
        plot(series=(series,)).svg(StyleSheet())


def test_thousands_of_marks_are_all_there():
    many = tuple(float(n) for n in range(5000))
    series = Series("s", many, many, tuple(map(str, range(5000))), line="")
    root = ET.fromstring(str(plot(series=(series,)).svg(StyleSheet())))
    assert [title.text for title in root.iter("title")][1:] == [str(n) for n in range(5000)]


def test_a_logarithmic_axis_has_plain_numbers():
    series = Series("s", (1.0, 2.0), (0.002, 0.03))
    root = ET.fromstring(str(plot(series=(series,), logarithmic=True).svg(StyleSheet())))
    words = {element.text for element in root.iter("text")}
    assert {"0.002", "0.005", "0.01", "0.02"} <= words
