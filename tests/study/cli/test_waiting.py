"""Threads of a training sleep while they wait."""

import os
import subprocess
import sys

import pytest
from checkout import ROOT

from study.cli.waiting import wait_passively
from study.driver.library_env import before_imports


@pytest.mark.parametrize(("before", "after"), [(None, "PASSIVE"), ("active", "active")])
def test_the_users_own_policy_stays(before: str | None, after: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", before or "")
    if before is None:
        monkeypatch.delenv("OMP_WAIT_POLICY")
    wait_passively()
    assert os.environ["OMP_WAIT_POLICY"] == after


def test_it_is_set_before_torch_is_loaded() -> None:
    """Of a command that trains itself; a study's workers inherit it."""
    asked = (
        "import os, sys\n"
        "os.environ.pop('OMP_WAIT_POLICY', None)\n"
        "from study import evaluate\n"
        "class Seen(Exception): pass\n"
        "class Finder:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'torch': sys.exit(os.environ.get('OMP_WAIT_POLICY'))\n"
        "sys.meta_path.insert(0, Finder())\n"
        "evaluate.main(['--defense', 'no_defense'])\n"
    )
    done = subprocess.run([sys.executable, "-c", asked], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.stderr.splitlines()[-1] == "PASSIVE"


def test_workers_of_a_study_inherit_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", dict(os.environ))
    os.environ.pop("OMP_WAIT_POLICY", None)
    before_imports(local=False)
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"
