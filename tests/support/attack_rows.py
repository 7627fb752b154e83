"""The table of attacks that tests go through: a new attack needs one row here.

A row holds options that make what the attack trains tiny, how its trigger at test differs from the one in training, and
the decibels that it must lie between.
"""

from dataclasses import dataclass

SURROGATE = "surrogate_width=4:surrogate_blocks=1,1:surrogate_epochs=1:surrogate_adversarial_steps=0"
DYNAMIC = "widths=4,8:batch_size=32:mask_epochs=1:joint_epochs=1:classifier_width=4:classifier_blocks=1,1"


@dataclass(frozen=True)
class Row:
    """How an attack is tested.

    Attributes:
        options: make trained parts tiny.
        at_test: the trigger of test images: ``same`` as in training on the same image, or ``other``.
        psnr: of poisoned images against clean ones on images like CIFAR-10's, in dB; None where it depends on training.
    """

    options: str = ""
    at_test: str = "same"
    psnr: tuple[float, float] | None = None


ATTACK_ROWS = {
    "badnets": Row(psnr=(24.9, 26.3)),
    "badnets_all_to_all": Row(psnr=(24.9, 26.3)),
    "trojan_square": Row(psnr=(20.4, 22.4)),
    "trojan_watermark": Row(psnr=(12.0, 30.0)),
    "trojan_inversion": Row(f"{SURROGATE}:inversion_steps=5:probe_steps=2:candidates=4"),
    "blended_random": Row(psnr=(21.9, 22.9)),
    "blended_image": Row(psnr=(20.6, 22.6)),
    "sig": Row(psnr=(21.5, 22.1)),
    "label_consistent": Row(f"{SURROGATE}:steps=3", "other"),
    "dynamic": Row(DYNAMIC),
    "wanet": Row(psnr=(29.0, 40.0)),
    "refool": Row(at_test="other", psnr=(20.0, 28.0)),
    "adaptive_blend": Row(at_test="other", psnr=(26.1, 28.1)),
    "adaptive_patch": Row(at_test="other", psnr=(25.0, 34.0)),
    "issba": Row("width=4:steps=20:ramp_steps=5:hold_steps=1:batch_size=16"),
}


def text_of(name: str) -> str:
    return f"{name}:{options}" if (options := ATTACK_ROWS[name].options) else name
