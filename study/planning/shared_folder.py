"""Whether the nodes of a cluster share the folders of a study: each leaves a file, and looks for the others'."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from defenses.registry import UserError
from defenses.storage.remote import Remote
from study.code_version import check_code


def leave_mark(places: Sequence[Path | str], mark: str, code: str) -> str:
    """Runs on a node of the cluster: leaves a file in each folder or URL. Returns what is wrong there, if anything."""
    try:
        check_code(code)
        for place in places:
            if isinstance(place, str):
                Remote(place).write_mark(mark)
            else:
                (place / mark).write_text(mark, encoding="utf-8")
    except UserError as error:
        return str(error)
    except OSError as error:
        return f"cannot write to {place} ({error.strerror}): share it with that node, or choose other --out and --store"
    return ""


def find_marks(places: Sequence[Path | str], marks: Mapping[str, str]) -> str:
    """Runs on a node of the cluster: looks for the others' files. Returns what is wrong there, or an empty string.

    Args:
        marks: file name -> the node that left it. No name was looked up before, so no cached answer can be stale.
    """
    for place in places:
        for mark, node in marks.items():
            if not _has_mark(place, mark):
                return (
                    f"does not see in {place} what node {node} wrote there: it must be one shared folder (NFS, a "
                    "mounted volume), or for --store a URL; choose other --out and --store"
                )
    return ""


def _has_mark(place: Path | str, mark: str) -> bool:
    if isinstance(place, str):
        return Remote(place).has_mark(mark)
    try:
        return (place / mark).read_text(encoding="utf-8") == mark
    except OSError:
        return False


def remove_marks(places: Sequence[Path | str], marks: Iterable[str]) -> None:
    """Removes the files of all nodes."""
    for place in places:
        for mark in marks:
            if isinstance(place, str):
                Remote(place).remove_mark(mark)
            else:
                (place / mark).unlink(missing_ok=True)
