"""Text from a command line or a YAML file as the type of the option it is given to. One rule for both."""

import types
import typing
from pathlib import Path
from typing import Annotated, Any, Literal

from defenses.text_numbers import parse_real, parse_whole
from study.cli.options import shortened
from study.cli.paths import EMPTY_PATH

LARGEST_RANGE = 1000  # whole numbers that `0-999` stands for

_WORDS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


def typed(value: Any, annotation: Any) -> Any:
    """A value as an option's type wants it, where it is text; anything else is left to the model's own check.

    Args:
        annotation: of the option's field.

    Raises:
        ValueError: the rule that the text breaks, and the text.
    """
    kinds = _kinds(annotation)
    if value is None:
        return None
    if typing.get_origin(annotation) is tuple:
        parts = value if isinstance(value, list | tuple) else (value,)
        return tuple(part for text in parts for part in _elements(text, typing.get_args(annotation)[0]))
    listed = next((kind for kind in kinds if typing.get_origin(kind) is tuple), None)
    if listed is not None:
        return _count_or_values(value, listed)
    if typing.get_origin(annotation) is dict and isinstance(value, dict):
        return {str(key): typed(part, typing.get_args(annotation)[1]) for key, part in value.items()}
    if isinstance(value, bool) and not {bool, str} & set(kinds) and {int, float} & set(kinds):
        raise ValueError(f"must be a number, got {str(value).lower()}")
    return _scalar(value, kinds) if isinstance(value, str) else value


def _count_or_values(value: Any, listed: Any) -> Any:
    """How many values there are to be, or the values themselves: a list, or text with commas between them."""
    parts = value if isinstance(value, list | tuple) else str(value).split(",")
    if len(parts) > 1:
        return tuple(typed(str(part).strip(), typing.get_args(listed)[0]) for part in parts)
    number = parse_whole(str(parts[0])) if parts and not isinstance(parts[0], bool) else None
    if number is None:
        raise ValueError(f"must be a whole number, or values such as 0.1,0.5, got {shortened(repr(value))}")
    return number


def _kinds(annotation: Any) -> tuple[Any, ...]:
    """The plain types that a value may have; a Literal stays one."""
    if typing.get_origin(annotation) is Annotated:
        return _kinds(typing.get_args(annotation)[0])
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union:
        return tuple(kind for option in typing.get_args(annotation) for kind in _kinds(option))
    return (annotation,)


def _elements(text: Any, annotation: Any) -> list[Any]:
    """One element of an option that takes several values, or all of a range of whole numbers."""
    first, dash, last = text.partition("-") if isinstance(text, str) and int in _kinds(annotation) else ("", "", "")
    low, high = parse_whole(first), parse_whole(last)
    if not dash or low is None or high is None:
        return [typed(text, annotation)]
    if not low <= high < low + LARGEST_RANGE:
        raise ValueError(
            f"a range runs upwards and holds at most {LARGEST_RANGE} numbers, such as 0-4; got {shortened(repr(text))}"
        )
    return list(range(low, high + 1))


def _scalar(text: str, kinds: tuple[Any, ...]) -> Any:
    if Path in kinds and not text.strip():  # it would stand for the working folder
        raise ValueError(f"{EMPTY_PATH}, got {text!r}")
    literals = [word for kind in kinds if typing.get_origin(kind) is Literal for word in typing.get_args(kind)]
    if text in literals or str in kinds or Path in kinds:
        return text
    if bool in kinds:
        if text.lower() not in _WORDS:
            raise ValueError(f"must be true or false, got {shortened(repr(text))}")
        return _WORDS[text.lower()]
    if int in kinds or float in kinds:
        number = parse_real(text) if float in kinds else parse_whole(text)
        if number is None:
            wanted = "a number" if float in kinds else "a whole number"
            raise ValueError(
                f"must be {wanted}{''.join(f' or {word}' for word in literals)}, got {shortened(repr(text))}"
            )
        return number
    return text
