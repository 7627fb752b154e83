"""What a study is told: one checked model, filled from preset, space, YAML file and command line, in that order."""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from defenses.registry import UserError, nearest
from defenses.storage.remote import is_url
from defenses.text_numbers import parse_whole
from search_spaces import SEARCH_SPACES
from study.cli.options import explain, is_tuple, shortened
from study.cli.paths import expand_home
from study.cli.yaml_file import load_plain_yaml
from study.config.identity import FIRST_OPTIONS, NOT_IDENTITY
from study.config.objectives import parse_objectives
from study.config.typed import typed
from tracking.destination import absolute_address


def _rate(value: float) -> float:
    if not 0 < value <= 0.5:
        raise ValueError(
            f"a poison rate must lie in (0, 0.5], got {value:g}: it is the poisoned share of the training set"
        )
    return value


def _name(value: str | None) -> str | None:
    if value is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", value):
        raise ValueError(
            f"a study's name holds letters, digits, '.', '_' and '-', at most 100, and starts with a letter or digit; "
            f"got {value!r}"
        )
    return value


def _objectives(value: str | None) -> str | None:
    if value is None:
        return None
    return ",".join(parse_objectives(value))  # without directions: asr and asr:min are the same study


def _different(values: tuple[Any, ...]) -> tuple[Any, ...]:
    twice = [value for position, value in enumerate(values) if value in values[:position]]
    if twice:
        raise ValueError(f"each value is given once, and {twice[0]} is there more than once: leave it out")
    return values


def _several(value: int) -> int:
    if value < 2:
        raise ValueError(f"a grid takes at least two values of a field, got {value}: --set FIELD=VALUE fixes it at one")
    return value


def _address(value: str | None) -> str | None:
    return None if value is None else absolute_address(value)  # of a file: later commands run in other folders


def _target(value: object) -> object:
    """A class's number where the text is one, else its name."""
    number = parse_whole(value) if isinstance(value, str) else None
    label = value if number is None else number
    if isinstance(label, bool) or not isinstance(label, int | str) or (isinstance(label, int) and label < 0):
        raise ValueError(f"a target is a class's number, from 0, or its name, got {shortened(repr(value))}")
    return label


Seed = Annotated[int, Field(ge=0, lt=2**63)]
MOST_REPEATS = 99  # a scenario's name has room for two digits
OUT = Path("runs")
"""The folder of all studies, unless another is named."""
M = TypeVar("M", bound="CommonConfig")
PoisonRate = Annotated[float, AfterValidator(_rate)]
TargetLabel = Annotated[str | int, BeforeValidator(_target)]


class CommonConfig(BaseModel):
    """Options that a study and a single cell share. Fields left at None come from the preset."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    preset: Literal["smoke", "small", "paper"] = Field(
        "smoke", description="scale of everything: data, network and epochs"
    )
    dataset: str = Field("digits", description="where the images come from")
    data_dir: Path = Field(Path(".data"), description="where downloaded datasets lie")
    download: bool = Field(False, description="download the dataset if it is missing; never done unasked")
    train_size: int | None = Field(None, description="class-balanced subset of the training images", gt=0)
    test_size: int | None = Field(None, description="class-balanced subset of the test images", gt=0)
    clean_reserve: int | None = Field(
        None,
        description="test images that are set aside for defenses that need clean ones: accuracy and attack success are "
        "measured on the others; by default as many as they need",
        ge=0,
    )
    image_size: int = Field(32, description="px that the images of a folder are resized to", ge=8, le=1024)
    target_label: TargetLabel = Field(
        0, description="the class the attacker wants: its number from 0, or its name (name:7 where that is a number)"
    )
    trigger_image: Path | None = Field(
        None, description="picture for blended_image and adaptive_blend instead of the one that is drawn"
    )
    trigger_dir: Path | None = Field(None, description="folder of photographs for refool instead of drawn reflections")
    model: str | None = Field(None, description="the network; by default the defense's own")
    width: int = Field(16, description="channels of the network's first stage; 64 in the papers", ge=1)
    blocks: tuple[int, ...] = Field((1, 1, 1, 1), description="residual blocks a stage; 2,2,2,2 makes 18 layers")
    precision: Literal["auto", "bf16", "fp32"] = Field("auto", description="auto takes bf16 where the hardware has it")
    threads: int = Field(1, description="torch threads on a CPU; another number gives other results", ge=1, le=1024)
    step: Literal["auto", "eager", "captured", "compiled"] = Field(
        "auto",
        description="how a GPU takes training steps: each started by Python (eager), recorded once and replayed "
        "(captured), or compiled as well; auto chooses by how much there is to train, and a CPU is always eager",
    )
    keep_states: str = Field(
        "grid",
        description="epochs whose whole state is kept of a training that is read early, so that another read goes on "
        "from there: grid (1, 2, 3, 4, 6, 8, 12 ...), all, none, or some (5,10,20); --dry-run says what they take",
    )
    asr_floor: float = Field(
        0.9,
        description="an attack has failed whose ASR (attack success rate: the share of test images with the trigger "
        "that get the attacker's class) is lower even without a defense",
        ge=0,
        le=1,
    )
    clean_control: Literal["run", "none"] = Field("run", description="see what is flagged when nothing is poisoned")
    undefended_on: Literal["every", "attacked"] = Field(
        "every",
        description="where a model is trained without a defense to compare with: on every scenario, or (attacked) only "
        "where something is poisoned, since it shows whether the attack works",
    )
    until: Literal["isolate"] | None = Field(None, description="stop once samples are flagged; no final model")
    store: Path | str | None = Field(
        None, description="folder or URL (s3://...) for shared stages; by default a folder beside the results"
    )
    out: Path = Field(OUT, description="folder for results")
    set: dict[str, str] = Field(
        {}, description="hyperparameters to fix, such as beta=2; --list SPACE of study.run has all"
    )

    @field_validator("*", mode="before")
    @classmethod
    def _typed(cls, value: Any, info: ValidationInfo) -> Any:
        """Text is read by our rule: pydantic takes ``0-4`` for minus four."""
        return typed(value, cls.model_fields[str(info.field_name)].annotation)

    @field_validator("*")
    @classmethod
    def _no_nul(cls, value: Any) -> Any:
        """A YAML file can write it; no file's name can hold it."""
        parts = value if isinstance(value, tuple) else value.values() if isinstance(value, dict) else (value,)
        if any("\0" in str(part) for part in parts):
            raise ValueError(f"no value holds a NUL character, got {shortened(repr(value))}")
        return value

    @property
    def store_place(self) -> Path | str:
        """The store's folder, absolute, or its URL."""
        if is_url(self.store):
            return str(self.store)
        return expand_home(Path(self.store or self.out / "store")).resolve()


class StudyConfig(CommonConfig):
    """Options of `python -m study.run`."""

    space: str = Field("pipd", description="which search space: pipd, qt or another, see --list")
    defenses: Annotated[tuple[str, ...], AfterValidator(_different)] = Field(
        (), description="several spaces, one after the other on the same poisoned data, a study each: pipd qt"
    )
    attacks: Annotated[tuple[str, ...], AfterValidator(_different)] = Field(
        ("badnets", "blended_random", "trojan_square"),
        description="attacks or groups, see --list; badnets@0.05 has a rate of its own",
        min_length=1,
    )
    poison_rates: Annotated[tuple[PoisonRate, ...], AfterValidator(_different)] = Field(
        (0.1,),
        description="poisoned shares of the training set, in (0, 0.5]; each attack, rate and seed make a scenario",
        min_length=1,
    )
    seeds: Annotated[tuple[Seed, ...], AfterValidator(_different)] = Field(
        (0,), description="seeds of the scenarios, such as 0 1 2 or 0-4", min_length=1
    )
    repeats: int = Field(
        1,
        description="trainings on each scenario's poisoned data, each with seeds of its own: what differs between them "
        "is chance",
        ge=1,
        le=MOST_REPEATS,
    )
    trials: int = Field(
        10, description="trials: configurations to run on every scenario; raising it extends a study", ge=1
    )
    objective: Annotated[str | None, AfterValidator(_objectives)] = Field(
        None,
        description="what is searched for: tpr and fpr (shares of poisoned and of clean samples that are flagged), ca "
        "(clean accuracy), asr, isolation_score (TPR - FPR), defense_score (CA - ASR), overall_score (their mean); "
        "several make a Pareto front: asr:min,ca:max",
    )
    aggregate: Literal["mean", "worst"] = Field(
        "mean", description="of the objective over the scenarios, or its value on the worst"
    )
    per_scenario: bool = Field(False, description="search for the best of each scenario apart, in a study of its own")
    holdout: Literal["attack", "rate", "seed"] | None = Field(
        None,
        description="search without each attack or rate in turn, then test what was chosen on it, with seeds that no "
        "search saw; the sampler is then qmc, random or grid",
    )
    judge_seeds: Annotated[tuple[Seed, ...], AfterValidator(_different)] = Field(
        (), description="seeds of the scenarios that --holdout tests on; by default as many as --seeds, after the last"
    )
    sampler: Literal["tpe", "nsga2", "random", "qmc", "grid"] = Field(
        "tpe", description="tpe and nsga2 search; qmc, random and grid cover the space"
    )
    resolution: dict[str, Annotated[int, AfterValidator(_several)] | tuple[str, ...]] = Field(
        {}, description="how many values the grid takes along a field's range, or which: gamma=3, gamma=0.1,0.5"
    )
    reuse: int | None = Field(
        None,
        description="how many settings of the fields that start a training (rates, gamma ...) are tried: trials share "
        "them, equally often, and draw the other fields freely; for qmc and random. By default each trial has its own",
        ge=1,
    )
    pruner: Literal["none", "asha", "median"] = Field(
        "none", description="stop a trial early that has fallen behind others that had come as far"
    )
    pruner_over: Literal["scenarios", "epochs"] = Field(
        "scenarios",
        description="compare trials after the same number of scenarios, or on all scenarios after the same epochs of "
        "their training, read early: one that is hopeless then is not trained to the end",
    )
    pruner_grace: int | None = Field(
        None,
        description="scenarios that count, or epochs that are trained, before a trial may be stopped; by default 2 "
        "scenarios, or 1 of 2, and an eighth of the training",
        ge=1,
    )
    pruner_factor: float = Field(
        2.0,
        description="asha lets the best 1 in this many go on, at rungs that lie this many times further apart",
        gt=1,
        allow_inf_nan=False,
    )
    search_seed: Seed = Field(0, description="seed of the sampler")
    cpus_per_trial: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = Field(
        None, description="CPU cores a trial; by default as many as --threads"
    )
    gpus_per_trial: Annotated[float, Field(ge=0, allow_inf_nan=False)] | Literal["auto"] | None = Field(
        None,
        description="share of a GPU a trial, such as 0.25; auto measures it; by default a whole one where there is one",
    )
    name: Annotated[str | None, AfterValidator(_name)] = Field(
        None, description="name of the study; by default made from its settings"
    )
    tracking_uri: Annotated[str | None, AfterValidator(_address)] = Field(
        None, description="MLflow server or sqlite:/// file; by default one below --out"
    )
    address: str | None = Field(None, description="Ray cluster to run on: auto or HOST:PORT; by default this machine")
    verbose: int = Field(0, description="a line for each scenario and trial; -vv shows libraries' logs too", ge=0, le=2)

    @model_validator(mode="before")
    @classmethod
    def _holdout_covers(cls, given: Any) -> Any:
        """A search that learns from scenarios cannot hold them out, so holding out has a sampler of its own."""
        if isinstance(given, dict) and given.get("holdout") and "sampler" not in given:
            return {**given, "sampler": "qmc"}
        return given

    @model_validator(mode="before")
    @classmethod
    def _first_space(cls, given: Any) -> Any:
        """Of several spaces the first stands for the study wherever one is asked for."""
        several = given.get("defenses") if isinstance(given, dict) else None
        if isinstance(several, list | tuple) and several and "space" not in given:
            return {**given, "space": several[0]}
        return given

    @property
    def cpus(self) -> float:
        """CPU cores that a trial is given."""
        return float(self.threads) if self.cpus_per_trial is None else self.cpus_per_trial

    @property
    def study_name(self) -> str:
        """The given name, or one that the same settings always get."""
        spaces = f"{len(self.defenses)}-defenses" if self.defenses else self.space
        return self.name or f"{spaces}-{self.preset}-{self.identity[:8]}"

    @property
    def identity(self) -> str:
        """A hash of the settings that make it this study: not how long it runs, where, or with how much.

        An option that came later than the first studies counts only where it is not at its default, so that no new
        option ends a study that is on disk.
        """
        settings = self.model_dump(mode="json", exclude=NOT_IDENTITY)
        for name in settings.keys() - FIRST_OPTIONS:
            if getattr(self, name) == type(self).model_fields[name].get_default(call_default_factory=True):
                del settings[name]
        from defenses.storage.atomic_files import canonical

        return hashlib.sha256(canonical(settings).encode()).hexdigest()


PRESETS: dict[str, dict[str, Any]] = {
    "smoke": {},
    "small": {
        "dataset": "cifar10",
        "train_size": 10_000,
        "test_size": 2_000,
        "blocks": (2, 2, 2, 2),
        "attacks": ("badnets", "blended_random"),
        "poison_rates": (0.05, 0.1),
        "trials": 20,
    },
    "paper": {
        "dataset": "cifar10",
        "width": 64,
        "blocks": (2, 2, 2, 2),
        "attacks": ("pipd_table6",),
        "poison_rates": (0.05,),
        "trials": 50,
    },
}
"""What a preset makes of a study; the smoke preset is the defaults. What it makes of a defense stands in its space."""


def resolve(model: type[M], given: Mapping[str, Any], file: Path | None = None) -> M:
    """The checked configuration: defaults, then the preset, the space, a YAML file, and what was given.

    Raises:
        UserError: an unknown key (with the nearest one), or a value that breaks a rule.
    """
    from_file = read_yaml(file, model) if file else {}
    preset = given.get("preset", from_file.get("preset", "smoke"))
    of_preset = PRESETS.get(preset, {}) if isinstance(preset, str) else {}  # any other is refused below, by the model
    base = {key: value for key, value in of_preset.items() if key in model.model_fields}
    space = given.get("space", from_file.get("space")) if "space" in model.model_fields else None
    of_space = SEARCH_SPACES[space].study if isinstance(space, str) and space in SEARCH_SPACES else {}
    merged = {**base, **of_space}
    for name, value in [*from_file.items(), *given.items()]:  # a field that is set here does not undo one set before
        both = isinstance(value, dict) and isinstance(merged.get(name), dict)
        merged[name] = {**merged[name], **value} if both else value
    try:
        config = model(**merged)
    except ValidationError as error:
        raise UserError(explain(error, model)) from error
    config.model_fields_set.intersection_update([*from_file, *given])  # what preset and space fill in is nobody's wish
    return config


def read_yaml(path: Path, model: type[BaseModel]) -> dict[str, Any]:
    """A YAML file with the options' names as keys (``poison_rates`` or ``poison-rates``).

    Raises:
        UserError: it cannot be read, or holds anything else than known options.
    """
    content = load_plain_yaml(path)
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold 'key: value' lines, got {type(content).__name__}")
    options: dict[str, Any] = {}
    for key, value in content.items():
        name = str(key).replace("-", "_")
        if name in options:
            raise UserError(f"{path} names {name!r} more than once: keep one of the two")
        options[name] = value
    for key in options:
        if key not in model.model_fields:
            raise UserError(f"{path}: unknown option {key!r}: {nearest(key, model.model_fields)}see --help")
    for key, value in options.items():
        if is_tuple(model.model_fields[key].annotation) and not isinstance(value, list):
            options[key] = [value]
    if "set" in options:
        if not isinstance(options["set"], dict):
            raise UserError(f"{path}: --set must be a dictionary such as {{rounds: 5}}, got {options['set']!r}")
        options["set"] = {str(key): _as_text(value) for key, value in options["set"].items()}
    return options


def _as_text(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
