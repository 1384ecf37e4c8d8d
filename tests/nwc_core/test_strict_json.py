import json
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nwc_core.errors import FormatError
from nwc_core.strict_json import parse_json, shown

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.text()
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
)


@given(VALUES, st.booleans())
def test_what_is_json_comes_back(value, ascii_only):
    try:
        text = json.dumps(value, ensure_ascii=ascii_only).encode("utf-8")
    except UnicodeEncodeError:  # half of a surrogate pair
        return
    assert json.dumps(parse_json(text, "f")) == json.dumps(value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"", "error at character 0"),
        (b"{} {}", "error at character 3"),
        (b'{"a": 1, "b": {"c": 1, "c": 1}}', "the key 'c' twice"),
        (b"[NaN]", "found NaN"),
        (b"[-Infinity]", "found -Infinity"),
        (b'["\\uDC00"]', "surrogate"),
        (b'{"\\ud800": 1}', "surrogate"),
        (b'["\xff"]', "not UTF-8 at 2"),
        (b"\xef\xbb\xbf{}", "error at character 0|BOM"),
        (b'{"' + b"x" * 1000 + b'": 1, "' + b"x" * 1000 + b'": 1}', "twice"),
    ],
)
def test_what_is_ambiguous_or_broken_is_refused(text, words):
    with pytest.raises(FormatError, match=words) as caught:
        parse_json(text, "some.json")
    assert str(caught.value).startswith("some.json: found ")
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize("text", [b"-0", b"9" * 21, b"9" * 5000, b"9" * 1_000_000, b"-" + b"9" * 40])
def test_numbers_that_are_no_64_bit_integers_are_floats(text):
    assert type(parse_json(text, "f")) is float


def test_the_largest_integers_are_exact():
    for number in ((1 << 64) - 1, -(1 << 63), 0, -1):
        assert parse_json(str(number).encode(), "f") == number


@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'[{"a":', b"[" * 3 + b'"\\u0041",['])
def test_depth_is_refused_from_any_depth_of_calls(opening):
    def at_depth(n):
        return at_depth(n - 1) if n else parse_json(opening * 50_000, "f")

    for depth in (0, sys.getrecursionlimit() // 2):
        with pytest.raises(FormatError, match="nested"):
            at_depth(depth)


def test_shown_is_short():
    assert shown("a") == "'a'"
    assert len(shown("x" * 10_000)) == 81
