"""The tables that are written, and the one that a person edits: whatever it holds, it is refused in one line."""

import csv
import random
from pathlib import Path

import numpy as np
import pytest
from cleaning_parts import CLASSES, POISON, ids, votes, written

from defenses.registry import UserError
from study.cleaning.tables import DECISIONS_CSV, FLAGGED_CSV, SCORES_PARQUET, read_decisions, write_tables


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    ballot = votes(POISON, POISON[:20], POISON)
    write_tables(tmp_path, ids(), CLASSES, ballot, drop=True)
    flagged = rows_of(tmp_path / FLAGGED_CSV)
    assert {row["id"] for row in flagged} == {ids()[row] for row in POISON}
    assert {row["class"] for row in flagged} == {"stop"}
    assert [int(row["rank"]) for row in flagged] == list(range(1, 31))
    assert {int(row["pipd_seed1"]) for row in flagged[:20]} == {1}
    assert {int(row["pipd_seed1"]) for row in flagged[20:]} == {0}
    kept = read_decisions(tmp_path / DECISIONS_CSV, ids())
    np.testing.assert_array_equal(kept, ~ballot.flagged)
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(tmp_path / SCORES_PARQUET)
    assert table["id"].to_pylist() == list(ids())
    np.testing.assert_array_equal(np.asarray(table["flagged"]), ballot.flagged)
    np.testing.assert_allclose(np.asarray(table["score"]), ballot.scores)


def test_where_nothing_was_found_all_are_proposed_to_be_kept(tmp_path: Path) -> None:
    write_tables(tmp_path, ids(), CLASSES, votes(POISON), drop=False)
    assert read_decisions(tmp_path / DECISIONS_CSV, ids()).all()
    assert len(rows_of(tmp_path / DECISIONS_CSV)) == 30 + 20  # the flagged, and those next to the cut


@pytest.mark.parametrize(
    "name", ["a,b.png", 'quote".png', "new\nline.png", "ünï çödé.png", "=1+1.png", " lead.png", "x;y.png"]
)
def test_any_name_survives(name: str, tmp_path: Path) -> None:
    names = (name, *ids()[1:])
    write_tables(tmp_path, names, CLASSES, votes(np.arange(10)), drop=True)
    assert not read_decisions(tmp_path / DECISIONS_CSV, names)[:10].any()


def test_an_edited_table(tmp_path: Path) -> None:
    text = "\ufeffdecision;note;id\r\nDrop;look at it;go/000.png\r\n;;\r\n keep ;;go/001.png\r\n"
    kept = read_decisions(written(tmp_path, text), ids())
    assert np.flatnonzero(~kept).tolist() == [0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "id,decision\ngo/00.png,keep\n",
            "line 2: an id must be one of the data's, got 'go/00.png': did you mean 'go/0",
        ),
        (
            "id,decision\ngo/000.png,perhaps\n",
            "line 2: a decision must be keep or drop, got 'perhaps': write one of the",
        ),
        ("id,decision\ngo/000.png,\n", "line 2: a decision must be keep or drop, got ''"),
        (
            "id,decision\ngo/000.png,keep\ngo/000.png,drop\n",
            "line 3: an id stands once, got 'go/000.png' again: remove",
        ),
        ("id,decision\ngo/000.png\n", "line 2: a row must have an id and a decision, got 1 cells: complete it"),
        ("id\ngo/000.png\n", "must have one column 'decision', and has none: begin from the decisions.csv"),
        ("id,id,decision\na,b,keep\n", "must have one column 'id', and has 2"),
        ("", "must have one column 'id', and has none"),
        ('id,decision\n"go/000.png,keep\n', "must be a table of comma-separated values, and is none"),
    ],
)
def test_what_is_refused(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        read_decisions(written(tmp_path, text), ids())
    assert message in str(error.value)
    assert "\n" not in str(error.value).replace("\\n", "")


def test_bytes_that_are_no_text_and_files_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "decisions.csv"
    path.write_bytes(b"id,decision\n\xff\xfe,keep\n")
    with pytest.raises(UserError, match="must be a table in UTF-8, and byte 12 is none"):
        read_decisions(path, ids())
    with pytest.raises(UserError, match=r"--apply must name an edited decisions\.csv"):
        read_decisions(tmp_path / "none.csv", ids())
    with pytest.raises(UserError, match="Is a directory"):
        read_decisions(tmp_path, ids())


def test_a_set_of_nothing_is_refused(tmp_path: Path) -> None:
    text = "id,decision\n" + "".join(f"{name},drop\n" for name in ids())
    with pytest.raises(UserError, match="some images must be kept, and it drops all 400"):
        read_decisions(written(tmp_path, text), ids())


def answer_of(path: Path) -> str:
    """Why a table is refused; empty where it is read."""
    try:
        kept = read_decisions(path, ids())
    except UserError as error:
        return str(error)
    assert kept.shape == (400,)
    return ""


def test_damaged_tables_are_read_or_refused(tmp_path: Path) -> None:
    """Bytes changed, removed and added anywhere: never anything but an answer or one line."""
    write_tables(tmp_path, ids(), CLASSES, votes(POISON), drop=True)
    whole, path, rng = (tmp_path / DECISIONS_CSV).read_bytes(), tmp_path / "damaged.csv", random.Random(0)
    refused = 0
    for _ in range(300):
        content = bytearray(whole)
        for _ in range(rng.randint(1, 8)):
            at = rng.randrange(len(content) or 1)
            how = rng.randrange(4)
            if how == 0 and content:
                content[at] = rng.randrange(256)
            elif how == 1:
                del content[at : at + rng.randint(1, 40)]
            elif how == 2:
                content[at:at] = rng.choice([b'"', b"\n", b"\r", b"\0", b",", b";", b"\xff", b"drop", b"\xe2\x80\xa8"])
            else:
                content = content[: max(1, at)]
        path.write_bytes(bytes(content))
        message = answer_of(path)
        refused += bool(message)
        assert "\n" not in message
    assert refused > 50
