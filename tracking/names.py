"""Every metric, parameter, tag and artifact name, once."""

# Metrics of a scenario. A trial carries the same names put together over its scenarios.
TPR = "tpr"
FPR = "fpr"
FPR_COVERS_EXCLUDED = "fpr_covers_excluded"
TPR_COVERS_POISON = "tpr_covers_poison"
AUROC = "auroc"
AUROC_FLAGS = "auroc_flags"
FLAGGED_SHARE = "flagged_share"
CA = "ca"
CA_FOLDED = "ca_folded"
CLEAN_QUARANTINED = "clean_quarantined"
ASR = "asr"
CA_UNDEFENDED = "ca_undefended"
ASR_UNDEFENDED = "asr_undefended"

FPR_CLEAN = "fpr_clean"  # of a trial: the flagged share of the same data unpoisoned, the mean over seeds

HEADLINE = (TPR, FPR, AUROC, CA, ASR)
"""What every configuration is judged by first: how it flags, then what its model does."""

ISOLATION_SCORE = "isolation_score"  # TPR - FPR
DEFENSE_SCORE = "defense_score"  # CA - ASR
OVERALL_SCORE = "overall_score"  # mean of the two
SCORES = (ISOLATION_SCORE, DEFENSE_SCORE, OVERALL_SCORE)
OBJECTIVE = "objective"
OBJECTIVE_SO_FAR = "objective_so_far"  # over the scenarios judged up to a step


def objective(metric: str) -> str:
    """One of several objectives among a trial's metrics."""
    return f"{OBJECTIVE}/{metric}"


SIGNAL = "signal/"


def signal(name: str) -> str:
    """A signal of `defenses.signals` among a scenario's metrics: what needs no ground truth."""
    return SIGNAL + name


def run_key(kind: str, study: str, identity: str, *parts: str) -> str:
    """Key of a run of a study. Studies that share a database, and even a name, must not share runs.

    Args:
        kind: as `TAG_KIND` has it: study, trial or scenario.
        identity: a hash of the settings that make the study.
        parts: which trial of it, and which scenario of that.
    """
    return "/".join((kind, study, identity[:12], *parts))


def as_note(text: str) -> str:
    """Text as a run's description, which MLflow renders as markdown: a block in which nothing is markup."""
    return "```\n" + text.replace("```", "'''") + "\n```"


METRICS = (
    TPR,
    FPR,
    AUROC,
    AUROC_FLAGS,
    FLAGGED_SHARE,
    FPR_COVERS_EXCLUDED,
    TPR_COVERS_POISON,
    CA,
    CA_FOLDED,
    CLEAN_QUARANTINED,
    ASR,
    CA_UNDEFENDED,
    ASR_UNDEFENDED,
)
"""What one scenario is judged by; `study.scenarios.metrics` defines each."""

COMPUTED_ON = "computed_on"  # a scenario's parameter: processor or GPU, threads and torch, which decide sums

COST_BUILT = "cost/built_seconds"  # what the stages took when they were built: the method's honest cost
COST_WALL = "cost/wall_seconds"  # what this run spent
COST_HITS = "cost/stages_from_store"
COST_EPOCHS_BUILT = "cost/built_epochs"  # the same in epoch-equivalents, of the defense's own stages alone
COST_EPOCHS_SPENT = "cost/spent_epochs"
COST_DEFENSE_BUILT = "cost/defense_built_seconds"
COST_DEFENSE_SPENT = "cost/defense_spent_seconds"

_READ = {*HEADLINE, FPR_CLEAN, *SCORES, OBJECTIVE, OBJECTIVE_SO_FAR}
_ASIDE = "system/"


def in_mlflow(metric: str, *objectives: str) -> str:
    """A metric's name in MLflow, whose pages show what people read first.

    MLflow makes a section of charts of each prefix and sorts them before the metrics that have none; only what begins
    with ``system/`` comes behind them, in a section and on a page of its own. So all that is not a headline metric, a
    score or an objective begins with it: ``system/cost.built_seconds``, ``system/signal.loss_gap``.

    Args:
        metric: as it is called everywhere else.
        objectives: metrics that the study searches for.
    """
    return metric if metric in _READ or metric in objectives else _ASIDE + metric.replace("/", ".")


# Tags.
TAG_RUN_KEY = "study.run_key"
TAG_RUN_HASH = "study.run_hash"  # of the key, to look a run up by
TAG_KIND = "study.kind"  # study, trial or scenario
TAG_STUDY = "study.name"
TAG_SETTING = "study.setting."  # and the setting's name: what may change when a study goes on
TAG_CODE = "study.code_version"
TAG_DATASET = "study.dataset"
TAG_FINGERPRINT = "study.dataset_fingerprint"
TAG_STAGES = "study.stage_keys"
TAG_HITS = "study.stage_hits"
TAG_ATTACK_FAILED = "study.attack_failed"
TAG_REPEAT = "study.repeat"  # of a scenario, where there are several: which training on the same poisoned data
TAG_PAPER_DEFAULT = "study.paper_default"
TAG_STOPPED_EARLY = "study.stopped_early"
TAG_BEST = "study.best"
TAG_PARENT = "mlflow.parentRunId"
TAG_NAME = "mlflow.runName"
TAG_NOTE = "mlflow.note.content"
TAG_SOURCE = "mlflow.source.name"
TAG_SOURCE_TYPE = "mlflow.source.type"
TAG_USER = "mlflow.user"
TAG_VIEW = "mlflow.sharedViewState."  # of an experiment, and the view's key: what its UI offers under Views
TAG_EXPERIMENT_KIND = "mlflow.experimentKind"
MODEL_TRAINING = "custom_model_development"  # runs and metrics first, not prompts and traces; see `tracking.ui_address`

# Artifacts, as paths within a run.
FLAGGED_CSV = "flags/flagged.csv"
SCORES_NPZ = "flags/scores.npz"
HISTOGRAM_PNG = "plots/score_histogram.png"
ROC_PNG = "plots/roc.png"
PREVIEW_PNG = "attack/preview.png"
CONFIG_YAML = "config.yaml"
RESULTS_CSV = "results.csv"
SUMMARY_TXT = "summary.txt"
REPORT_HTML = "report.html"
BEST = "best"  # and the scenario's name: the flags of the best trial
FIGURES = "figures"
