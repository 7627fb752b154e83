"""YAML files from anywhere: `yaml.safe_load`, with bounds on what a small file can grow to."""

from pathlib import Path
from typing import Any

from defenses.registry import UserError

_DEPTH = 10  # of brackets
_NOTHING = ("", "~", "null")  # without quotes


def load_plain_yaml(path: Path) -> Any:
    """What a file holds, values as text or None: nothing in it runs code, refers to itself, or is larger than it looks.

    Raises:
        UserError: it cannot be read, or is no plain YAML.
    """
    import yaml

    try:
        text = path.read_text(encoding="utf-8")
        _check_plain(text, path)
        return _plain(yaml.compose(text, yaml.BaseLoader), path)
    except OSError as error:
        raise UserError(f"--config must name a readable YAML file, got {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} must be UTF-8 text, but byte {error.start} is not: save it as UTF-8") from error
    except yaml.YAMLError as error:
        raise UserError(f"{path} must be plain YAML: {' '.join(str(error).split())}") from error
    except UserError:
        raise
    except (ValueError, RecursionError) as error:  # such as a date that does not exist, or brackets without end
        raise UserError(f"{path} must be plain YAML: {error}") from error


def _plain(node: Any, path: Path) -> Any:
    """Text, lists and dictionaries of a node; what type a text has is for the option to say that it is given to.

    YAML's own rules would read ``1:30`` as ninety, ``010`` as eight, ``no`` as a truth value and ``1e-1`` as text.
    """
    import yaml

    if isinstance(node, yaml.SequenceNode):
        return [_plain(element, path) for element in node.value]
    if isinstance(node, yaml.MappingNode):
        content: dict[str, Any] = {}
        for key, value in node.value:
            name = _plain(key, path)
            if not isinstance(name, str):
                raise UserError(f"{path} must have plain words before a colon, got {name!r}")
            if name in content:
                raise UserError(f"{path} names {name!r} more than once: keep one of the two")
            content[name] = _plain(value, path)
        return content
    nothing = node is None or (node.style is None and node.value.lower() in _NOTHING)
    return None if nothing else node.value


def _check_plain(text: str, path: Path) -> None:
    """Refuses YAML whose size or depth would use up the memory or the day; it stops at the first sign of either."""
    import yaml

    depth = 0
    for event in yaml.parse(text, yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        tag = getattr(event, "tag", None)
        if tag is not None:
            raise UserError(f"{path} must be plain YAML, without tags, got {tag}: write the value alone")
        if isinstance(event, yaml.AliasEvent):
            raise UserError(f"{path} must be plain YAML, without aliases (*name): write the value again")
        if depth > _DEPTH:
            raise UserError(f"{path} must be plain YAML, at most {_DEPTH} levels deep: an option needs two")
