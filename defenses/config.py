"""Frozen, checked configurations: every number that changes a result is a field of one, declared once."""

import dataclasses
import math
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from defenses.registry import UserError, nearest
from defenses.text_numbers import parse_real, parse_whole


def param(
    default: Any,
    doc: str,
    *,
    low: float | None = None,
    high: float | None = None,
    choices: Sequence[Any] | None = None,
    symbol: str = "",
    share_or_count: bool = False,
) -> Any:
    """A field of a `Config`.

    Args:
        default: the paper's value.
        doc: meaning, unit and source.
        low, high: inclusive range; each element's, for a tuple.
        choices: the allowed values.
        symbol: the paper's letter, shown beside the name in tables.
        share_or_count: of a ``float | int``: a float is a share of at most 1, an int a count.
    """
    metadata = {
        "doc": doc,
        "low": low,
        "high": high,
        "choices": choices,
        "symbol": symbol,
        "share_or_count": share_or_count,
    }
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Config:
    """A configuration. Subclasses declare fields with `param`; types and ranges are checked on construction."""

    def __post_init__(self) -> None:
        hints = typing.get_type_hints(type(self))
        for declared in dataclasses.fields(self):
            value = _checked_type(declared.name, getattr(self, declared.name), hints[declared.name])
            object.__setattr__(self, declared.name, value)
            for element in value if isinstance(value, tuple) else (value,):
                _check_range(declared.name, element, declared.metadata)

    def check_read_epoch(self, read: str, epochs: str, there: int | None = None) -> None:
        """Refuses to read a training after its last epoch.

        Args:
            read, epochs: names of fields: after which epoch it is read, None for the end; and how many it has.
            there: how many it has, where `epochs` are words for what several fields make.

        Raises:
            UserError: the first is larger than the second.
        """
        wanted, last = getattr(self, read), getattr(self, epochs) if there is None else there
        if wanted is not None and wanted > last:
            raise UserError(
                f"{read} must be at most {epochs} = {last}, got {wanted}: read it earlier, or train longer",
                about=f"field {read}",
            )

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Self:
        """A config with some fields set.

        Raises:
            UserError: an unknown field, with the nearest name; or a value of another type, or out of its range.
        """
        known = [f.name for f in dataclasses.fields(cls)]
        for name in values:
            if name not in known:
                raise UserError(
                    f"{cls.__name__} has no field {name!r}: {nearest(name, known)}(fields: {', '.join(known)})"
                )
        return cls(**values)

    @classmethod
    def from_text(cls, values: Mapping[str, str], preset: Mapping[str, Any] = types.MappingProxyType({})) -> Self:
        """As `from_mapping`, from what a user typed: each value is read as its field's type.

        Args:
            preset: the other fields that are set, beside which what is typed must make sense.
        """
        hints = typing.get_type_hints(cls)
        typed = {name: _parse(value, hints.get(name)) for name, value in values.items()}
        return cls.from_mapping({**preset, **typed})

    @classmethod
    def symbol(cls, name: str) -> str:
        """A field's name with the paper's letter before it, for tables."""
        symbols = {f.name: f.metadata.get("symbol", "") for f in dataclasses.fields(cls)}
        return f"{symbols[name]} {name}" if symbols.get(name) else name


def _parse(text: str, expected: Any) -> Any:
    """Text as a field's type where it can be; anything else stays text, for the check of types to refuse."""
    if expected is str:
        return text
    if isinstance(expected, types.UnionType):
        return _parse_union(text, typing.get_args(expected))
    if typing.get_origin(expected) is tuple:
        return tuple(
            _parse(part.strip(), typing.get_args(expected)[0]) for part in text.strip("()[] ").split(",") if part
        )
    words: dict[str, Any] = {"true": True, "false": False, "none": None, "nan": math.nan, "inf": math.inf}
    if text.lower() in words:
        return words[text.lower()]
    whole = parse_whole(text)
    number = parse_real(text) if whole is None else whole
    return text if number is None else number


def _parse_union(text: str, options: Sequence[Any]) -> Any:
    # None first: `none` is also a text, which is what an option of str would take it for.
    for option in sorted(options, key=lambda option: option is not type(None)):
        value = _parse(text, option)
        try:
            _checked_type("", value, option)
        except UserError:
            continue
        return value
    return text


def _checked_type(name: str, value: Any, expected: Any) -> Any:
    if isinstance(expected, types.UnionType):
        # A value's own type first: an int may pass for a float, but where both are wanted it is a count and no share.
        for option in sorted(typing.get_args(expected), key=lambda option: option is not type(value)):
            try:
                return _checked_type(name, value, option)
            except UserError:
                continue
    elif typing.get_origin(expected) is tuple and isinstance(value, list | tuple):
        return tuple(_checked_type(name, v, typing.get_args(expected)[0]) for v in value)
    elif expected is type(None) and value is None:
        return None
    elif expected is float and isinstance(value, int | float) and not isinstance(value, bool):
        return _to_float(name, value)
    elif isinstance(expected, type) and type(value) is expected:
        return value
    wanted = expected.__name__ if isinstance(expected, type) else str(expected)
    raise UserError(f"{name} must be of type {wanted}, got {value!r}: give it such a value", about=f"field {name}")


def _to_float(name: str, value: float) -> float:
    try:
        return float(value)
    except OverflowError as error:
        raise UserError(f"{name} must be at most 1.8e308, got a larger whole number: choose a smaller one") from error


def _check_range(name: str, value: Any, metadata: Mapping[str, Any]) -> None:
    if value is None:
        return
    choices, low, high = metadata.get("choices"), metadata.get("low"), metadata.get("high")
    if choices is not None and value not in choices:
        hint = nearest(str(value), [str(c) for c in choices])
        raise UserError(f"{name} must be one of {', '.join(map(str, choices))}, got {value!r}. {hint}".strip())
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{name} must be finite, got {value}")
    if (low is not None and value < low) or (high is not None and value > high):
        bounds = f"[{'-inf' if low is None else low}, {'inf' if high is None else high}]"
        raise UserError(f"{name} must lie in {bounds}, got {value!r}: choose a value in the range")
    if metadata.get("share_or_count") and isinstance(value, float) and value > 1:
        raise UserError(f"{name} must be a share of at most 1, or a count without a decimal point, got {value!r}")
