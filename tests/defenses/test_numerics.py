"""What decides a sum is in its stage's key, and a stored stage says what built it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from defenses import numerics as module
from defenses.numerics import describe_machine, describe_numerics, numerics
from defenses.storage.atomic_files import canonical
from defenses.storage.store import Store

CPU = torch.device("cpu")


def test_it_is_told_of_this_process_as_it_is_now() -> None:
    torch.set_num_threads(1)
    one = numerics(CPU)
    torch.set_num_threads(2)
    two = numerics(CPU)
    assert (one["threads"], two["threads"]) == (1, 2)
    assert {**one, "threads": 0} == {**two, "threads": 0}
    assert one["torch"] == torch.__version__
    assert json.loads(canonical(one)) == one  # a key is made of it


@pytest.mark.parametrize(
    ("name", "value"), [("ONEDNN_MAX_CPU_ISA", "AVX2"), ("MKL_CBWR", "COMPATIBLE"), ("ATEN_CPU_CAPABILITY", "default")]
)
def test_what_overrides_the_choice_of_kernels_counts(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    before = numerics(CPU)
    monkeypatch.setenv(name, value)
    assert numerics(CPU) != before


def test_other_instruction_sets_or_caches_are_another_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    told = dict(torch.cpu.get_capabilities())
    before = numerics(CPU)
    for change in ({"avx512_bf16": not told.get("avx512_bf16")}, {"l2_cache_size": 1}, {"avx2": not told.get("avx2")}):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda change=change: {**told, **change})
        assert numerics(CPU) != before
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {**told, "cpu_name": "another"})
    assert numerics(CPU) == before  # a name decides nothing


def test_a_gpu_is_told_by_its_model_and_without_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    def of(gpu: str) -> dict[str, Any]:
        monkeypatch.setattr(module, "_gpu", lambda device: {"gpu": gpu})
        return numerics(torch.device("cuda"))

    first = of("H100")
    assert "threads" not in first
    assert first != of("H200")
    assert describe_numerics(torch.device("cuda")) == f"H200, torch {torch.__version__}"


def test_it_is_said_in_a_few_words() -> None:
    torch.set_num_threads(1)
    assert describe_numerics(CPU).endswith(f", 1 thread, torch {torch.__version__}")
    torch.set_num_threads(2)
    assert ", 2 threads, " in describe_numerics(CPU)


def test_a_stored_entry_says_what_built_it(tmp_path: Path) -> None:
    key = "0" * 64
    artifact, _ = Store(tmp_path).get_or_build("stage", key, lambda: {"x": np.ones(2)})
    assert artifact.built_by == describe_machine()
    assert artifact.built_by.keys() >= {"processor", "threads", "torch", "numpy", "python"}
    read_back = Store(tmp_path).find("stage", key)
    assert read_back is not None
    assert read_back.built_by == artifact.built_by
