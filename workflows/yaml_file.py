"""Files that people write: YAML into pydantic models, with errors that say where, what was found and what was wanted.

Only plain data is read (no tags, no objects), and a key that is there twice is refused: two readers could take it two ways.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar, cast

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from nwc_core.errors import UsageError
from nwc_core.strict_json import shown

M = TypeVar("M", bound=BaseModel)
_MERGE = "tag:yaml.org,2002:merge"  # "<<", which takes over the keys of another mapping; those may be overridden
_WANTED = {
    "missing": "this key",
    "string_type": "text (in quotes where it looks like something else)",
    "float_type": "a number",
    "int_type": "a whole number",
    "bool_type": "true or false",
    "list_type": "a list",
    "tuple_type": "a list",
    "model_type": "keys and values",
    "dict_type": "keys and values",
    "finite_number": "a finite number",
}


def read_yaml(path: str | Path, model: type[M]) -> M:
    """Read a file.

    Raises:
        UsageError: it cannot be read, is no YAML, or not what the model wants; names the file and the key.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: found bytes that are not UTF-8 at {error.start}; wanted YAML in UTF-8") from None
    return parse_yaml(text, model, str(path))


def parse_yaml(text: str, model: type[M], where: str) -> M:
    """Like `read_yaml`, for a text; `where` names it in errors."""
    try:
        value = yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f", line {mark.line + 1}" if mark else ""
        raise UsageError(f"{where}{line}: {error.problem or error.context}; wanted YAML") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UsageError(f"{where}: {' '.join(str(error).split())}; wanted YAML") from None
    if not isinstance(value, dict):
        raise UsageError(f"{where}: found {'nothing' if value is None else shown(value)}; wanted keys and values")
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise UsageError(_first_complaint(error, model, where)) from None


class _Loader(yaml.SafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if key_node.tag == _MERGE:
                continue
            key = shown(self.construct_object(key_node, deep=True))
            if key in seen:
                raise yaml.MarkedYAMLError(problem=f"found the key {key} twice", problem_mark=key_node.start_mark)
            seen.add(key)
        return cast("dict[Any, Any]", super().construct_mapping(node, deep))


def _first_complaint(error: ValidationError, model: type[BaseModel], where: str) -> str:
    first = error.errors(include_url=False)[0]
    key = key_path(first["loc"])
    return f"{where}: {key}: {_complaint(first, model)}" if key else f"{where}: {_complaint(first, model)}"


def key_path(parts: tuple[int | str, ...]) -> str:
    """models[2].bits"""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts)
    return text.removeprefix(".")


def _complaint(error: ErrorDetails, model: type[BaseModel]) -> str:
    kind, context = error["type"], error.get("ctx", {})
    found = "nothing" if kind == "missing" else shown(error["input"])
    if kind == "value_error":  # of our own validators: "found ...; wanted ..."
        return str(context["error"])
    if kind == "extra_forbidden":
        return f"found a key of this name; wanted one of {', '.join(_known_keys(model, error['loc']))}"
    if kind == "literal_error":
        return f"found {found}; wanted {context['expected']}"
    message = error["msg"].removeprefix("Input should be ")
    return f"found {found}; wanted {_WANTED.get(kind, message)}"


def _known_keys(model: type[BaseModel], parts: tuple[int | str, ...]) -> list[str]:
    """Keys of the model that lies at the path of an unknown one."""
    at: type[BaseModel] = model
    for part in parts[:-1]:
        field = at.model_fields.get(str(part)) if isinstance(part, str) else None
        inner = _model_in(field.annotation) if field else None
        at = inner or at
    return list(at.model_fields)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The model in `Model`, `Model | None`, `tuple[Model, ...]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    found = (_model_in(argument) for argument in getattr(annotation, "__args__", ()))
    return next((model for model in found if model), None)
