"""What `backdoor-study` may go on with, for the shell that asks (argcomplete). Loads nothing that takes long."""

import argparse
import importlib
import os
from collections.abc import Callable, Iterable, Mapping

from defenses.registry import UserError
from search_spaces import SEARCH_SPACES
from study.cli.options import Once, Parser
from study.ledger.study_folder import LATEST, parse_out, studies

ASKED = "_ARGCOMPLETE"
"""The variable by which the shell's function says that it wants an answer and no command to be run."""
_NOTHING = 1  # exit code where there is no answer
_FREE = ("N", "X", "URI")  # metavars of what nobody can complete

Completer = Callable[..., Iterable[str]]


def answer(commands: Mapping[str, tuple[str, str]]) -> int:
    """Answers the shell, which ends this process. Gives an exit code where there is no answer.

    Args:
        commands: name -> the module whose `main` it is, and what it does.
    """
    try:
        import argcomplete
        from argcomplete.lexers import split_line
    except ImportError:  # the shell has it from elsewhere
        return _NOTHING
    start = int(os.environ[ASKED])
    words = split_line(os.environ["COMP_LINE"], int(os.environ["COMP_POINT"]))[3]
    if len(words) <= start:
        parser = Parser(prog="backdoor-study")
        parser.add_argument("command", choices=list(commands))
        argcomplete.autocomplete(parser, always_complete_options=False)
    elif words[start] in commands:
        os.environ[ASKED] = str(start + 1)  # the words of the command itself begin there
        Parser.before_parsing = _complete
        importlib.import_module(commands[words[start]][0]).main(None)
    return _NOTHING


def _complete(parser: argparse.ArgumentParser) -> None:
    """Says what the options and values of a command are, and ends the process."""
    import argcomplete
    from argcomplete.finders import safe_actions

    safe_actions.add(Once)  # it does nothing but store a value, and --out decides which studies there are
    for action in parser._actions:
        action.completer = _completer(action)  # type: ignore[attr-defined]
    argcomplete.autocomplete(parser, always_complete_options=False)


def _completer(action: argparse.Action) -> Completer:
    from argcomplete.completers import DirectoriesCompleter, FilesCompleter

    metavar = action.metavar if isinstance(action.metavar, str) else ""
    completer: Completer = DirectoriesCompleter() if metavar.startswith("PATH") else FilesCompleter()
    if "|" in metavar:
        known = [_known_part(choice) for choice in metavar.split("|")]
        completer = completer if "PATH" in known else _one_of([part for part in known if not part.isupper()])
    elif metavar in _FREE:
        completer = _one_of([])
    return _COMPLETERS.get(action.dest, completer)


def _one_of(choices: list[str]) -> Completer:
    return lambda **_: choices


def _known_part(choice: str) -> str:
    """Of ``npz:FILE`` what is the same for everybody, ``npz:``."""
    kind, separator, _ = choice.partition(":")
    return kind + separator


def _studies(parsed_args: argparse.Namespace, **_: object) -> list[str]:
    try:
        return [*(folder.name for folder in studies(parse_out(parsed_args))), LATEST]
    except UserError:
        return []


def _spaces(**_: object) -> Iterable[str]:
    return list(SEARCH_SPACES)


def _defenses(**_: object) -> Iterable[str]:
    from defenses import DEFENSES
    from study.scenarios.oracle_defenses import ORACLE_DEFENSES

    return [*DEFENSES, *ORACLE_DEFENSES]


def _attacks(**_: object) -> Iterable[str]:
    from study.attacks import ATTACKS
    from study.attacks.groups import GROUPS

    return [*ATTACKS, *GROUPS]


def _one_attack(**_: object) -> Iterable[str]:
    from study.attacks import ATTACKS

    return list(ATTACKS)  # a mapping would be asked for the attacks themselves


def _metrics(**_: object) -> Iterable[str]:
    from study.config.objectives import MAXIMISED, MINIMISED

    return [*MAXIMISED, *MINIMISED]


def _searched(parsed_args: argparse.Namespace, **_: object) -> Iterable[str]:
    """The fields that a space searches, each to be fixed."""
    named = getattr(parsed_args, "space", None) or getattr(parsed_args, "defense", None) or "pipd"
    space = named[0] if isinstance(named, list) else named  # a command that takes several
    return [f"{name}=" for name in SEARCH_SPACES[space].ranges] if space in SEARCH_SPACES else []


def _files(**options: object) -> Iterable[str]:
    from argcomplete.completers import FilesCompleter

    return list(FilesCompleter([".yaml", ".yml"])(str(options.get("prefix", ""))))


_COMPLETERS: dict[str, Completer] = {
    "name": _studies,
    "names": _studies,
    "a": _studies,
    "b": _studies,
    "space": _spaces,
    "list": _spaces,
    "defense": _defenses,
    "attacks": _attacks,
    "attack": _one_attack,
    "objective": _metrics,
    "metric": _metrics,
    "set": _searched,
    "config": _files,
    "from_study": _studies,
}
"""Where an option's value, or an argument, has names of ours -> what they are."""
