"""The storage behind a ledger: written to its file at once, read from memory.

Optuna's own storage of a file reads every open trial anew, and commits every hyperparameter by itself, in case others
write to the file as well. The driver alone writes to a ledger, so what it has written is what the file holds: nothing
is read again, and a new trial is one commit.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.storages import InMemoryStorage, RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from study.ledger.trial_rows import TrialRows


class LedgerStorage(InMemoryStorage):
    """The study of a file, of which this process is the only writer.

    A new trial is not in the file until `keep` is called for it: until then nobody outside knows of it.

    Args:
        path: of the file.
        file: Optuna's storage of it.
        study_name: of the study in it.
    """

    def __init__(self, path: Path, file: RDBStorage, study_name: str) -> None:
        super().__init__()
        self._file, self._rows = file, TrialRows(path)
        self._file_study = file.get_study_id_from_name(study_name)
        self._file_trials: list[int | None] = []  # by number; None for one that is not there yet
        self._study = super().create_new_study(file.get_study_directions(self._file_study), study_name)
        for name, value in file.get_study_user_attrs(self._file_study).items():
            super().set_study_user_attr(self._study, name, value)
        for name, value in file.get_study_system_attrs(self._file_study).items():
            super().set_study_system_attr(self._study, name, value)
        for trial in file.get_all_trials(self._file_study):
            super().create_new_trial(self._study, trial)
            self._file_trials.append(trial._trial_id)

    def create_new_study(self, directions: Sequence[StudyDirection], study_name: str | None = None) -> int:
        """There is one study.

        Raises:
            DuplicatedStudyError: always.
        """
        raise optuna.exceptions.DuplicatedStudyError

    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:
        """As Optuna's."""
        self._file.set_study_user_attr(self._file_study, key, value)
        super().set_study_user_attr(study_id, key, value)

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        """As Optuna's."""
        self._file.set_study_system_attr(self._file_study, key, value)
        super().set_study_system_attr(study_id, key, value)

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        """As Optuna's. One with a template is in the file at once, any other from `keep` on."""
        if template_trial is None:
            trial = super().create_new_trial(study_id)
            self._file_trials.append(None)
            return trial
        in_file = self._file.create_new_trial(self._file_study, template_trial)
        trial = super().create_new_trial(study_id, template_trial)
        self._file_trials.append(in_file)
        return trial

    def keep(self, trial_id: int) -> None:
        """Writes a new trial to the file, with all that it holds by now."""
        number = self.get_trial_number_from_id(trial_id)
        if self._file_trials[number] is None:
            add = self._rows.add if self._rows.known else self._file.create_new_trial
            self._file_trials[number] = add(self._file_study, self.get_trial(trial_id))

    def _in_file(self, trial_id: int) -> int | None:
        """The trial in the file; None where it is not there yet."""
        return self._file_trials[self.get_trial_number_from_id(trial_id)]

    def set_trial_param(
        self, trial_id: int, param_name: str, param_value_internal: float, distribution: BaseDistribution
    ) -> None:
        """As Optuna's."""
        in_file = self._in_file(trial_id)
        if in_file is not None:
            self._file.set_trial_param(in_file, param_name, param_value_internal, distribution)
        super().set_trial_param(trial_id, param_name, param_value_internal, distribution)

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        """As Optuna's."""
        self.keep(trial_id)
        in_file = self._in_file(trial_id)
        assert in_file is not None
        self._file.set_trial_state_values(in_file, state, values)
        return super().set_trial_state_values(trial_id, state, values)

    def set_trial_intermediate_value(self, trial_id: int, step: int, intermediate_value: float) -> None:
        """As Optuna's."""
        in_file = self._in_file(trial_id)
        if in_file is not None:
            self._file.set_trial_intermediate_value(in_file, step, intermediate_value)
        super().set_trial_intermediate_value(trial_id, step, intermediate_value)

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        """As Optuna's."""
        in_file = self._in_file(trial_id)
        if in_file is not None:
            self._file.set_trial_user_attr(in_file, key, value)
        super().set_trial_user_attr(trial_id, key, value)

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """As Optuna's."""
        in_file = self._in_file(trial_id)
        if in_file is not None:
            self._file.set_trial_system_attr(in_file, key, value)
        super().set_trial_system_attr(trial_id, key, value)

    def remove_session(self) -> None:
        """Closes the file for this thread."""
        self._file.remove_session()
