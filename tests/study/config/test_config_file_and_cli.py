"""Options: what overrides what, what a wrong one is answered, and what makes two studies the same."""

import argparse
import dataclasses
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from defenses import DEFENSES
from defenses.config import Config, param
from defenses.methods.pipd.pipd import PIPDConfig
from defenses.methods.quarantine import QTConfig
from defenses.registry import UserError
from search_spaces import SEARCH_SPACES
from study import run
from study.attacks import ATTACKS
from study.attacks import __main__ as attacks
from study.cli.options import Parser, add_options, given_options
from study.cli.terminal import option_hint
from study.config.config import CommonConfig, StudyConfig, resolve
from study.config.option_groups import OF_ATTACKS, OPTION_GROUPS, USUAL
from study.datasets import DATASETS
from study.evaluate import EvaluateConfig
from study.run import main
from study.scenarios.oracle_defenses import ORACLE_DEFENSES


def parsed(*arguments: str, model: type[CommonConfig] = StudyConfig) -> Any:
    """A configuration as the commands make it."""
    parser = Parser(prog="test", allow_abbrev=False)
    parser.add_argument("--config", type=Path)
    add_options(parser, model)
    namespace: argparse.Namespace = parser.parse_args(arguments)
    return resolve(model, given_options(namespace, model), namespace.config)


def refusal(*arguments: str, model: type[CommonConfig] = StudyConfig) -> str:
    with pytest.raises(UserError) as refused:
        parsed(*arguments, model=model)
    assert "\n" not in str(refused.value)
    return str(refused.value)


@pytest.fixture
def yaml_file(tmp_path: Path) -> Path:
    """Where a test writes its options."""
    return tmp_path / "study.yaml"


def test_the_command_line_wins_over_yaml_over_preset_over_default(yaml_file: Path) -> None:
    yaml_file.write_text("trials: 30\npoison-rates: [0.2]\n")
    file = ("--config", str(yaml_file))
    assert parsed().trials == 10
    assert parsed("--preset", "small").trials == 20
    assert parsed("--preset", "small", *file).trials == 30
    assert parsed("--preset", "small", *file, "--trials", "40").trials == 40
    whole = parsed("--preset", "small", *file, "--trials", "40")
    assert (whole.dataset, whole.poison_rates, whole.seeds) == ("cifar10", (0.2,), (0,)), "each from its own place"


def test_a_preset_may_be_named_in_the_file(yaml_file: Path) -> None:
    yaml_file.write_text("preset: paper\n")
    assert parsed("--config", str(yaml_file)).width == 64
    assert parsed("--config", str(yaml_file), "--preset", "smoke").width == 16


def test_fixed_fields_of_file_and_command_line_are_joined(yaml_file: Path) -> None:
    yaml_file.write_text("set:\n  rounds: 3\n  beta: 1.5\n  release_epochs: [3, 5]\n  selective_clip_norm: null\n")
    found = parsed("--config", str(yaml_file), "--set", "beta=2", "gamma=0.1", "--set", "taps=blocks").set
    assert found == {
        "rounds": "3",
        "beta": "2",
        "release_epochs": "3,5",
        "selective_clip_norm": "None",
        "gamma": "0.1",
        "taps": "blocks",
    }
    assert QTConfig.from_text({"release_epochs": found["release_epochs"]}).release_epochs == (3, 5)
    assert PIPDConfig.from_text({"selective_clip_norm": found["selective_clip_norm"]}).selective_clip_norm is None


@pytest.mark.parametrize(
    "arguments",
    [
        ("--poison-rates", "0.05", "0.1", "--seeds", "1", "2"),
        ("--poison-rates", "0.05,0.1", "--seeds", "1,2"),
        ("--poison-rates", "0.05,", "0.1", "--seeds", "1,2,"),
    ],
)
def test_lists_are_split_at_spaces_and_commas(arguments: Sequence[str]) -> None:
    found = parsed(*arguments)
    assert (found.poison_rates, found.seeds) == ((0.05, 0.1), (1, 2))
    assert found.identity == parsed("--poison-rates", "0.05", "0.1", "--seeds", "1", "2").identity


def test_one_value_in_a_file_is_a_list_of_one(yaml_file: Path) -> None:
    yaml_file.write_text("attacks: sig\npoison_rates: 0.05\n")
    found = parsed("--config", str(yaml_file))
    assert (found.attacks, found.poison_rates) == (("sig",), (0.05,))


def test_options_of_a_single_cell(yaml_file: Path) -> None:
    yaml_file.write_text("attack: sig\npoison-rate: 0.05\nthreads: 1\n")
    found = parsed("--config", str(yaml_file), "--preset", "small", model=EvaluateConfig)
    assert (found.attack, found.poison_rate, found.threads) == ("sig", 0.05, 1)
    assert (found.dataset, found.train_size) == ("cifar10", 10_000), "the preset's part that a cell has"
    assert "--poison-rate" in refusal("--poison-rate", "0.6", model=EvaluateConfig)


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--trial", "3"], ["unknown option --trial", "did you mean '--trials'?", "--help"]),
        (["--trials", "x"], ["--trials", "whole number", "'x'"]),
        (["--trials", "0"], ["--trials", "1", "got 0"]),
        (["--trials"], ["--trials"]),
        (["--trials", "3", "--trials", "5"], ["--trials", "more than once"]),
        (["--seeds", "3", "--seeds", "5"], ["--seeds", "more than once", "all its values"]),
        (["pipd"], ["pipd"]),
        (["--preset", "smal"], ["--preset", "'small'", "got 'smal'", "did you mean 'small'?"]),
        (["--sampler", "tpee"], ["--sampler", "'qmc'", "got 'tpee'", "did you mean 'tpe'?"]),
        (["--poison-rates", "0"], ["--poison-rates", "(0, 0.5]", "got 0"]),
        (["--poison-rates", "0.1", "0.6"], ["--poison-rates", "(0, 0.5]", "got 0.6"]),
        (["--poison-rates", "-1"], ["--poison-rates", "(0, 0.5]", "got -1"]),
        (["--poison-rates", "nan"], ["--poison-rates", "number", "'nan'"]),
        (["--poison-rates", "inf"], ["--poison-rates", "number", "'inf'"]),
        (["--poison-rates", "ten"], ["--poison-rates", "number", "'ten'"]),
        (["--name", "../x"], ["--name", "letters, digits", "'../x'"]),
        (["--name", ".hidden"], ["--name", "starts with a letter or digit", "'.hidden'"]),
        (["--name", "a/b"], ["--name", "'a/b'"]),
        (["--name", "x" * 101], ["--name", "at most 100"]),
        (["--name", ""], ["--name", "''"]),
        (["--name", "a\nb"], ["--name", r"'a\nb'"]),
        (["--set", "rounds"], ["--set", "FIELD=VALUE", "'rounds'"]),
        (["--set", "=3"], ["--set", "FIELD=VALUE", "'=3'"]),
        (["--target-label", "-1"], ["--target-label", "'-1'"]),
        (["--asr-floor", "1.5"], ["--asr-floor", "got 1.5"]),
        (["--asr-floor", "nan"], ["--asr-floor", "'nan'"]),
        (["--cpus-per-trial", "0"], ["--cpus-per-trial", "got 0"]),
        (["--gpus-per-trial", "-0.5"], ["--gpus-per-trial", "got -0.5"]),
        (["--until", "isolat"], ["--until", "did you mean 'isolate'?"]),
    ],
)
def test_a_wrong_option_is_answered_in_one_line(arguments: list[str], parts: list[str]) -> None:
    message = refusal(*arguments)
    assert all(part in message for part in parts), message


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ("trails: 3\n", ["unknown option 'trails'", "did you mean 'trials'?"]),
        ("poison-rate: 0.1\n", ["unknown option 'poison_rate'", "did you mean 'poison_rates'?"]),
        ("poison_rates: [0.1, 0.6]\n", ["--poison-rates", "(0, 0.5]", "got 0.6"]),
        ("trials: many\n", ["--trials", "'many'"]),
        ("- trials\n- 3\n", ["must hold 'key: value' lines", "list"]),
        ("just text\n", ["must hold 'key: value' lines", "str"]),
        ("", ["must hold 'key: value' lines"]),
        ("trials: [3\n", ["must be plain YAML"]),
        ("\ttrials: 3\n", ["must be plain YAML"]),
        ("name: \x00\n", ["must be plain YAML"]),
        ("set: [rounds=3]\n", ["--set", "dictionary"]),
        ("name: [a]\n", ["--name", "string"]),
        ("trials: !!int 5\n", ["without tags", "int"]),
        ("trials: 5\ntrials: 6\n", ["'trials' more than once"]),
        ("poison-rates: 0.1\npoison_rates: 0.2\n", ["'poison_rates' more than once"]),
        ("set: {rounds: 5, rounds: 6}\n", ["'rounds' more than once"]),
        ("trials: 1:30\n", ["--trials", "whole number", "'1:30'"]),  # ninety, by YAML's own rules
        ("trials: 5.0\n", ["--trials", "whole number", "'5.0'"]),
        ("trials: true\n", ["--trials", "whole number", "'true'"]),
        ("trials: 1_0\n", ["--trials", "whole number", "'1_0'"]),
        ("per_scenario: 1\n", ["--per-scenario", "true or false", "'1'"]),
        ("{1: 2}: 3\n", ["plain words before a colon"]),
    ],
)
def test_a_wrong_file_is_answered_in_one_line(content: str, parts: list[str], yaml_file: Path) -> None:
    yaml_file.write_text(content)
    message = refusal("--config", str(yaml_file))
    assert all(part in message for part in parts), message


def test_a_file_that_cannot_be_read_is_answered_in_one_line(tmp_path: Path) -> None:
    for path, reason in ((tmp_path / "missing.yaml", "No such file"), (tmp_path, "Is a directory")):
        message = refusal("--config", str(path))
        assert str(path) in message
        assert reason in message


def test_a_file_cannot_execute_code(yaml_file: Path, tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    yaml_file.write_text(f"name: !!python/object/apply:os.system ['touch {marker}']\n")
    assert "must be plain YAML" in refusal("--config", str(yaml_file))
    assert not marker.exists()


def test_a_preset_that_is_a_list_is_answered_in_one_line(yaml_file: Path) -> None:
    yaml_file.write_text("preset: [smoke]\n")
    assert "--preset" in refusal("--config", str(yaml_file))


@pytest.mark.parametrize("content", ["set: [rounds=3]\n", "set:\n"])
def test_fixed_fields_that_are_no_mapping_are_answered_in_one_line(content: str, yaml_file: Path) -> None:
    yaml_file.write_text(content)
    assert "--set" in refusal("--config", str(yaml_file), "--set", "beta=1")


def test_a_file_that_is_not_utf8_is_answered_in_one_line(yaml_file: Path) -> None:
    yaml_file.write_bytes("name: café\n".encode("latin-1"))
    assert str(yaml_file) in refusal("--config", str(yaml_file))


@pytest.mark.parametrize("option", ["--attacks", "--poison-rates", "--seeds"])
def test_an_empty_list_is_refused(option: str) -> None:
    assert option in refusal(option, ",")


@pytest.mark.parametrize("option", ["--cpus-per-trial", "--gpus-per-trial"])
def test_infinite_resources_are_refused(option: str) -> None:
    assert option in refusal(option, "inf")


@pytest.mark.parametrize(
    ("values", "parts"),
    [
        ({"round": "3"}, ["PIPDConfig has no field 'round'", "did you mean 'rounds'?"]),
        ({"rounds": "x"}, ["rounds must be of type int", "'x'", "--set rounds="]),
        ({"rounds": "2.5"}, ["rounds must be of type int", "2.5"]),
        ({"rounds": "0"}, ["rounds must lie in [1, inf]", "got 0"]),
        ({"rounds": "true"}, ["rounds must be of type int", "True"]),
        ({"beta": "-1"}, ["beta must lie in [0.0, inf]", "got -1.0"]),
        ({"beta": "nan"}, ["beta must be finite", "nan"]),
        ({"beta": "inf"}, ["beta must be finite", "inf"]),
        ({"beta": "none"}, ["beta must be of type float", "None"]),
        ({"selective_augment": "yes"}, ["selective_augment must be of type bool", "'yes'"]),
        ({"channel_statistic": "maxx"}, ["must be one of max, mean", "'maxx'", "did you mean 'max'?"]),
    ],
)
def test_a_wrong_field_is_answered_in_one_line(values: dict[str, str], parts: list[str]) -> None:
    with pytest.raises(UserError) as refused:
        PIPDConfig.from_text(values)
    message = str(refused.value) + option_hint(refused.value)
    assert all(part in message for part in parts), message
    assert "\n" not in message


def test_typed_fields_are_read_as_their_type() -> None:
    found = PIPDConfig.from_text({"rounds": "5", "beta": "2", "selective_augment": "False", "taps": "blocks"})
    assert (found.rounds, found.beta, found.selective_augment, found.taps) == (5, 2.0, False, "blocks")
    assert type(found.beta) is float
    assert QTConfig.from_text({"release_epochs": "(2, 4)"}).release_epochs == (2, 4)
    assert PIPDConfig.symbol("beta") == "β beta"
    assert PIPDConfig.symbol("taps") == "taps"


def test_a_count_stays_a_count() -> None:
    found = PIPDConfig.from_text({"channels_per_tap": "10"}).channels_per_tap
    assert (found, type(found)) == (10, int)


@dataclass(frozen=True)
class Broken(Config):
    """Its default breaks its own rule."""

    rate: float = param(2.0, "a rate", high=1.0)


def test_the_default_of_a_field_is_checked_as_well() -> None:
    with pytest.raises(UserError, match=r"rate must lie in \[-inf, 1.0\], got 2.0"):
        Broken()
    assert Broken.from_text({"rate": "1"}).rate == 1.0


def test_the_same_settings_are_the_same_study(yaml_file: Path) -> None:
    yaml_file.write_text("space: qt\nset: {rounds: 3, beta: 2}\nattacks: [badnets, sig]\n")
    typed = parsed("--attacks", "badnets,sig", "--set", "beta=2", "rounds=3", "--space", "qt", "--width", "16")
    filed = parsed("--config", str(yaml_file))
    assert typed.identity == filed.identity
    assert typed.study_name == filed.study_name == f"qt-smoke-{typed.identity[:8]}"


@pytest.mark.parametrize(
    "arguments",
    [
        ("--trials", "99"),
        ("--out", "elsewhere"),
        ("--store", "elsewhere"),
        ("--data-dir", "elsewhere"),
        ("--download",),
        ("--cpus-per-trial", "2"),
        ("--gpus-per-trial", "0.25"),
        ("--tracking-uri", "http://127.0.0.1:5000"),
        ("--address", "auto"),
        ("--name", "mine"),
    ],
)
def test_how_long_where_and_with_how_much_is_no_part_of_a_study(arguments: Sequence[str]) -> None:
    assert parsed(*arguments).identity == parsed().identity


@pytest.mark.parametrize(
    "arguments",
    [
        ("--space", "qt"),
        ("--attacks", "sig"),
        ("--poison-rates", "0.05"),
        ("--seeds", "1"),
        ("--set", "rounds=3"),
        ("--dataset", "cifar10"),
        ("--train-size", "100"),
        ("--test-size", "100"),
        ("--target-label", "1"),
        ("--model", "preact_resnet18"),
        ("--width", "8"),
        ("--blocks", "2,2,2,2"),
        ("--precision", "fp32"),
        ("--asr-floor", "0.5"),
        ("--until", "isolate"),
        ("--objective", "tpr"),
        ("--objective", "tpr,fpr"),
        ("--aggregate", "worst"),
        ("--per-scenario",),
        ("--resolution", "beta=4"),
        ("--sampler", "random"),
        ("--search-seed", "1"),
        ("--preset", "paper"),
    ],
)
def test_what_changes_a_result_makes_another_study(arguments: Sequence[str]) -> None:
    assert parsed(*arguments).identity != parsed().identity
    assert parsed(*arguments).study_name != parsed().study_name


def test_a_given_name_is_kept() -> None:
    assert parsed("--name", "first_try-2.0").study_name == "first_try-2.0"


@pytest.mark.parametrize("module", ["study.run", "study.evaluate"])
def test_help_is_quick_because_nothing_heavy_is_loaded(module: str) -> None:
    code = (
        "import runpy, sys\n"
        f"sys.argv = ['{module}', '--help']\n"
        "try:\n"
        f"    runpy.run_module('{module}', run_name='__main__')\n"
        "except SystemExit as stop:\n"
        "    assert not stop.code, stop.code\n"
        "heavy = {'torch', 'ray', 'mlflow', 'optuna', 'sklearn'} & set(sys.modules)\n"
        "sys.exit(f'loaded: {heavy}' if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "usage: " in done.stdout
    assert done.stderr == ""


def test_the_list_names_everything(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list"]) == 0
    found = capsys.readouterr().out
    first_words = {line.split()[0] for line in found.splitlines() if line.strip()}
    assert {"pipd", "pipd_wide", "qt", "no_defense"} <= first_words
    assert set(ATTACKS) | set(DATASETS) <= first_words
    assert {"badnets", "sig", "clean", "digits", "npz"} <= first_words
    assert set(SEARCH_SPACES) | set(DEFENSES) | set(ORACLE_DEFENSES) <= first_words
    grid = next(line for line in found.splitlines() if line.startswith("pipd.clustering "))
    assert grid.split("  ")[-1] == SEARCH_SPACES.describe("pipd.clustering")
    assert "PIPD, Table 8" in grid
    assert "defense that is given the ground truth" in found


def test_help_tells_the_kind_and_the_default_of_an_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "--trials N trials: configurations to run on every scenario; raising it extends a study [10]" in shown
    assert "a rate of its own [badnets,blended_random,trojan_square]" in shown
    assert "--until isolate stop once samples are flagged; no final model --" in shown  # no default


@pytest.mark.parametrize(
    ("words", "seeds"),
    [
        (["0-4"], (0, 1, 2, 3, 4)),
        (["7", "0-2", "9"], (7, 0, 1, 2, 9)),
        (["3-3"], (3,)),
        (["0,2-3"], (0, 2, 3)),
    ],
)
def test_a_range_of_seeds_is_all_of_them(words: list[str], seeds: tuple[int, ...], yaml_file: Path) -> None:
    assert parsed("--seeds", *words).seeds == seeds
    yaml_file.write_text(f"seeds: [{', '.join(words)}]\n")
    assert parsed("--config", str(yaml_file)).seeds == seeds


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--seeds", "4-0"], ["--seeds", "runs upwards", "'4-0'"]),
        (["--seeds", "0-1000000"], ["--seeds", "at most 1000", "'0-1000000'"]),
        (["--seeds", "0--4"], ["--seeds", "'0--4'"]),
        (["--seeds", "1_0"], ["--seeds", "whole number", "'1_0'"]),
        (["--seeds", "\u0663"], ["--seeds", "whole number"]),  # a three that int() reads
        (["--seeds", "1.0"], ["--seeds", "whole number", "'1.0'"]),
        (["--seeds", "9" * 30], ["--seeds", "less than"]),
        (["--seeds", "9" * 5000], ["--seeds", "whole number"]),
        (["--seeds", "0", "1", "0"], ["--seeds", "0 is there more than once"]),
        (["--poison-rates", "0.1", "0.10"], ["--poison-rates", "0.1 is there more than once"]),
        (["--poison-rates", "0.1-0.3"], ["--poison-rates", "must be a number", "'0.1-0.3'"]),
        (["--trials", "0-4"], ["--trials", "whole number", "'0-4'"]),
        (["--threads", "0"], ["--threads", "got 0"]),
        (["--out", ""], ["--out: must be a path", "a variable that is not set", "got ''"]),
        (["--store", " "], ["--store: must be a path", "got ' '"]),
        (["--threads", "100000"], ["--threads", "less than or equal to 1024", "got 100000"]),  # torch would end itself
        (["--cpus-per-trial", "1_0"], ["--cpus-per-trial", "must be a number", "'1_0'"]),
        (["--gpus-per-trial", "some"], ["--gpus-per-trial", "must be a number or auto", "'some'"]),
        (["--resolution", "rounds=0-4"], ["--resolution", "whole number", "'0-4'"]),
        (["--resolution", "rounds="], ["--resolution", "whole number", "such as 0.1,0.5"]),
        (["--resolution", "rounds=1"], ["--resolution", "at least two", "got 1", "--set"]),
        (["--set", "rounds=3", "rounds=4"], ["--set", "'rounds' more than once"]),
        (["--resolution", "beta=3", "--resolution", "beta=4"], ["--resolution", "'beta' more than once"]),
    ],
)
def test_numbers_are_read_as_they_are_written(arguments: list[str], parts: list[str]) -> None:
    message = refusal(*arguments)
    assert all(part in message for part in parts), message


def test_text_of_a_file_has_the_type_of_its_option(yaml_file: Path) -> None:
    yaml_file.write_text(
        "name: 2026-01-01\ntrials: 010\npoison_rates: [1e-1, .2]\nper_scenario: yes\nuntil:\nmodel: ~\n"
        "cpus_per_trial: 0.5\ngpus_per_trial: auto\nset: {rounds: 5, taps: 'blocks'}\n"
        "resolution: {beta: 4, gamma: [0.1, 2], taps: 'blocks, convolutions'}\n"
    )
    config = parsed("--config", str(yaml_file))
    assert (config.name, config.trials, config.poison_rates) == ("2026-01-01", 10, (0.1, 0.2))
    assert (config.per_scenario, config.until, config.model) == (True, None, None)
    assert (config.cpus_per_trial, config.gpus_per_trial) == (0.5, "auto")
    assert (config.set, config.resolution) == (
        {"rounds": "5", "taps": "blocks"},
        {"beta": 4, "gamma": ("0.1", "2"), "taps": ("blocks", "convolutions")},
    )


@pytest.mark.parametrize("text", ["1_0", "\u0663", " ", "0x10", "1e", "--1", "0-4"])
def test_a_field_of_a_defense_is_read_by_the_same_rule(text: str) -> None:
    with pytest.raises(UserError, match="rounds must be of type int"):
        PIPDConfig.from_text({"rounds": text})
    with pytest.raises(UserError, match="beta must be of type float"):
        PIPDConfig.from_text({"beta": text})


def test_each_option_stands_under_one_heading_and_the_usual_ten_come_first() -> None:
    fields = [*StudyConfig.model_fields, *EvaluateConfig.model_fields]
    grouped = [name for names in OPTION_GROUPS.values() for name in names]
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == set(fields)
    assert next(iter(OPTION_GROUPS)) == USUAL
    assert sum(name in StudyConfig.model_fields for name in OPTION_GROUPS[USUAL]) == 10
    assert set(StudyConfig.model_fields) >= OF_ATTACKS


def test_help_has_headings_and_a_short_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run.main(["--help"])
    printed = capsys.readouterr().out
    assert printed.startswith("usage: python -m study.run [options]\n")
    places = [printed.index(f"\n{heading}:\n") for heading in OPTION_GROUPS]
    assert places == sorted(places)
    with pytest.raises(SystemExit):
        attacks.main(["--help"])
    printed = capsys.readouterr().out
    assert "--attacks" in printed
    assert not any(option in printed for option in ("--trials", "--space", "--sampler", "--tracking-uri", "--width"))


def test_the_fields_of_a_space_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["--list", "pipd"]) == 0
    lines = capsys.readouterr().out.splitlines()
    beta = next(line for line in lines if line.startswith("β beta "))
    assert beta.split()[2:5] == ["3", "[0,", "6]"]
    for field in dataclasses.fields(PIPDConfig):
        row = next(line for line in lines if line.startswith(f"{PIPDConfig.symbol(field.name)} "))
        assert row.endswith(field.metadata["doc"])
    assert run.main(["--list", "pipdd"]) == 2
    assert "did you mean 'pipd'?" in capsys.readouterr().err
