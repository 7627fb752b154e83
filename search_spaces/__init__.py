"""What is searched for each defense: fields of its Config, each with a range and a reason."""

from defenses.registry import Registry
from search_spaces.space import SearchSpace


def _entries(module: str, spaces: dict[str, str]) -> dict[str, tuple[str, str]]:
    """Registry entries of ablations: ``pipd.rounds`` is ``ROUNDS`` of its module."""
    return {name: (f"{module}:{name.partition('.')[2].upper()}", what) for name, what in spaces.items()}


SEARCH_SPACES: Registry[SearchSpace] = Registry(
    "space",
    {
        "pipd": ("search_spaces.pipd:PIPD_SPACE", "PIPD: p, q, beta, K, T, lambda, channel statistic"),
        "pipd_wide": (
            "search_spaces.pipd:PIPD_WIDE_SPACE",
            "pipd and all that decides pre-isolation: read epoch, rate, gamma ...",
        ),
        "pipd_of_three": (
            "search_spaces.pipd:PIPD_OF_THREE_SPACE",
            "pipd on three pre-isolations, and which one is believed",
        ),
        "qt": ("search_spaces.quarantine:QT_SPACE", "Quarantine Training: epsilon, step, ratio, phases, release"),
        "qt_wide": (
            "search_spaces.quarantine:QT_WIDE_SPACE",
            "qt and what its two trainings hang on: read epochs, rates ...",
        ),
        "abl": ("search_spaces.abl:ABL_SPACE", "ABL: r, epochs of unlearning"),
        "abl_wide": ("search_spaces.abl:ABL_WIDE_SPACE", "abl and read epoch, rate, gamma, rate of unlearning"),
        "none": ("search_spaces.none:NONE_SPACE", "NONE: rho, lambda_l, lambda_h, detectors a tap, rounds"),
        "no_defense": ("search_spaces.no_defense:NO_DEFENSE_SPACE", "plain training: nothing to search, one trial"),
        "ac": ("search_spaces.ac:AC_SPACE", "activation clustering: reducer, dims, clusters, rule, share, silhouette"),
        "ss": ("search_spaces.ss:SS_SPACE", "spectral signatures: budget, scope, vectors, score"),
        "asd": ("search_spaces.asd:ASD_SPACE", "ASD: labelled share, weight of the unlabelled loss, the split's rate"),
        "dbd": ("search_spaces.dbd:DBD_SPACE", "DBD: labelled share, weight of the unlabelled loss, warm-up"),
        "asd_wide": ("search_spaces.asd:ASD_WIDE_SPACE", "asd and all phases: epochs, rates, ramp, growth, views ..."),
        "dbd_wide": (
            "search_spaces.dbd:DBD_WIDE_SPACE",
            "dbd and all that makes features and pools: read epoch, rates ...",
        ),
        "scale_up": ("search_spaces.scale_up:SCALE_UP_SPACE", "SCALE-UP: scales, largest scale, noise, threshold"),
        "ibd_psc": ("search_spaces.ibd_psc:IBD_PSC_SPACE", "IBD-PSC: omega, networks, error floor, threshold"),
        "dbalfa": ("search_spaces.dbalfa:DBALFA_SPACE", "DBALFA: tau, layers used, their weights"),
        "dst": ("search_spaces.dst:DST_SPACE", "D-ST: transform, alpha_c, alpha_p, T, lambda_p, columns masked"),
        "dst_wide": (
            "search_spaces.dst:DST_WIDE_SPACE",
            "dst and both networks: read epoch, rates, draws, views, last layer",
        ),
        "cd": ("search_spaces.cd:CD_SPACE", "cognitive distillation: threshold, alpha"),
        "cd_wide": ("search_spaces.cd:CD_WIDE_SPACE", "cd, what moves masks, and how the model is trained"),
        "flare": ("search_spaces.flare:FLARE_SPACE", "FLARE: statistic, smallest cluster, lifetime, depth"),
        **{
            f"{name}_wide": (
                f"search_spaces.undefended_wide:{name.upper()}_WIDE",
                f"{name} and how the undefended model is trained: read epoch, rate, decay, augmentation",
            )
            for name in ("ac", "ss", "none", "flare", "dbalfa", "ibd_psc", "scale_up")
        },
        **_entries(
            "search_spaces.pipd_ablations",
            {
                "pipd.table1": "what is left of each attack (ASR) and of accuracy (CA) after all of PIPD",
                "pipd.table2": "whom PIPD flags (TPR, FPR), attack by attack",
                "pipd.fault_ratio": "does isolation survive benign samples in P_p? uses ground truth",
                "pipd.rounds": "what each further round of isolation adds, at a poison rate of 0.20",
                "pipd.selective_vs_unlearning": "selective training against ABL's unlearning, epoch by epoch",
                "pipd.poison_rate": "does isolation survive higher poison rates?",
                "pipd.clustering": "does it matter how the scores are split?",
                "pipd.channel_statistic": "which attacks show in the spatial maximum, and which in the mean?",
            },
        ),
        **_entries(
            "search_spaces.quarantine_ablations",
            {
                "qt.table1": "how well the filter ranks poison above clean samples (AUROC), attack by attack",
                "qt.table2": "what is left of each attack (ASR) and of accuracy (CA) after all of QT",
                "qt.backdoor_class": "do networks learn poison as a class of its own? uses ground truth",
                "qt.pre_quarantine": "are the pre-quarantine model and its samples needed?",
                "qt.fixed_epsilon": "must epsilon grow slowly, or may it be at its maximum at once?",
                "qt.poison_rate": "who is quarantined, epoch by epoch, at each poison rate",
            },
        ),
    },
)
