"""Which policies LeRobot knows here, with their fields: read once per installation, then from a cache."""

import contextlib
import dataclasses
import difflib
import hashlib
import importlib
import importlib.util
import json
import math
import os
import re
import types
import typing
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from hlrp.aliases import policy_aliases
from hlrp.errors import UserError, suggest
from hlrp.files import write_json

PLUGIN_PREFIX = "lerobot_policy_"
_PRIMITIVES = {int: "int", float: "float", bool: "bool", str: "str", type(None): "null"}


@dataclasses.dataclass(frozen=True)
class FieldInfo:
    """One field of a policy's configuration class.

    Args:
        type: The annotation as text.
        default: The default as text; empty for a required field.
        kinds: Accepted primitives (`int`, `float`, `bool`, `str`, `null`), or empty where the type is richer.
    """

    type: str
    default: str
    kinds: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class PolicyInfo:
    """One registered policy: its name, configuration class, where that lives, and its fields."""

    name: str
    config_class: str
    module: str
    distribution: str
    fields: dict[str, FieldInfo]


@dataclasses.dataclass(frozen=True)
class Catalog:
    """Registered policies by name; plugins that failed to import, with the error; plugins whose name LeRobot skips."""

    policies: dict[str, PolicyInfo]
    failed: dict[str, str]
    skipped: list[str]

    def policy(self, name: str) -> PolicyInfo:
        """The policy of that name.

        Raises:
            UserError: No such policy is registered.
        """
        if name not in self.policies:
            broken = "; ".join(f"plugin {k} failed to import: {v}" for k, v in self.failed.items())
            raise UserError(
                f"unknown policy {name!r}" + (f" ({broken})" if broken else ""),
                where="--policy / model.policy_type",
                fix=suggest(name, self.policies) + " `hlrp policies` lists them",
            )
        return self.policies[name]

    def check_fields(self, name: str, fields: dict[str, Any]) -> None:
        """Check names, primitive types and ranges of policy fields; LeRobot's own class checks the rest later.

        Raises:
            UserError: Naming every field that is unknown, of a wrong type, or of a size that nothing can have.
        """
        known = self.policy(name).fields
        problems = []
        for key, value in fields.items():
            if key not in known:
                problems.append(f"policy {name!r} has no field {key!r}; {_suggest_field(name, key, known)}")
            elif known[key].kinds and not _fits(value, known[key].kinds):
                problems.append(
                    f"model.{key} = {value!r}: LeRobot's {self.policies[name].config_class} takes {known[key].type}"
                )
            elif (least := _out_of_range(key, value, known[key])) is not None:
                problems.append(f"model.{key} = {value!r}: it must be {least}")
        if problems:
            raise UserError("; ".join(problems), where="model", fix=f"`hlrp policies {name}` lists its fields")


def _suggest_field(policy: str, key: str, known: Mapping[str, FieldInfo]) -> str:
    """Close names of fields and their aliases; else the fields alone."""
    names = [*known, *policy_aliases(policy)]
    return suggest(key, names if difflib.get_close_matches(key, names) else known)


def _fits(value: Any, kinds: tuple[str, ...]) -> bool:
    if value is None:
        return "null" in kinds
    if isinstance(value, bool):
        return "bool" in kinds
    if isinstance(value, int):
        return "int" in kinds or "float" in kinds
    if isinstance(value, float):
        return "float" in kinds
    return "str" in kinds if isinstance(value, str) else False


# Sizes and counts of which there is at least one; of others, such as layers or warm-up steps, there may be none.
_AT_LEAST_ONE = re.compile(
    r"(.*_)?(chunk_size|horizon|hidden_size|block_size|batch_size|kernel_size|dim|width|n_embed|n_heads?|num_heads)"
    r"|n_obs_steps|n_action_steps|n_action_repeats|n_groups|dim_\w+|num_frames|action_per_frame"
    r"|num_(train_timesteps|inference_steps|inference_timesteps|denois\w+_steps|steps|flow_timesteps)"
    r"|(.*_)?max_len(gth)?|max_text_tokens|height|in_channels|out_channels"
)
# Here a negative number means the last, or all.
_MAY_BE_NEGATIVE = re.compile(r"num_vlm_layers|tune_top_llm_layers|\w+_index|\w*seed")
_POSITIVE = re.compile(r"optimizer_lr|optimizer_eps")
_NOT_NEGATIVE = re.compile(r"optimizer_\w*(lr|lr_\w+|weight_decay|grad_clip_norm)|\w*dropout|kl_weight|\w+_weight")


def _out_of_range(key: str, value: Any, field: FieldInfo) -> str | None:
    """What a number must be, as words, where it is a size or rate that nothing can have; else None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if not math.isfinite(value):
        return "finite"
    rate, negative = "float" in field.kinds, field.default.startswith("-") or _MAY_BE_NEGATIVE.fullmatch(key)
    rules = (
        ("greater than 0", rate and value <= 0 and _POSITIVE.fullmatch(key)),
        ("at most 1", rate and value > 1 and "dropout" in key),
        ("at least 1", not rate and value < 1 and not negative and _AT_LEAST_ONE.fullmatch(key)),
        ("at least 0", value < 0 and (_NOT_NEGATIVE.fullmatch(key) if rate else not negative)),
    )
    return next((words for words, broken in rules if broken), None)


def _plugins() -> tuple[list[metadata.Distribution], list[str]]:
    found, skipped = {}, []
    for distribution in metadata.distributions():
        name = distribution.metadata.get("Name") or ""
        if name.startswith(PLUGIN_PREFIX):
            found[name] = distribution
        elif name.lower().startswith(PLUGIN_PREFIX.replace("_", "-")):
            skipped.append(name)
    return [found[k] for k in sorted(found)], sorted(set(skipped))


def _key() -> str:
    parts = [metadata.version("lerobot"), "2"]
    plugins, skipped = _plugins()
    for plugin in plugins:
        name = plugin.metadata["Name"]
        spec = importlib.util.find_spec(name)
        folder = Path(spec.origin).parent if spec and spec.origin else None
        stamps = [p.stat().st_mtime_ns for p in sorted(folder.rglob("*.py"))] if folder else []
        parts += [name, plugin.version, str(folder), *map(str, stamps)]
    return hashlib.sha256("\n".join(parts + skipped).encode()).hexdigest()[:16]


def cache_folder() -> Path:
    """The platform's cache folder of this tool (`HLRP_CACHE` overrides it)."""
    import platformdirs

    return Path(os.environ.get("HLRP_CACHE") or platformdirs.user_cache_dir("hlrp"))


def policy_catalog(*, refresh: bool = False) -> Catalog:
    """Every policy LeRobot has registered here. The first call of an installation imports LeRobot (10 to 20 s)."""
    cached = None if refresh else cached_catalog()
    return cached or build_catalog()


def cached_catalog() -> Catalog | None:
    """The catalog of an earlier call, if the installation has not changed since."""
    path = cache_folder() / f"policies-{_key()}.json"
    try:
        raw = json.loads(path.read_text(encoding="utf8"))
        policies = {}
        for name, info in raw["policies"].items():
            fields = {k: FieldInfo(f["type"], f["default"], tuple(f["kinds"])) for k, f in info.pop("fields").items()}
            policies[name] = PolicyInfo(**info, fields=fields)
        return Catalog(policies, raw["failed"], raw["skipped"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def build_catalog() -> Catalog:
    """Import LeRobot and every plugin, list what they registered, and cache it."""
    import lerobot.policies  # noqa: F401 - importing registers LeRobot's own policies
    from lerobot.configs.policies import PreTrainedConfig

    plugins, skipped = _plugins()
    failed = {}
    for plugin in plugins:
        name = plugin.metadata["Name"]
        try:
            importlib.import_module(name)
        except Exception as error:
            failed[name] = f"{type(error).__name__}: {error}"
    # Reads the list of files of every installed package: seconds.
    owners = metadata.packages_distributions()
    policies = {k: _describe(k, c, owners) for k, c in sorted(PreTrainedConfig.get_known_choices().items())}
    catalog = Catalog(policies, failed, skipped)
    if not failed:
        # Without a cache the next call takes as long as this one; nothing else depends on it.
        with contextlib.suppress(OSError):
            folder = cache_folder()
            folder.mkdir(parents=True, exist_ok=True)
            write_json(folder / f"policies-{_key()}.json", dataclasses.asdict(catalog))
    return catalog


def _describe(name: str, config_class: type, owners: Mapping[str, list[str]]) -> PolicyInfo:
    top = config_class.__module__.partition(".")[0]
    distributions = owners.get(top, [top])
    try:
        hints = typing.get_type_hints(config_class)
    except Exception:
        hints = {}
    fields = {}
    for field in dataclasses.fields(config_class):
        hint = hints.get(field.name, field.type)
        text = (
            hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint).replace("typing.", "")
        )
        fields[field.name] = FieldInfo(text, _default_text(field), _kinds(hint))
    return PolicyInfo(name, config_class.__name__, config_class.__module__, distributions[0], fields)


def _default_text(field: dataclasses.Field[Any]) -> str:
    if field.default is not dataclasses.MISSING:
        return repr(field.default)
    if field.default_factory is not dataclasses.MISSING:
        return repr(field.default_factory())
    return ""


def _kinds(hint: Any) -> tuple[str, ...]:
    options = (
        typing.get_args(hint)
        if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union
        else (hint,)
    )
    if all(o in _PRIMITIVES for o in options):
        return tuple(_PRIMITIVES[o] for o in options)
    return ()
