"""What a defender does: training-time defenses against data-poisoning backdoors. Knows images and labels only."""

from typing import TYPE_CHECKING, Any

from defenses.registry import Registry

if TYPE_CHECKING:
    from defenses.api import Defense
    from defenses.in_memory import run_defense_on

__all__ = ["DEFENSES", "run_defense_on"]

DEFENSES: "Registry[type[Defense]]" = Registry(
    "defense",
    {
        "no_defense": ("defenses.methods.no_defense:NoDefense", "plain training on the data as received"),
        "pipd": ("defenses.methods.pipd.pipd:PIPD", "progressive isolation of poisoned data (Chen et al., AAAI 2024)"),
        "pipd_of_three": (
            "defenses.methods.pipd.of_three:PIPDOfThree",
            "PIPD on three pre-isolations, of which one is believed by what it flags (ours)",
        ),
        "pipd_cleaning": (
            "defenses.methods.pipd.cleaning:PIPDCleaning",
            "PIPD, cleaned by selective training or by ABL's unlearning (PIPD, Fig. 5)",
        ),
        "abl": ("defenses.methods.abl:ABL", "anti-backdoor learning: isolate, then unlearn (Li et al., NeurIPS 2021)"),
        "none": (
            "defenses.methods.none:NONE",
            "NONE: reset the channels of a backdoor, drop what fires them (Wang et al., NeurIPS 2022)",
        ),
        "qt": (
            "defenses.methods.quarantine:QuarantineTraining",
            "Quarantine Training (Yu and Zhang, IEEE Access 2024)",
        ),
        "ac": ("defenses.methods.ac:ActivationClustering", "activation clustering (Chen et al., SafeAI 2019)"),
        "ss": ("defenses.methods.ss:SpectralSignatures", "spectral signatures (Tran et al., NeurIPS 2018)"),
        "asd": ("defenses.methods.asd:ASD", "adaptively splitting the poisoned set (Gao et al., CVPR 2023)"),
        "dbd": ("defenses.methods.dbd:DBD", "decoupling the training process (Huang et al., ICLR 2022)"),
        "scale_up": ("defenses.methods.scale_up:ScaleUp", "scaled prediction consistency (Guo et al., ICLR 2023)"),
        "ibd_psc": (
            "defenses.methods.ibd_psc:IBDPSC",
            "consistency under amplified parameters (Hou et al., ICML 2024)",
        ),
        "dbalfa": (
            "defenses.methods.dbalfa:DBALFA",
            "similarity to clean images in some layers (Jebreel et al., 2023)",
        ),
        "dst": ("defenses.methods.dst:DST", "D-ST: transforms tell poison, few labels are trusted (Chen et al., 2022)"),
        "cd": ("defenses.methods.cd:CognitiveDistillation", "cognitive distillation, CD-L (Huang et al., ICLR 2023)"),
        "flare": ("defenses.methods.flare:FLARE", "FLARE: clusters of how unlikely layers find a sample (TIFS 2025)"),
    },
)


def __getattr__(name: str) -> Any:
    """`run_defense_on` when it is asked for: it loads torch, which names and their descriptions do without.

    Raises:
        AttributeError: there is no such name.
    """
    if name != "run_defense_on":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from defenses.in_memory import run_defense_on

    return run_defense_on
