"""The options of a command, made from the fields of a checked model; and what a wrong one is answered."""

import argparse
import re
import textwrap
import types
import typing
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from defenses.registry import UserError, nearest

_SHOWN = 200  # characters of a wrong value


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """The first problem of a validation as one line: the option, the rule, the value."""
    first = error.errors()[0]
    option = option_name(str(first["loc"][0])) if first["loc"] else model.__name__
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] in ("value_error",):
        return f"{option}: {message}"
    hint = ""
    if first["type"] == "literal_error":
        options = re.findall(r"'([^']+)'", str(first["ctx"]["expected"]))
        hint = nearest(str(first["input"]), options)
    return f"{option}: {message}, got {shortened(repr(first['input']))}. {hint}".strip()


def shortened(text: str) -> str:
    """A wrong value, as much of it as a line holds."""
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def is_tuple(annotation: Any) -> bool:
    """Whether a field takes several values."""
    return typing.get_origin(annotation) is tuple


def _is_dict(annotation: Any) -> bool:
    return typing.get_origin(annotation) is dict


def _plain_type(annotation: Any) -> Any:
    """The type of one value: without None, without a tuple around it, without annotations."""
    if typing.get_origin(annotation) is Annotated:
        return _plain_type(typing.get_args(annotation)[0])
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union:
        return _plain_type(next(arg for arg in typing.get_args(annotation) if arg is not type(None)))
    if is_tuple(annotation):
        return _plain_type(typing.get_args(annotation)[0])
    return annotation


def _default_text(default: Any) -> str:
    """What an option that is left out means in the smoke preset, whose values the defaults are."""
    if default is None or default is False or default is PydanticUndefined or default in ({}, ()):
        return ""
    return f" [{','.join(map(str, default)) if isinstance(default, tuple) else default}]"


_LONG_USAGE = 8  # options
_COUNTED = "verbose"  # given once for each step
_METAVARS = {int: "N", float: "X", Path: "PATH"}
_CHOICES = {
    "dataset": "digits|cifar10|cifar100|npz:FILE|folder:DIR|own:PATH",
    "model": "resnet18|preact_resnet18",
    "target_label": "N|NAME",
    "gpus_per_trial": "X|auto",
    "address": "auto|HOST:PORT",
    "store": "PATH|URL",
    "objective": "METRIC[,METRIC]",
}
"""Fields whose type does not say what may stand there -> what may."""


def add_options(
    parser: argparse.ArgumentParser,
    model: type[BaseModel],
    groups: Mapping[str, tuple[str, ...]] | None = None,
    only: Collection[str] | None = None,
) -> None:
    """An option for each field of a model. Nothing has a default here: what is absent comes from the preset.

    Args:
        groups: heading -> fields, in the order of ``--help``; without, all stand in the model's order.
        only: the fields that the command acts on; all by default.
    """
    fields = model.model_fields
    for heading, names in (groups or {"options": tuple(fields)}).items():
        shown = [name for name in names if name in fields and (only is None or name in only)]
        if shown:
            group = parser.add_argument_group(heading)
            for name in shown:
                _add_option(group, name, fields[name])


_SPELLED = {"from_study": "from", "copy_files": "copy"}
"""Fields whose option has a word that no field can have -> the word."""


def option_name(field: str) -> str:
    """How the option of a field is written."""
    return "--" + _SPELLED.get(field, field).replace("_", "-")


def _add_option(group: argparse._ArgumentGroup, name: str, declared: FieldInfo) -> None:
    option = option_name(name)
    kind = _plain_type(declared.annotation)
    text = (declared.description or "").replace("%", "%%") + _default_text(declared.default)
    if _is_dict(declared.annotation):
        metavar = f"FIELD={'VALUE' if name == 'set' else 'N|V,V'}"
        group.add_argument(option, dest=name, nargs="+", action="extend", metavar=metavar, help=text)
    elif name == _COUNTED:
        group.add_argument("-" + name[0], option, action="count", help=declared.description)
    elif kind is bool:
        group.add_argument(option, dest=name, action="store_true", default=None, help=text)
    elif typing.get_origin(kind) is Literal:
        group.add_argument(option, dest=name, metavar="|".join(typing.get_args(kind)), help=text)
    else:
        several = is_tuple(declared.annotation)
        one = name.split("_")[-1].upper()
        metavar = _CHOICES.get(name) or _METAVARS.get(kind, one.removesuffix("S") if several else one)
        group.add_argument(option, dest=name, nargs="+" if several else None, metavar=metavar, help=text)


def given_options(namespace: argparse.Namespace, model: type[BaseModel]) -> dict[str, Any]:
    """The options that were given, by field. Lists may be separated by spaces or commas."""
    given: dict[str, Any] = {}
    for name, declared in model.model_fields.items():
        value = getattr(namespace, name, None)
        if value is None:
            continue
        if _is_dict(declared.annotation):
            value = _assignments(value, name)
        elif is_tuple(declared.annotation):
            value = [part.strip() for text in value for part in text.split(",") if part.strip()]
        given[name] = value
    return given


def _assignments(texts: list[str], option: str) -> dict[str, str]:
    given: dict[str, str] = {}
    for text in texts:
        field, value = _assignment(text, option)
        if field in given:
            raise UserError(f"--{option} names {field!r} more than once: keep one of the two")
        given[field] = value
    return given


def _assignment(text: str, option: str) -> tuple[str, str]:
    field, separator, value = text.partition("=")
    if not separator or not field:
        raise UserError(f"--{option} takes FIELD=VALUE, such as rounds=5, got {text!r}")
    return field.strip(), value.strip()


class Once(argparse.Action):
    """Stores what an option is given; argparse would drop the first of two without a word."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option_string: Any = None
    ) -> None:
        """Called by argparse where the option stands."""
        if getattr(namespace, self.dest) is not None:
            values_behind = ", with all its values" if self.nargs else ""
            raise argparse.ArgumentError(self, f"it was given more than once: give it once{values_behind}")
        setattr(namespace, self.dest, values)


class _Help(argparse.HelpFormatter):
    """Begins a line anew after a line that ends with a sentence, and fills all others to the terminal's width."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        parts = re.split(r"(?<=\.)\n", text.strip())
        return "\n".join(
            textwrap.fill(" ".join(part.split()), width, initial_indent=indent, subsequent_indent=indent)
            for part in parts
        )


class Parser(argparse.ArgumentParser):
    """An argument parser whose complaints are one line with the nearest option, and that takes each option once.

    Attributes:
        before_parsing: called with the parser before it reads the words of the command line, where a shell asks what
            they may go on with.
    """

    before_parsing: ClassVar[Callable[[argparse.ArgumentParser], None] | None] = None

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse has it."""
        hook = Parser.before_parsing
        if hook is not None:
            hook(self)
        return super().parse_args(args, namespace)

    def __init__(self, **options: Any) -> None:
        super().__init__(formatter_class=_Help, **options)
        self.register("action", None, Once)  # None is what add_argument looks up when it is given no action

    def format_help(self) -> str:
        """The help, whose usage names no option where there are so many that nobody reads them in one line."""
        if len(self._actions) > _LONG_USAGE:
            self.usage = "%(prog)s [options]"
        return super().format_help()

    def error(self, message: str) -> typing.NoReturn:
        """Refuses what was typed, in one line and not with the whole usage.

        Raises:
            UserError: always.
        """
        unknown = re.search(r"unrecognized arguments: (--[\w-]+)", message)
        if unknown:
            known = [option for action in self._actions for option in action.option_strings]
            raise UserError(f"unknown option {unknown.group(1)}: {nearest(unknown.group(1), known)}see --help")
        stray = re.search(r"unrecognized arguments: (.*)", message)
        if stray:
            raise UserError(f"every value stands behind its option, got {stray.group(1)!r} alone: see --help")
        raise UserError(message)
