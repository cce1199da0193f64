"""A fault found in a dataset: what is wrong, where it is, and what to do about it."""

from typing import NamedTuple, Self

from hlrp.errors import UserError


class Problem(NamedTuple):
    """One fault of a dataset.

    Args:
        message: What is wrong, with both sides where two things disagree.
        where: File, feature or column, with episode and frame where they are known.
        fix: What to do.
        fatal: Whether training on the dataset would fail or give wrong numbers; otherwise it is a warning.
    """

    message: str
    where: str
    fix: str
    fatal: bool = True

    @classmethod
    def of(cls, error: UserError, *, fatal: bool = True) -> Self:
        """What a reader of the dataset refused."""
        return cls(error.what, error.where or "", error.fix or "", fatal)
