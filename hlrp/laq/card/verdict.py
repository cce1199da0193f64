"""Thresholds that a quantizer must pass before its codes are worth training a policy on, and the checks of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from hlrp.laq.card.probe import ProbeResult
from hlrp.laq.metrics import USED_FLOOR, LAQScores

PSNR_GAIN, PROBE_GAIN = 1.0, 0.1
"""dB over copying, and R2 over the frame alone and over a random quantizer, that the gate asks for."""

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


def judge(
    source: str, scores: LAQScores, probes: Probes | None, random: Sequence[Probes], *, unseen: bool | None, why: str
) -> list[Check]:
    """Compare one source's numbers with the gate.

    Args:
        source: Its name.
        scores: Of the quantizer.
        probes: Of the quantizer; None without true actions.
        random: Of random quantizers on the same windows.
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
    return checks + _probe_checks(source, probes, random)


def _probe_checks(source: str, probes: Probes | None, random: Sequence[Probes]) -> list[Check]:
    if probes is None or not random:
        missing = "The true actions could not be probed, so what the codes say of them is not known"
        return [Check("probe", source, None, PROBE_GAIN, None, missing)]
    untrained = fmean(p["codes"].r2 for p in random)
    over_random = probes["codes"].r2 - untrained
    frames = probes["frames"].r2
    over_frames = probes["frames_codes"].r2 - frames
    text = f"Beside the frame, codes add R² {over_frames:+.3f} about the actions (more than {PROBE_GAIN:+g})"
    passed: bool | None = over_frames > PROBE_GAIN
    if not passed and frames > 1 - PROBE_GAIN:
        # Nothing could add 0.1 to 0.95: that speaks of the data, not of the codes.
        passed, text = None, f"{text}; not decided: the frame alone reaches {frames:.3f}"
    return [
        Check(
            "probe_over_random",
            source,
            over_random,
            PROBE_GAIN,
            over_random > PROBE_GAIN,
            f"Codes alone tell R² {probes['codes'].r2:.3f} of the actions, a random quantizer's {untrained:.3f}: "
            f"{over_random:+.3f} (more than {PROBE_GAIN:+g})",
        ),
        Check("probe_over_frames", source, over_frames, PROBE_GAIN, passed, text),
    ]
