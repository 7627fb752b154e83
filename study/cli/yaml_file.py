"""YAML files from anywhere: `yaml.safe_load`, with bounds on what a small file can grow to."""

from pathlib import Path
from typing import Any

from defenses.registry import UserError

_DEPTH = 10  # of brackets


def load_plain_yaml(path: Path) -> Any:
    """What a file holds: nothing in it can run code, refer to itself, or be larger than it looks.

    Raises:
        UserError: it cannot be read, or is no plain YAML.
    """
    import yaml

    try:
        text = path.read_text(encoding="utf-8")
        _check_plain(text, path)
        return yaml.safe_load(text)
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


def _check_plain(text: str, path: Path) -> None:
    """Refuses YAML whose size or depth would use up the memory or the day; it stops at the first sign of either."""
    import yaml

    depth = 0
    for event in yaml.parse(text, yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if isinstance(event, yaml.AliasEvent):
            raise UserError(f"{path} must be plain YAML, without aliases (*name): write the value again")
        if depth > _DEPTH:
            raise UserError(f"{path} must be plain YAML, at most {_DEPTH} levels deep: an option needs two")
