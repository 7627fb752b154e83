"""Optuna's studies, of which Optuna itself says nothing: what a person reads on the screen is this program's."""

from typing import Any

import optuna


def create_study(**options: Any) -> optuna.Study:
    """`optuna.create_study` without a line on stderr, there or later; takes what that takes.

    Optuna has one threshold for the whole process, so that it is set where studies come from.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna.create_study(**options)
