"""What a run's metrics say of how far its policy acts on its codes; see `HLRPPolicy.code_effect`."""

from collections.abc import Iterable, Mapping
from typing import Any

FIGURES = ("code_effect", "code_shift", "action_r2", "action_r2_permuted")

NEAR_ZERO = 0.05
"""Loss of R2 by other samples' codes below which codes hardly count.

On the demo's tasks experts that see the whole observation beside their codes lost 0.00 and 0.02, one that sees codes
and state alone lost 0.87; from about a hundred samples the difference is known to a few hundredths.
"""


def last_code_effect(rows: Iterable[Mapping[str, Any]], step: int | None = None) -> dict[str, Any] | None:
    """The last figures that were logged, with their `step`; None: nothing was measured.

    Args:
        rows: Of `metrics.jsonl`, in order.
        step: Of a checkpoint: later rows are about other weights.
    """
    found = None
    for row in rows:
        if FIGURES[0] in row and (step is None or row.get("step", 0) <= step):
            found = {"step": row.get("step"), **{name: row.get(name) for name in FIGURES}}
    return found


def code_effect_warning(found: Mapping[str, Any]) -> str | None:
    """A sentence for figures of which codes hardly count."""
    own, permuted = found.get("action_r2"), found.get("action_r2_permuted")
    # NaN, of held-out actions that are none, is no finding either.
    if own is None or permuted is None or not own - permuted < NEAR_ZERO:
        return None
    return (
        f"the actions hardly depend on the codes: R2 on held-out data is {own:.2f} with the policy's own and "
        f"{permuted:.2f} with other samples' codes (step {found.get('step')})"
    )


def describe_code_effect(found: Mapping[str, Any]) -> str:
    """The figures in one line."""
    own, permuted, effect, shift = (
        "nan" if found.get(name) is None else f"{found[name]:.2f}"
        for name in ("action_r2", "action_r2_permuted", "code_effect", "code_shift")
    )
    return (
        f"R2 of the actions on held-out data {own}, with other samples' codes {permuted} "
        f"(loss {effect} higher, actions moved by {shift} of their spread; step {found.get('step')})"
    )
