"""Packs what a leased machine needs into files that each travel in one call: the code, and the data in parts.

    python tests/benchmarks/gpu_bundle.py bundle --data ../shared/data/cifar10

It writes ``bundle/code.tar.xz`` (what git tracks and a session runs; no package is needed beside it) and
``bundle/data-1.tar`` and so on (files of the folder as they are, such as sheets of images, and whatever lies beside the
folder and unpacks them), and says how large they are. On the machine: unpack them into one folder, and run
``tests/benchmarks/gpu_session.py`` there.
"""

import argparse
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CODE = ("defenses", "search_spaces", "study", "tracking", "tests", "pyproject.toml")
LEFT_OUT = ("tests/golden", "tests/study", "tests/faults", "tests/surroundings", "tests/tracking")
"""Large, or for packages that a leased machine lacks."""
LIMIT = 60_000_000
"""Bytes of a part."""


def pack_code(target: Path) -> Path:
    """What git tracks of the packages and of the tests that a session runs."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", *CODE],
        cwd=ROOT,
        capture_output=True,
        check=True,
        text=True,
    )
    names = [name for name in listed.stdout.split("\0") if name and not name.startswith(LEFT_OUT)]
    with tarfile.open(target, "w:xz") as archive:
        for name in sorted(names):
            if (ROOT / name).is_file():
                archive.add(ROOT / name, name)
    return target


def parts_of(files: list[Path], limit: int) -> Iterator[list[Path]]:
    """The files in order, in groups that stay below a limit with what an archive adds to each.

    Raises:
        SystemExit: a file is larger than that.
    """
    group, size = list[Path](), 0
    for file in files:
        more = file.stat().st_size + 2048
        if more > limit:
            sys.exit(f"a part holds at most {limit} bytes, and {file} has {more}: split it")
        if group and size + more > limit:
            yield group
            group, size = [], 0
        group.append(file)
        size += more
    if group:
        yield group


def pack_data(folder: Path, target: Path, limit: int) -> list[Path]:
    """The files of a folder and the scripts beside it."""
    files = sorted(path for path in folder.iterdir() if path.is_file())
    made = []
    for number, group in enumerate(parts_of([*sorted(folder.parent.glob("*.py")), *files], limit - 20_480), 1):
        made.append(target / f"data-{number}.tar")
        with tarfile.open(made[-1], "w") as archive:
            for file in group:
                archive.add(file, Path("data", file.relative_to(folder.parent)))
    return made


def main(arguments: list[str] | None = None) -> None:
    """Writes the parts and says how large each is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", type=Path, help="folder of the parts; made where it is missing")
    parser.add_argument("--data", type=Path, help="folder of a dataset's files")
    parser.add_argument("--limit", type=int, default=LIMIT, help="bytes of a part [%(default)s]")
    options = parser.parse_args(arguments)
    options.target.mkdir(parents=True, exist_ok=True)
    made = [pack_code(options.target / "code.tar.xz")]
    if options.data is not None:
        made += pack_data(options.data.resolve(), options.target, options.limit)
    for part in made:
        size = part.stat().st_size
        sys.stdout.write(f"{part}: {size / 1e6:.1f} MB\n")
        if size > options.limit:
            sys.exit(f"{part} must have at most {options.limit} bytes, and has {size}")


if __name__ == "__main__":
    main()
