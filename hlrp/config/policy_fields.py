"""Checking a policy's fields against the policy's own LeRobot configuration class, before anything starts."""

from collections.abc import Mapping
from typing import Any, Protocol

from hlrp.config.aliases import policy_aliases, resolve_policy_aliases
from hlrp.errors import UserError, suggest


class Field(Protocol):
    """A field of a policy's configuration class."""

    type: str
    default: str


class Policy(Protocol):
    """A registered policy."""

    @property
    def fields(self) -> Mapping[str, Any]:
        """Field name -> description."""
        ...


def check_policy_fields(policy_type: str, fields: Mapping[str, Any], catalog: Mapping[str, Policy]) -> dict[str, Any]:
    """Return the fields under LeRobot's names, after checking that the policy and all of them exist.

    Args:
        policy_type: Name of the policy.
        fields: Fields as given, aliases allowed.
        catalog: Every registered policy by name (``hlrp.compat.policy_catalog()``).

    Raises:
        UserError: No such policy, no such field, or a plain number, text or truth value of the wrong type.
    """
    if policy_type not in catalog:
        raise UserError(
            f"unknown policy {policy_type!r}", where="model.policy_type", fix=suggest(policy_type, catalog, limit=40)
        )
    known = catalog[policy_type].fields
    resolved = resolve_policy_aliases(policy_type, fields)
    for name, value in resolved.items():
        if name not in known:
            aliases = [alias for alias, target in policy_aliases(policy_type).items() if target in known]
            raise UserError(
                f"policy {policy_type!r} has no field {name!r}",
                where=f"model.{name}",
                fix=suggest(name, [*known, *aliases], limit=40),
            )
        declared = str(known[name].type)
        if not _fits(declared, value):
            raise UserError(
                f"field {name!r} of policy {policy_type!r} must be {declared}, got {value!r}",
                where=f"model.{name}",
                fix=f"the policy's default is {known[name].default}",
            )
    return resolved


_PLAIN: dict[str, tuple[type, ...]] = {"int": (int,), "float": (int, float), "bool": (bool,), "str": (str,)}


def _fits(declared: str, value: Any) -> bool:
    """Say whether a value can be of the declared type; types beyond plain ones are left to LeRobot."""
    names = [name.strip() for name in declared.split("|")]
    if not all(name in _PLAIN or name == "None" for name in names):
        return True
    if value is None:
        return "None" in names
    if isinstance(value, bool):
        return "bool" in names
    return any(isinstance(value, _PLAIN[name]) for name in names if name != "None")
