"""What tools that open a ledger, such as optuna-dashboard, are shown of its trials beside what Optuna keeps itself."""

import json
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from study.config.objectives import Goal, aggregate, in_words
from study.ledger.method_cost import method_cost
from study.ledger.records import ScenarioRecord
from tracking import names

LOCK_SECONDS = 60.0
"""For another process in the middle of a read or a write, which takes far less."""

EPOCHS = "epoch-equivalents"
ATTACK_FAILED = "attack failed on"
_DECIMALS = 4  # as an objective is shown everywhere

Attributes = Mapping[str, float | str]


@dataclass(frozen=True)
class Shown:
    """What a ledger shows.

    Attributes:
        metric_names: of the objectives, in plain English.
        attributes_of: a trial's key -> what it reached; nothing for one that is not complete.
    """

    metric_names: tuple[str, ...]
    attributes_of: Callable[[str], Attributes]


def metric_names(goal: Goal) -> tuple[str, ...]:
    """The objectives as people are told of them: ``overall score``, ``ASR (worst scenario)``."""
    return tuple(in_words(name) + (" (worst scenario)" if goal.how == "worst" else "") for name in goal.objectives)


def trial_attributes(records: Sequence[ScenarioRecord], goal: Goal) -> dict[str, float | str]:
    """What a complete trial reached over all scenarios: ``TPR``, ``FPR`` and so on, as far as they are defined.

    Args:
        records: of all its scenarios.
    """
    together = aggregate(records, goal.how).metrics
    told: dict[str, float | str] = {
        in_words(name): round(value, _DECIMALS) for name in names.HEADLINE if (value := together.get(name)) is not None
    }
    costs = [method_cost(record.stages, ()) for record in records]
    epochs = [cost.built_epochs for cost in costs if cost.built_epochs is not None]
    told |= {EPOCHS: round(sum(epochs) / len(epochs), 1)} if epochs else {}
    failed = [record.scenario for record in records if record.attack_failed]
    return told | ({ATTACK_FAILED: ", ".join(failed)} if failed else {})


def describe_trials(path: Path, key_name: str, attributes_of: Callable[[str], Attributes], number: int | None) -> None:
    """Gives trials their user attributes, in one transaction. Optuna itself gives none to a trial that has ended.

    Args:
        path: of the ledger.
        key_name: user attribute that holds a trial's key.
        number: of the trial; None for all that are complete and have none yet.
    """
    which = "trials.number = ?" if number is not None else f"trials.state = 'COMPLETE' and not exists ({_DESCRIBED})"
    query = (
        "select trials.trial_id, value_json from trials join trial_user_attributes as keys "
        f"on keys.trial_id = trials.trial_id and keys.key = ? where {which}"
    )
    wanted = (number,) if number is not None else tuple(map(in_words, names.HEADLINE))
    with closing(sqlite3.connect(path, timeout=LOCK_SECONDS)) as database, database:
        rows = [
            (trial_id, name, json.dumps(value))
            for trial_id, key in database.execute(query, (key_name, *wanted)).fetchall()
            for name, value in attributes_of(json.loads(key)).items()
        ]
        database.executemany(_ADD, rows)


_DESCRIBED = (
    "select 1 from trial_user_attributes as own where own.trial_id = trials.trial_id "
    f"and own.key in ({', '.join('?' * len(names.HEADLINE))})"
)
_ADD = (
    "insert into trial_user_attributes (trial_id, key, value_json) values (?, ?, ?) "
    "on conflict (trial_id, key) do update set value_json = excluded.value_json"
)
