"""What to do with a study that ended: commands to copy, each with what it gives."""

import shlex
from dataclasses import dataclass

from search_spaces.space import acting_shares
from study.analysis.results import Results
from study.cli.printed_commands import runnable, shown_path
from study.config.sampling import SPACE_FILLING, least_trials
from study.ledger.pruning import without_pruner
from study.ledger.study_folder import out_words, study_command
from study.report.best_configuration import BEST_YAML


@dataclass(frozen=True)
class Step:
    """One thing to do.

    Attributes:
        what: what it gives, in a few words.
        command: a line to copy, or the place of a file.
    """

    what: str
    command: str


def steps_text(steps: list[Step]) -> str:
    """The steps for a terminal, each command on a line of its own, so that it is copied as it stands."""
    return "\n".join(["Next:", *(f"  {step.what}:\n    {runnable(step.command)}" for step in steps)])


def next_steps(results: Results) -> list[Step]:
    """What there is to do with a study of one ledger, besides its report and MLflow."""
    steps = [Step("what it says about attacks and hyperparameters", study_command("analyze", results.folder))]
    best = results.folder / BEST_YAML
    if best.is_file():
        config = results.config
        store = ["--store", str(config.store)] if config.store is not None else []
        place = [*store, *out_words(results.folder.parent)]
        words = ["python", "-m", "study.evaluate", "--config", shown_path(best), *place]
        steps.append(Step("the best configuration alone; edit the file for another attack", shlex.join(words)))
    return [*steps, *extensions(results)]


def extensions(results: Results) -> list[Step]:
    """How to make the study larger, or able to say which hyperparameters matter."""
    manifest, config, out = results.manifest.whole_study(), results.config, results.folder.parent
    if not results.ranges or config.sampler == "grid" or manifest.given_points:
        return []
    steps = [Step("more trials", manifest.extend_command(out, 2 * max(len(results.complete), config.trials)))]
    if len(results.seeds) == 1 and results.best != results.default:
        seeds = manifest.variant_command(out, seeds=[0, 1, 2])
        steps.append(Step("the same with three seeds, which can tell a gain from chance", seeds))
    if config.sampler not in SPACE_FILLING:
        shares = [share for share in acting_shares(results.ranges).values() if share > 0]
        trials = least_trials(
            len(results.ranges), min(shares, default=1.0), 1 + bool(results.trials["calibrated"].any())
        )
        spread = manifest.variant_command(out, sampler="qmc", trials=trials, **without_pruner())
        steps.append(Step("which hyperparameters matter takes trials all over the space", spread))
    return [step for step in steps if step.command]
