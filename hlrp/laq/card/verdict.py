"""Thresholds that a quantizer must pass before its codes are worth training a policy on, and the checks of them."""

from collections.abc import Sequence
from dataclasses import dataclass

from hlrp.laq.card.label_curve import CHANGES, FRAMES, RANDOM, VECTORS, LabelCurve, advantage
from hlrp.laq.card.probe import ProbeResult
from hlrp.laq.metrics import USED_FLOOR, LAQScores

PSNR_GAIN, LABEL_GAIN = 1.0, 0.05
"""dB over copying, and R2 over the frame alone and over a random quantizer with few labels, that the gate asks for."""

Probes = dict[str, ProbeResult]


@dataclass(frozen=True)
class Check:
    """One condition of the gate on one source.

    Args:
        name: Stable name for programs.
        source: The source's name.
        value: What was measured; None if it could not be.
        threshold: What it is compared with.
        passed: None: not decided.
        text: The same for people, one sentence.
    """

    name: str
    source: str
    value: float | None
    threshold: float
    passed: bool | None
    text: str


def overall(checks: Sequence[Check]) -> bool | None:
    """Whether the gate is passed: False if any condition fails, None if any is undecided."""
    if any(check.passed is False for check in checks):
        return False
    return None if any(check.passed is None for check in checks) else True


def judge(source: str, scores: LAQScores, labels: LabelCurve | None, *, unseen: bool | None, why: str) -> list[Check]:
    """Compare one source's numbers with the gate.

    Args:
        source: Its name.
        scores: Of the quantizer.
        labels: What is told of actions with few labelled episodes; None without true actions.
        unseen: Whether no episode was trained on; None: not known.
        why: How the episodes were chosen.
    """

    def check(name: str, value: float, threshold: float, text: str, *, above: bool = False) -> Check:
        known = value == value  # noqa: PLR0124 - false for nan alone
        passed = (value > threshold if above else value >= threshold) if known else None
        return Check(name, source, value if known else None, threshold, passed, text)

    weakest = min(scores.used_share)
    checks = [
        Check("held_out", source, None if unseen is None else float(unseen), 1.0, unseen, f"Episodes: {why}."),
        check(
            "codes_used",
            weakest,
            USED_FLOOR,
            f"{weakest:.0%} of the codes are in use at the weakest position (at least {USED_FLOOR:.0%})",
        ),
        check(
            "psnr_gain",
            scores.psnr_gain,
            PSNR_GAIN,
            f"Moving pixels are predicted {scores.psnr_gain:+.2f} dB better than by copying the frame "
            f"(at least {PSNR_GAIN:+g} dB)",
        ),
        check(
            "permutation_gap",
            scores.permutation_gap,
            0.0,
            f"The codes of another pair predict {scores.permutation_gap:.2f} dB worse (more than 0)",
            above=True,
        ),
    ]
    return checks + _label_checks(source, labels)


def _label_checks(source: str, labels: LabelCurve | None) -> list[Check]:
    """What latents tell of actions with few labelled episodes, beside what needs no training."""
    checks = []
    for name, rival, words in (
        ("labels_over_random", RANDOM, "a random quantizer's"),
        ("labels_over_frame", FRAMES, "the frame alone"),
    ):
        found = advantage(labels or {}, rival)
        if labels is None or found is None:
            missing = f"How latents tell actions with few labelled episodes, beside {words}, could not be measured"
            checks.append(Check(name, source, None, LABEL_GAIN, None, missing))
            continue
        count, gain = found
        ours, theirs, moving = (labels[key][count].mean for key in (VECTORS, rival, CHANGES))
        text = (
            f"With {count} labelled episode{'s' if count > 1 else ''} a task latents tell R² {ours:.2f} of the others' "
            f"actions, {words} {theirs:.2f}: {gain:+.2f} (more than {LABEL_GAIN:+g}; pixel differences {moving:.2f})"
        )
        checks.append(Check(name, source, gain, LABEL_GAIN, gain > LABEL_GAIN, text))
    return checks
