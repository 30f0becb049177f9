"""Plain data (YAML, JSON) into nested dataclasses, with every key, type and range checked."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from ztw_rl.errors import UserError

T = TypeVar("T")

_BEFORE = "before"

# PyYAML reads 1e-3 as a string; YAML 1.2 and everybody else read a number.
_EXPONENT = re.compile(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+")


def added(default: T, *, before: T) -> T:
    """A dataclass field that came later than the files that hold its dataclass.

    Args:
        default: Of new settings.
        before: What a stored file means that was written without the field; see ``parse_stored``.
    """
    field: T = dataclasses.field(default=default, metadata={_BEFORE: before})
    return field


def parse(kind: type[T], data: object, source: object) -> T:
    """Build a dataclass from what a YAML or JSON file holds.

    Fields may be ``int``, ``float`` (whole numbers are accepted), ``bool``, ``str``, ``Literal``,
    optional, tuples of these, ``dict`` from text to these, and dataclasses. Keys that are absent
    take the field's default.

    Args:
        kind: The dataclass.
        data: A mapping, or None for an empty file.
        source: The file, for messages.

    Raises:
        UserError: A key is unknown or missing, or a value has the wrong type or is out of range;
            the message names file, key, what was found and what is expected.
    """
    parsed: T = _dataclass(kind, {} if data is None else data, _Source(f"{source}: "), "")
    return parsed


def parse_stored(kind: type[T], data: object, source: object) -> T:
    """Build a dataclass from what an earlier version may have stored; see ``parse``.

    A field that is absent because the file is older takes what it was ``before``; see ``added``.
    """
    parsed: T = _dataclass(kind, data, _Source(f"{source}: ", is_stored=True), "")
    return parsed


@dataclasses.dataclass(frozen=True)
class _Source:
    name: str
    """Begins every message."""
    is_stored: bool = False
    """Whether a program wrote it, perhaps an earlier version."""


def _dataclass(kind: Any, data: object, source: _Source, path: str) -> Any:
    if not isinstance(data, Mapping):
        raise _wrong(data, "a mapping of settings", source, path.rstrip("."))
    hints = get_type_hints(kind)
    fields = {f.name: f for f in dataclasses.fields(kind)}
    for key in data:
        if key not in fields:
            near = difflib.get_close_matches(str(key), fields, n=1, cutoff=0.0)
            hint = f"; did you mean '{path}{near[0]}'?" if near else ""
            raise UserError(f"{source.name}unknown key '{path}{key}'{hint}")
    values = {
        name: _convert(hints[name], value, source, path + name) for name, value in data.items()
    }
    for name, field in fields.items():
        absent = field.default is field.default_factory is dataclasses.MISSING
        if absent and name not in values:
            raise UserError(f"{source.name}key '{path}{name}' is missing")
        if source.is_stored and _BEFORE in field.metadata:
            values.setdefault(name, field.metadata[_BEFORE])
    try:
        return kind(**values)
    except UserError as error:
        raise UserError(f"{source.name}{path}{error}") from None


def _convert(hint: Any, value: object, source: _Source, key: str) -> Any:
    """``value`` as type ``hint``."""
    if dataclasses.is_dataclass(hint):
        return _dataclass(hint, value, source, f"{key}.")
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return _convert_union(arguments, value, source, key)
    if origin is tuple and isinstance(value, list | tuple):
        if arguments[-1] is Ellipsis:
            arguments = (arguments[0],) * len(value)
        if len(arguments) == len(value):
            return tuple(
                _convert(a, v, source, f"{key}[{i}]")
                for i, (a, v) in enumerate(zip(arguments, value, strict=True))
            )
    if origin is dict and isinstance(value, Mapping):
        for name in value:
            if not isinstance(name, str):
                raise _wrong(name, "text", source, key)
        return {
            name: _convert(arguments[1], each, source, f"{key}.{name}")
            for name, each in value.items()
        }
    if hint is float:
        if isinstance(value, str) and _EXPONENT.fullmatch(value):
            value = float(value)
        if (
            isinstance(value, int | float)
            and not isinstance(value, bool)
            # Finite, and no integer that is too large for a float.
            and abs(value) <= sys.float_info.max
        ):
            return float(value)
    elif origin is Literal:
        if any(value == a and type(value) is type(a) for a in arguments):
            return value
    elif isinstance(hint, type) and type(value) is hint:
        return value
    raise _wrong(value, _describe(hint), source, key)


def _convert_union(members: tuple[Any, ...], value: object, source: _Source, key: str) -> Any:
    if value is None and type(None) in members:
        return None
    present = [m for m in members if m is not type(None)]
    if len(present) == 1:
        return _convert(present[0], value, source, key)
    for member in present:
        try:
            return _convert(member, value, source, key)
        except UserError:
            continue
    raise _wrong(value, " or ".join(map(_describe, members)), source, key)


def _describe(hint: Any) -> str:
    """``hint`` in a user's words."""
    words = {
        bool: "true or false",
        int: "a whole number",
        float: "a number",
        str: "text",
        type(None): "null",
    }
    if hint in words:
        return words[hint]
    arguments = get_args(hint)
    if get_origin(hint) is Literal:
        return " or ".join(map(str, arguments))
    if get_origin(hint) is dict:
        return f"a mapping, each {_describe(arguments[1])}"
    if get_origin(hint) in (Union, UnionType):
        return " or ".join(map(_describe, arguments))
    if get_origin(hint) is tuple:
        if arguments[-1] is Ellipsis:
            return f"a list, each {_describe(arguments[0])}"
        return f"a list of {len(arguments)}: {', '.join(map(_describe, arguments))}"
    return "a mapping of settings"


def _wrong(value: object, expected: str, source: _Source, key: str) -> UserError:
    words = {bool: "true or false", int: "a number", float: "a number", str: "text"}
    found = "empty" if value is None else f"{value!r} ({words.get(type(value), 'a collection')})"
    where = f"{key} is" if key else "found"
    return UserError(f"{source.name}{where} {found}, expected {expected}")


LAST_SEED = 10**9
"""Episodes and resumed sessions count on from a seed, and simulators take seeds below 2^31."""


@dataclass(frozen=True)
class Range:
    """Numbers that a setting may take, as in ``n_envs: Annotated[int, Range(1)]``."""

    low: float
    high: float = inf
    """inf allows every finite number."""
    above: bool = False
    """Whether ``low`` itself is left out."""

    def __contains__(self, value: float) -> bool:
        begins = self.low < value if self.above else self.low <= value
        return begins and (value < inf if self.high == inf else value <= self.high)

    def __str__(self) -> str:
        """What a value must be, in words."""
        if self.above:
            return f"above {self.low} and finite"
        if self.high == inf:
            return f"at least {self.low}"
        return f"between {self.low} and {self.high}"


Count = Annotated[int, Range(1)]
Share = Annotated[float, Range(0, 1)]
Positive = Annotated[float, Range(0, above=True)]
AtLeastZero = Annotated[float, Range(0)]
Seed = Annotated[int, Range(0, LAST_SEED)]


class Ranged:
    """Base of dataclasses whose fields declare a ``Range``; optional fields may be None.

    Values from flags, recipes and stored files all pass here, when the dataclass is made.
    """

    def __post_init__(self) -> None:
        """Check every field that declares a range.

        Raises:
            UserError: A value is outside.
        """
        # mypy takes an instance's hash for that of its class.
        for name, allowed in _ranges(type(self)).items():  # type: ignore[arg-type]
            value = getattr(self, name)
            if value is not None:
                require(self, value in allowed, name, str(allowed))


@functools.cache
def _ranges(kind: type) -> dict[str, Range]:
    """Fields of a dataclass that declare a range."""
    hints = get_type_hints(kind, include_extras=True)
    return {
        name: found
        for name, hint in hints.items()
        for found in getattr(hint, "__metadata__", ())
        if isinstance(found, Range)
    }


def require(config: object, accepted: bool, name: str, expected: str) -> None:
    """Raise a UserError unless the value of field ``name`` is accepted."""
    if not accepted:
        raise UserError(f"{name} must be {expected}, not {getattr(config, name)}")


def require_schedule(config: object, rates: str, milestones: str) -> None:
    """A step schedule, the fields of these names, fits together; see ``require``."""
    values, until = getattr(config, rates), getattr(config, milestones)
    require(config, all(0 < r < inf for r in values), rates, "all above 0 and finite")
    rising = [0.0, *until, 1.0]
    require(config, rising == sorted(rising), milestones, "rising shares between 0 and 1")
    require(config, len(until) == len(values) - 1, milestones, f"one fewer than the {rates}")
