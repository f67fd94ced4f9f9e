"""Dataclasses that can be set: pydantic checks their values, and what is wrong is told in one line.

Types are strict (no text for a number, no truth value for a whole one), numbers are finite, keys
are known ones. `Annotated` types say what is allowed beyond that.
"""

from __future__ import annotations

import difflib
import functools
import json
import reprlib
from collections.abc import Mapping
from dataclasses import field, fields, is_dataclass
from typing import Annotated, Any, TypeVar, dataclass_transform, get_args, get_type_hints

from enhance.errors import EnhanceError, require

require("train", "pydantic")

import pydantic.dataclasses  # noqa: E402
from pydantic import AfterValidator, ConfigDict, TypeAdapter, ValidationError  # noqa: E402

# The words of which settings are written; whoever takes them from here is told of a missing extra.
from pydantic import Field as Field  # noqa: E402
from pydantic import NonNegativeFloat as NonNegativeFloat  # noqa: E402
from pydantic import NonNegativeInt as NonNegativeInt  # noqa: E402
from pydantic import PositiveFloat as PositiveFloat  # noqa: E402
from pydantic import PositiveInt as PositiveInt  # noqa: E402
from pydantic_core import PydanticCustomError  # noqa: E402

Seed = Annotated[int, Field(ge=0, lt=2**32)]
"""What every generator of random numbers takes."""

T = TypeVar("T")
_RULES = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
_EXPECTED = {
    "list_type": "expected a list, [A, B]",
    "tuple_type": "expected a list, [A, B]",
    "dict_type": "expected keys and values",
    "dataclass_type": "expected keys and values",
    "int_type": "expected int",
    "int_from_float": "expected int",
    "float_type": "expected a number",
    "string_type": "expected text",
    "bool_type": "expected true or false",
    "missing": "expected a value",
    "greater_than": "expected more than {gt:g}",
    "greater_than_equal": "expected {ge:g} or more",
    "less_than": "expected less than {lt:g}",
    "less_than_equal": "expected {le:g} or less",
    "too_short": "expected {min_length} values or more",
    "too_long": "expected {max_length} values or fewer",
}
"""Shorter than what pydantic says, by the type of its error."""


def _rising(pair: Any) -> Any:
    if not pair[0] <= pair[1]:
        raise PydanticCustomError("rising", "the first must not be larger")
    return pair


Rising = AfterValidator(_rising)
"""Of a range: its first end is not above the second."""
Share = Annotated[float, Field(ge=0, le=1)]
"""A probability or a part of a whole."""
Part = Annotated[float, Field(gt=0, lt=1)]
"""Some of a whole, neither nothing nor all."""


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def checked(cls: type[T]) -> type[T]:
    """Make a class a frozen dataclass whose values are checked.

    Its ``__post_init__`` may raise `ValueError` for values that do not fit together: a message
    that begins with a field's name. The constructor raises `EnhanceError`, for an unknown key or a
    value that is not allowed, too.
    """
    made: Any = pydantic.dataclasses.dataclass(frozen=True, config=_RULES)(cls)
    make = made.__init__

    @functools.wraps(make)
    def init(self: Any, *args: Any, **values: Any) -> None:
        try:
            make(self, *args, **values)
        except ValidationError as error:
            raise EnhanceError(_line(cls, error, cls.__name__)) from None

    made.__init__ = init
    return made  # type: ignore[no-any-return]


def read(cls: type[T], mapping: Mapping[str, Any], where: str) -> T:
    """Make a `checked` dataclass from plain data; see `enhance.config.settings.parse`."""
    if not isinstance(mapping, Mapping):
        raise EnhanceError(f"{where}: expected keys and values, found {mapping!r}")
    try:
        # By way of JSON: its lists may stand for tuples and its mappings for dataclasses.
        text = json.dumps(dict(mapping), default=str)
    except (ValueError, TypeError, RecursionError) as error:
        raise EnhanceError(f"{where}: no plain keys and values ({error})") from error
    try:
        # In a list, because pydantic lets no rules be given for a bare plain dataclass.
        return TypeAdapter(list[cls], config=_RULES).validate_json(f"[{text}]")[0]  # type: ignore[valid-type]
    except ValidationError as error:
        raise EnhanceError(_line(cls, error, where, above=1)) from None
    except EnhanceError as error:
        raise EnhanceError(f"{where}: {error}") from error


def _line(cls: type, error: ValidationError, where: str, above: int = 0) -> str:
    """The first thing that is wrong: place, dotted key, what is allowed, what is there."""
    errors = error.errors()
    # A key spelt wrong also leaves the right one absent: tell the cause.
    first = next((e for e in errors if e["type"] == "unexpected_keyword_argument"), errors[0])
    kind, place = first["type"], first["loc"][above:]
    dotted = "".join(f"[{x}]" if isinstance(x, int) else f".{x}" for x in place).lstrip(".")
    message = first["msg"].removeprefix("Value error, ").replace("Input should be", "expected")
    if kind == "unexpected_keyword_argument":
        known = _keys(cls, place[:-1])
        near = difflib.get_close_matches(str(place[-1]), known, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
        dotted = dotted.removesuffix(str(place[-1])).rstrip(".")
        message = f"unknown key {place[-1]!r}; {hint}"
    elif kind == "value_error":  # of a __post_init__, which names its field itself
        return " ".join(f"{where}: {dotted}{'.' if dotted else ''}{message}".split())
    else:
        if kind in _EXPECTED:
            message = _EXPECTED[kind].format_map(first.get("ctx", {}))
        message += f", found {reprlib.repr(first['input'])}"
    return " ".join(": ".join(part for part in (where, dotted, message) if part).split())


def _keys(kind: Any, place: tuple[int | str, ...]) -> list[str]:
    """Fields of the dataclass that stands at a place of another."""
    for step in (*place, None):
        # Lists and optional values stand for what they hold.
        kind = next(x for x in (kind, *get_args(kind)) if is_dataclass(x))
        if isinstance(step, str):
            kind = get_type_hints(kind)[step]
    return [f.name for f in fields(kind)]
