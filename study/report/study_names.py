"""What studies are called on one page, where several may have one name."""

from collections.abc import Sequence
from pathlib import Path


def distinct_names(folders: Sequence[Path]) -> list[str]:
    """The names of studies by their folders, with as many folders before them as tell those of one name apart."""
    whole = [folder.resolve() for folder in folders]
    longest = max((len(folder.parts) for folder in whole), default=1)
    cut = ([str(Path(*folder.parts[-length:])) for folder in whole] for length in range(1, longest))
    return next((names for names in cut if len(set(names)) == len(set(whole))), list(map(str, whole)))
