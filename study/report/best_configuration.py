"""The best configuration of a study as options of `python -m study.evaluate`: it makes one of its scenarios again."""

import math
from typing import Any

import yaml

from study.analysis.results import Results
from study.config.config import PRESETS, CommonConfig

BEST_YAML = "best.yaml"
_ELSEWHERE = ("out", "store", "data_dir", "download", "set")
"""Options that say where things are, or that are written by themselves."""


def best_configuration(results: Results) -> str | None:
    """The text of a YAML file with the options; None where no trial is the best or no attack works.

    They name the first scenario whose attack works. Where a study lies is not among them.
    """
    best = results.best
    working = results.scenarios.index[~results.scenarios["attack_failed"]]
    if best is None or not len(working):
        return None
    scenario = str(working[0])
    options = {"defense": results.defense, **_scenario(results, scenario), **_common(results)}
    point = {name: _plain(value) for name, value in results.points[best].items() if name in results.ranges}
    options["set"] = dict(results.config.set) | point
    head = f"# Trial {best} of {results.name}, {scenario}: python -m study.evaluate --config {BEST_YAML}\n"
    return head + yaml.safe_dump({name: value for name, value in options.items() if value != {}}, sort_keys=False)


def _scenario(results: Results, name: str) -> dict[str, Any]:
    parts = results.manifest.scenario_parts(name)
    row = results.scenarios.loc[[name]].to_dict("records")[0]
    attack = parts.attack if parts is not None else str(row["attack"])
    rate = float(row["poison_rate"])
    rates = {} if math.isnan(rate) or rate == 0 else {"poison_rate": rate}
    repeat = {"repeat": int(row["repeat"])} if row["repeat"] else {}
    return {"attack": attack, **rates, "seed": int(row["seed"]), **repeat}


def _common(results: Results) -> dict[str, Any]:
    """The options that a study shares with a single evaluation, where they are not what the preset makes them."""
    config = results.config
    usual = CommonConfig(
        **{name: value for name, value in PRESETS.get(config.preset, {}).items() if name in CommonConfig.model_fields}
    ).model_dump(mode="json")
    own = config.model_dump(mode="json")
    changed = {
        name: own[name]
        for name in CommonConfig.model_fields
        if name not in (*_ELSEWHERE, "preset") and own[name] != usual[name]
    }
    return {"preset": config.preset, **changed}


def _plain(value: Any) -> Any:
    """A number or a text that YAML knows, without a library's own type."""
    return getattr(value, "item", lambda: value)()
