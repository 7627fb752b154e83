"""What `python -m study.clean` is told, and the options of the studies that it runs."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from defenses.registry import UserError
from defenses.storage.remote import is_url
from study.cli.options import explain, option_name
from study.cli.paths import expand_home
from study.config.config import OUT, Seed
from study.config.typed import typed

STUDIES = "studies"
"""Folder of the studies, in that of the results."""
_NOT_WITH_APPLY = (
    *("defense", "from_study", "seeds", "agreement", "canaries", "plantings", "dry_run"),
    "defended_model",
)
OF_STUDIES = (
    *("set", "model", "width", "blocks", "precision", "threads", "cpus_per_trial", "gpus_per_trial", "step"),
    *("address", "tracking_uri", "verbose"),
)
"""Options of `study.run` that are handed on to the studies as they are."""

OPTION_GROUPS = {
    "the usual options": ("out", "defense", "from_study", "seeds", "preset", "dry_run"),
    "what is done with the answer": ("apply", "retrain", "defended_model", "copy_files", "agreement"),
    "how far to trust it": ("canaries", "canary_limit", "plantings"),
    "how the data are read": ("image_size", "image_column", "label_column", "store"),
}
"""Heading -> options of our own, in the order of ``--help``."""


def _different(values: tuple[Any, ...]) -> tuple[Any, ...]:
    twice = [value for position, value in enumerate(values) if value in values[:position]]
    if twice:
        raise ValueError(f"each value is given once, and {twice[0]} is there more than once: leave it out")
    return values


class CleanConfig(BaseModel):
    """Options of `python -m study.clean`; see `OF_STUDIES` for those that `study.run` has as well."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: Path = Field(description="the dataset: a folder or a file")
    out: Path = Field(description="folder for everything that is written")
    defense: Annotated[tuple[str, ...], AfterValidator(_different)] = Field(
        (), description="methods that look for poison, as study.run --list names them; several vote [pipd]"
    )
    from_study: str | None = Field(
        None,
        description="take the settings from a study: NAME for the best trial by its objective, or NAME:7",
    )
    seeds: Annotated[tuple[Seed, ...], AfterValidator(_different)] = Field(
        (0, 1, 2), description="each method runs once with each seed", min_length=1
    )
    agreement: float = Field(
        0.5,
        description="more than this share of all runs flags an image; 1 asks for all, 0 for any",
        ge=0,
        le=1,
    )
    preset: Literal["smoke", "small", "paper"] | None = Field(
        None,
        description="scale of networks and epochs; by default paper on a GPU, else smoke for up to 2,000 images and "
        "small for more",
    )
    image_size: int | None = Field(
        None, description="px that images are brought to; by default one that suits the data", ge=8, le=1024
    )
    image_column: str | None = Field(None, description="column with the images, of a table; by default found by type")
    label_column: str | None = Field(None, description="column with the labels, of a table; by default found by type")
    canaries: Literal["auto", "run", "none"] = Field(
        "auto",
        description="plant known attacks into copies of the data, to see what would have been found; auto leaves them "
        "out where they would take longer than --canary-limit",
    )
    canary_limit: float = Field(60.0, description="minutes that --canaries auto may take", gt=0, allow_inf_nan=False)
    plantings: int | None = Field(
        None,
        description="how often each known attack is planted, each time with another seed of --seeds and class; by "
        "default once with each seed, or as often as --canary-limit allows",
        ge=1,
    )
    copy_files: bool = Field(False, description="copy what is kept into the cleaned set, instead of linking it")
    retrain: bool = Field(False, description="train a model on what is kept, and write it as model.safetensors")
    defended_model: bool = Field(
        False,
        description="have the method train the model that it defends, on all of the data and by its own means, and "
        "write it as model.safetensors",
    )
    apply: Path | None = Field(None, description="make the cleaned set anew from an edited decisions.csv")
    dry_run: bool = Field(False, description="say what was read, what would be trained and how long it takes, and stop")
    store: Path | str | None = Field(
        None, description=f"folder or URL for what can be used again; by default {OUT / 'store'}, as in other commands"
    )

    @field_validator("*", mode="before")
    @classmethod
    def _typed(cls, value: Any, info: ValidationInfo) -> Any:
        """Text is read by our rule, as in `study.config.config`."""
        return typed(value, cls.model_fields[str(info.field_name)].annotation)

    @property
    def folder(self) -> Path:
        """Where everything is written, absolute."""
        return expand_home(self.out).resolve()

    @property
    def store_place(self) -> Path | str:
        """The store's folder, absolute, or its URL."""
        if is_url(self.store):
            return str(self.store)
        return expand_home(Path(self.store or OUT / "store")).resolve()


def parse_clean(given: dict[str, Any]) -> CleanConfig:
    """The checked options.

    Raises:
        UserError: one is missing, unknown, or breaks a rule.
    """
    for name, text in (("data", "DATA"), ("out", "--out DIR")):
        if given.get(name) is None:
            raise UserError(f"the dataset and a folder for the results must be named, and {text} is not: see --help")
    try:
        config = CleanConfig(**given)
    except ValidationError as error:
        raise UserError(explain(error, CleanConfig)) from error
    _check_all_act(config)
    return config


def _check_all_act(config: CleanConfig) -> None:
    """Refuses options that would change nothing beside others that were given.

    Raises:
        UserError: there is one.
    """
    given = config.model_fields_set
    if config.apply is not None:
        for name in _NOT_WITH_APPLY:
            if name in given and getattr(config, name) != CleanConfig.model_fields[name].default:
                raise UserError(
                    f"--apply takes the decisions as they are and looks for nothing, so {option_name(name)} changes "
                    "nothing: leave it out"
                )
    if config.retrain and config.defended_model:
        raise UserError(
            "--retrain and --defended-model both write model.safetensors, the one of a model trained on what is kept, "
            "the other of the method's own: leave one of the two out"
        )
    if config.defended_model and len(config.defense) > 1:
        raise UserError(
            f"--defended-model is the model of one method, and --defense names {' '.join(config.defense)}: name one, "
            "or take --retrain for a model trained on what all of them keep"
        )
    if config.preset is not None and config.apply is not None and not config.retrain:
        raise UserError("--preset changes nothing with --apply, unless --retrain trains a model: leave one out")
    if "canary_limit" in given and config.canaries != "auto":
        raise UserError(f"--canary-limit changes nothing with --canaries {config.canaries}: leave one of the two out")
    if config.plantings is not None and config.plantings > len(config.seeds):
        raise UserError(
            f"--plantings must be at most {len(config.seeds)}, since each has one of --seeds, got {config.plantings}: "
            "lower it, or name more seeds"
        )


def choose_preset(config: CleanConfig, samples: int, gpu: bool) -> tuple[str, str]:
    """The preset of the studies, and why, in words.

    Args:
        samples: that are looked through.
        gpu: the studies train on a GPU.
    """
    if config.preset is not None:
        return config.preset, f"preset {config.preset}, as asked for"
    if gpu:
        return "paper", "preset paper, since there is a GPU"
    if samples <= 2000:
        return "smoke", f"preset smoke, since there are only {samples:,} images and no GPU"
    return "small", f"preset small, since there are {samples:,} images and no GPU"
