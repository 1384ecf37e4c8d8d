"""JSON from files that nobody vouches for: well-formed and unambiguous, or a FormatError.

Stricter than the standard library where two readers could understand two different things: a key that appears twice
in one object, NaN and Infinity, and strings that are not Unicode text are refused. Nesting that would exhaust the
interpreter's stack is refused too, and a number with a million digits costs no time.
"""

from __future__ import annotations

import json
from typing import Any, NoReturn

from nwc_core.errors import FormatError

SHOWN = 80  # characters of a hostile value that an error repeats: a message must stay readable


def shown(value: object) -> str:
    """The repr of a value found in a file, cut to a length that fits an error message."""
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


def parse_json(data: bytes, where: str) -> Any:
    """The value of a JSON text in UTF-8.

    Whole numbers that no 64-bit integer holds, and -0, come back as float, so that a check for int refuses them.

    Raises:
        FormatError: anything else than one well-formed, unambiguous JSON value; it names `where`.
    """
    wanted = "well-formed JSON in UTF-8"

    def pairs_to_dict(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        value = dict(pairs)
        if len(value) != len(pairs):
            seen: set[str] = set()
            twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
            raise FormatError(where, f"the key {shown(twice)} twice in one object", "every key once")
        return value

    def refuse_constant(name: str) -> NoReturn:
        raise FormatError(where, name, "numbers that JSON knows")

    try:
        text = data.decode("utf-8")
        value = json.loads(
            text, object_pairs_hook=pairs_to_dict, parse_int=_whole_number, parse_constant=refuse_constant
        )
        if "\\u" in text:  # an escape may spell half of a surrogate pair, which no file name or UTF-8 text can hold
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except FormatError:
        raise
    except UnicodeDecodeError as error:
        raise FormatError(where, f"bytes that are not UTF-8 at {error.start}", wanted) from None
    except UnicodeEncodeError:
        raise FormatError(where, "half of a surrogate pair in a string", "Unicode text") from None
    except RecursionError:
        raise FormatError(where, "JSON nested beyond any use", "a few levels of nesting") from None
    except json.JSONDecodeError as error:
        raise FormatError(where, f"an error at character {error.pos} ({error.msg})", wanted) from None
    return value


def _whole_number(digits: str) -> int | float:
    # 2**64 has 20 digits. int() of a long text is quadratic, and beyond 4,300 digits an error of its own.
    return int(digits) if len(digits) <= 20 and digits != "-0" else float(digits)
