"""What a store holds, in lines: by stage, by study and by age, and what removing some of it would cost whom."""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from defenses.storage.inventory import Held, Kind
from study.cli.numbers import several
from study.cli.sizes import format_size
from study.cli.terminal import duration, table, wrap
from study.ledger.store_cost import build_seconds
from study.ledger.store_removal import Wish
from study.ledger.store_studies import StudyUse
from study.ledger.store_use import StoreUse
from study.ledger.study_folder import out_words

_AGES = ((86400.0, "a day"), (7 * 86400.0, "a week"), (30 * 86400.0, "30 days"))
_SHOWN = 12  # stages that a list names
NOBODY = "no study"

_WORDS = (
    "Alone: what no other study uses. To build again: what all of it took to build; what was read of one training "
    "counts once. What was computed on the data of a study that has not ended, or of a clean control, may be asked "
    "for: it is not unused."
)


def describe(root: Path, use: StoreUse, out: Path, now: float) -> str:
    """All of it."""
    unused = [one for one in use.held if use.unused(one)]
    size = sum(one.bytes for one in use.held)
    command = " ".join(["python -m study.store", *out_words(out), *_store_words(root, out)])
    lines = [f"{root}: {format_size(size)} in {_parts(use.held)}; no study uses {len(unused)} of them, {_size(unused)}"]
    parts = ["\n".join(lines)]
    if use.held:
        parts += [_stages(use), _studies(use), _ages(use.held, now), wrap(_WORDS)]
    parts += [
        f"What {study.name} uses is not known, so nothing is unused: {study.unknown}"
        for study in use.studies
        if study.unknown
    ]
    if unused:
        parts.append(f"To remove what no study uses:  {command} --unused")
    elif use.held:
        half = format_size(size / 2).replace(" ", "")
        parts.append(f"To see what would go, if it were half as large:  {command} --down-to {half} --dry-run")
    return "\n\n".join(parts)


def _store_words(root: Path, out: Path) -> list[str]:
    return [] if root == (out / "store").resolve() else ["--store", str(root)]


def _stages(use: StoreUse) -> str:
    rows = []
    for stage, kind in sorted(
        {(one.stage, one.kind) for one in use.held}, key=lambda pair: (pair[1] is Kind.REMAINS, pair)
    ):
        of_kind = [one for one in use.held if (one.stage, one.kind) == (stage, kind)]
        name = stage if kind is Kind.ENTRY else f"{stage} ({kind.value})"
        unused = [one for one in of_kind if use.unused(one)]
        rows.append([name, str(len(of_kind)), _size(of_kind), _size(unused) if unused else "-", _cost(of_kind)])
    rows.sort(key=lambda row: row[0])
    return table(["stage", "parts", "size", "unused", "to build again"], rows)


def _studies(use: StoreUse) -> str:
    rows = [
        [study.name, study.state, str(len(own)), _size(own), _size(alone), _cost(own)]
        for study in use.studies
        if not study.composite
        for own in [used_by(use, study)]
        for alone in [[one for one in own if len(use.users(one)) == 1]]
    ]
    unused = [one for one in use.held if use.unused(one)]
    asked = [one for one in use.held if not use.users(one) and not use.unused(one)]
    rows += [["may be asked for", "", str(len(asked)), _size(asked), "-", _cost(asked)]] if asked else []
    rows += [[NOBODY, "", str(len(unused)), _size(unused), "-", _cost(unused)]] if unused else []
    return table(["study", "state", "parts", "size", "alone", "to build again"], rows, left=2)


def _ages(held: Sequence[Held], now: float) -> str:
    rows, left = [], list(held)
    for limit, name in _AGES:
        young = [one for one in left if now - one.used_at <= limit]
        left = [one for one in left if now - one.used_at > limit]
        rows.append([f"within {name}", str(len(young)), _size(young)])
    rows.append(["longer ago", str(len(left)), _size(left)])
    return table(["last used", "parts", "size"], [row for row in rows if row[1] != "0"])


def used_by(use: StoreUse, study: StudyUse) -> list[Held]:
    """What a study uses."""
    return [one for one in use.held if study in use.users(one)]


def describe_study(use: StoreUse, folder: Path) -> str:
    """What one study uses, by stage."""
    folder = folder.resolve()
    studies = [s for s in use.studies if s.folder == folder or s.folder.name.startswith(f"{folder.name}.")]
    own = [one for one in use.held if any(study in use.users(one) for study in studies)]
    if not own:
        return f"{folder.name} uses nothing of this store"
    alone = [one for one in own if all(user in studies for user in use.users(one))]
    rows = []
    for stage in sorted({one.stage for one in own}):
        of_stage = [one for one in own if one.stage == stage]
        of_alone = [one for one in alone if one.stage == stage]
        rows.append([stage, str(len(of_stage)), _size(of_stage), _size(of_alone), _cost(of_stage)])
    return (
        f"{folder.name} uses {_size(own)} of the store, {_size(alone)} of it alone; without it, the study would build "
        f"for {_cost(own)} again\n\n" + table(["stage", "parts", "size", "alone", "to build again"], rows)
    )


def describe_choice(use: StoreUse, wish: Wish, chosen: Sequence[Held]) -> str:
    """What would go, and what which study would have to build again."""
    size = sum(one.bytes for one in use.held)
    left = size - sum(one.bytes for one in chosen)
    if not chosen:
        small = wish.down_to is not None and size <= wish.down_to
        why = (
            f"the store has {format_size(size)} already"
            if small
            else "no part of the store is what was asked for, or a running study uses it"
        )
        return f"Nothing to remove: {why}."
    going = {one.place for one in chosen}
    stay = [one for one in use.held if one.place not in going]
    lines = [f"To remove: {_size(chosen)} in {_parts(chosen)} ({_counted(chosen)}); {format_size(left)} stay."]
    if wish.down_to is not None and left > wish.down_to:
        lines.append(f"That is more than {format_size(wish.down_to)}: running studies use the rest.")
    for study in use.studies:
        again = [one for one in chosen if study in use.users(one)]
        if again:
            lines.append(f"  {study.name} would build again, if it needs them: {_counted(again)}; {_cost(again, stay)}")
    asked = [one for one in chosen if not use.users(one) and not use.unused(one)]
    if asked:
        lines.append(f"  studies might ask for: {_counted(asked)}; {_cost(asked, stay)}")
    return "\n".join(lines)


def _counted(held: Iterable[Held]) -> str:
    counts = Counter(one.stage if one.kind is Kind.ENTRY else f"{one.stage} ({one.kind.value})" for one in held)
    named = [f"{count} {stage}" for stage, count in counts.most_common(_SHOWN)]
    return ", ".join([*named, *([f"{len(counts) - _SHOWN} other stages"] if len(counts) > _SHOWN else [])])


def _parts(held: Sequence[Held]) -> str:
    return several(len(held), "part")


def _size(held: Iterable[Held]) -> str:
    return format_size(sum(one.bytes for one in held))


def _cost(held: Iterable[Held], kept: Iterable[Held] = ()) -> str:
    return duration(build_seconds(held, kept))


def as_json(root: Path, use: StoreUse) -> dict[str, Any]:
    """The same for machines."""
    return {
        "store": str(root),
        "bytes": sum(one.bytes for one in use.held),
        "studies": [
            {
                "name": study.name,
                "folder": str(study.folder),
                "state": study.state,
                "bytes": sum(one.bytes for one in own),
                "alone_bytes": sum(one.bytes for one in own if len(use.users(one)) == 1),
                "build_seconds": build_seconds(own),
            }
            for study in use.studies
            if not study.composite
            for own in [used_by(use, study)]
        ],
        "parts": [
            {
                "stage": one.stage,
                "key": one.key,
                "kind": one.kind.value,
                "bytes": one.bytes,
                "build_seconds": one.built_seconds,
                "used_at": one.used_at,
                "studies": [study.name for study in use.users(one)],
                "unused": use.unused(one),
            }
            for one in use.held
        ],
    }
