"""A folder for PYTHONPATH with which no process knows this project as an installed package."""

from pathlib import Path

_REFUSING = """
import importlib.metadata as metadata

_known = metadata.Distribution.from_name.__func__


def _from_name(kind, name):
    if name.replace("_", "-").lower() == "backdoor-defense-study":
        raise metadata.PackageNotFoundError(name)
    return _known(kind, name)


metadata.Distribution.from_name = classmethod(_from_name)
"""


def hide_package(folder: Path) -> Path:
    """Writes what Python imports when it starts, and returns the folder that it is in."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sitecustomize.py").write_text(_REFUSING)
    return folder
