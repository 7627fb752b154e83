"""Optuna's own log is no part of what a person reads."""

import logging
from collections.abc import Iterator

import optuna
import pytest

from search_spaces import SEARCH_SPACES
from study.ledger.quiet_study import create_study
from study.ledger.samplers import draw_settings


@pytest.fixture
def said() -> Iterator[list[str]]:
    """What Optuna logs, with its threshold as it is where nobody has set it."""
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logger, before = logging.getLogger("optuna"), optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.INFO)
    logger.addHandler(handler)
    yield lines
    logger.removeHandler(handler)
    optuna.logging.set_verbosity(before)


def test_a_study_is_made_without_a_word(said: list[str]) -> None:
    optuna.create_study()
    assert len(said) == 1, "what Optuna would say"
    create_study().ask()
    assert len(said) == 1


def test_settings_that_trials_share_are_drawn_without_a_word(said: list[str]) -> None:
    assert draw_settings("qmc", SEARCH_SPACES["pipd"], ["rounds"], 3, 0)
    assert not said
