"""A mapping from names to classes that are imported only when they are asked for.

The command line lists and checks names before anything heavy is loaded; torch alone takes over a second.
"""

import difflib
import importlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Generic, TypeVar

T = TypeVar("T")


class UserError(ValueError):
    """The user's input breaks a rule. The message says the rule, the value and the way out; exit code 2.

    Args:
        message: in the library's own words, which name no option of a command.
        about: what the rule is about (``width``, ``store``, ``field beta``), so that a command can name its option.
    """

    def __init__(self, message: str, about: str = "") -> None:
        super().__init__(message)
        self.about = about


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint such as ``did you mean 'badnets'? `` with a trailing space, or an empty string."""
    matches = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"did you mean {matches[0]!r}? " if matches else ""


class Registry(Mapping[str, T], Generic[T]):
    """Names, each with one line of description and the place of its object.

    Args:
        kind: what an entry is, for error messages (``"attack"``).
        entries: name -> (``"package.module:Attribute"``, one line of description).
    """

    def __init__(self, kind: str, entries: Mapping[str, tuple[str, str]]) -> None:
        self.kind = kind
        self._entries = dict(entries)

    def __getitem__(self, name: str) -> T:
        if name not in self._entries:
            raise KeyError(name)
        module, _, attribute = self._entries[name][0].partition(":")
        entry: T = getattr(importlib.import_module(module), attribute)
        return entry

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def describe(self, name: str) -> str:
        """One line on what an entry is."""
        return self._entries[name][1]

    def check(self, name: str) -> str:
        """Returns the name.

        Raises:
            UserError: there is no such entry; the message has the nearest known name and all of them.
        """
        if name not in self._entries:
            raise UserError(f"unknown {self.kind} {name!r}: {nearest(name, self)}(known: {', '.join(sorted(self))})")
        return name

    def find(self, name: str) -> T:
        """The object of that name; `UserError` when there is none."""
        return self[self.check(name)]
