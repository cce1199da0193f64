"""Loading the policy of an evaluation as `lerobot-eval` does, refusing one that does not fit its environment."""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from hlrp.camera_names import rename_pairs, with_only_camera
from hlrp.compat import LANGUAGE_POLICIES, without_unused_packages
from hlrp.errors import UserError, suggest
from hlrp.evaluation.environment import without_prints
from hlrp.files import sha256_of
from hlrp.runs.checkpoints import resolve_pretrained, safetensors_header
from hlrp.runtime.manifest import Manifest

PREPROCESSOR = "policy_preprocessor.json"


@dataclass
class LoadedPolicy:
    """A policy ready to act: LeRobot's policy, its configuration, both processors, and what to know about the load."""

    policy: Any
    config: Any
    preprocessor: Any
    postprocessor: Any
    warnings: list[str] = field(default_factory=list)


def without_packages_unused_by(*policies: Path) -> None:
    """Have LeRobot, which is not imported yet, leave out what none of these policies uses: the process runs no others.

    Args:
        policies: Runs, checkpoints or `pretrained_model` folders; what is none is somebody else's to refuse.
    """
    types = []
    for path in policies:
        try:
            folder = resolve_pretrained(path.absolute())
            policy_type = json.loads((folder / "config.json").read_text(encoding="utf8"))["type"]
            steps = (folder / PREPROCESSOR).read_text(encoding="utf8")
        except (UserError, OSError, ValueError, KeyError):
            return
        # Adapters need one of the packages, and a tokenizer another, whatever the policy itself uses.
        if (folder / "adapter_config.json").exists() or ("tokenizer" in steps and policy_type not in LANGUAGE_POLICIES):
            return
        types.append(policy_type)
    without_unused_packages(*types)


def effective_rename_map(
    pretrained: Path,
    given: dict[str, str],
    observed: Iterable[str] = (),
    announce: Callable[[str], None] = lambda _: None,
) -> dict[str, str]:
    """The renaming that will apply: the one asked for, else the one saved with the checkpoint.

    To it belongs what needs no asking: see `with_only_camera`.

    Args:
        pretrained: A `pretrained_model` folder.
        given: What is asked for; empty: nothing.
        observed: Names of what a simulator, a robot or a dataset gives.
        announce: Given one line for what was not asked for.

    Raises:
        UserError: A renaming is asked for, but the checkpoint's preprocessor has no step for it.
    """
    steps = json.loads((pretrained / PREPROCESSOR).read_text(encoding="utf8")).get("steps", [])
    for step in steps:
        if step.get("registry_name") == "rename_observations_processor":
            known = given or step.get("config", {}).get("rename_map") or {}
            inputs = json.loads((pretrained / "config.json").read_text(encoding="utf8")).get("input_features") or {}
            return with_only_camera(observed, inputs, known, announce)
    if given:
        raise UserError(
            "this checkpoint's preprocessor has no renaming step", where="--rename-map", fix="leave --rename-map out"
        )
    return {}


def check_features(
    config: Any, observed: dict[str, tuple[int, ...]], actions: int | None, rename: dict[str, str]
) -> list[str]:
    """Compare what the policy takes and gives with what the environment gives and takes.

    Args:
        config: LeRobot policy configuration with input and output features.
        observed: Shapes by LeRobot's names, as `observed_shapes` gives them.
        actions: Action dimension of the environment, or None when its actions are no vector.
        rename: Environment key -> policy key.

    Returns:
        Warnings about differences that the policy can live with (image sizes).

    Raises:
        UserError: A missing input, or a wrong dimension; lists both sides.
    """
    have = {rename.get(k, k): v for k, v in observed.items()}
    problems, warnings, missing = [], [], []
    # A policy of a mixture masks a camera that some sources lack, and takes the numbers of one action space.
    cameras = [k for k, f in (config.input_features or {}).items() if f.type.value == "VISUAL"]
    masks = bool(getattr(config, "sources", None)) and any(k in have for k in cameras)
    for key, feature in (config.input_features or {}).items():
        wanted = acting_shape(config, key, tuple(feature.shape))
        if wanted == (0,):
            continue
        if key not in have:
            if masks and key in cameras:
                warnings.append(f"{key} is missing: the policy, which was trained on a mixture, sees without it")
            elif "empty_camera" not in key:
                missing.append(key)
                problems.append(f"{key} is missing")
        elif feature.type.value == "VISUAL":
            if have[key][0] != wanted[0]:
                problems.append(f"{key} has {have[key][0]} channels instead of {wanted[0]}")
            elif have[key] != wanted:
                sizes = f"{have[key][2]}x{have[key][1]} pixels, the policy was trained on {wanted[2]}x{wanted[1]}"
                warnings.append(f"{key} comes in {sizes}")
        elif have[key] != wanted:
            problems.append(f"{key} has shape {list(have[key])} instead of {list(wanted)}")
    action = (config.output_features or {}).get("action")
    given = None if action is None else acting_shape(config, "action", tuple(action.shape))
    if given is not None and actions is not None and given != (actions,):
        problems.append(f"the policy gives actions of {given[0]} numbers, the environment takes {actions}")
    if not problems:
        return warnings
    inputs = {k: acting_shape(config, k, tuple(f.shape)) for k, f in (config.input_features or {}).items()}
    policy_side = ", ".join(f"{k} {list(shape)}" for k, shape in inputs.items())
    env_side = ", ".join(f"{k} {list(v)}" for k, v in have.items())
    unused = [k for k in observed if rename.get(k, k) not in (config.input_features or {})]
    pairs = [f"--rename-map {pair}" for pair in rename_pairs(unused, missing)]
    hint = f", or rename: {' '.join(pairs)}" if pairs else ""
    acting = getattr(config, "action_space", None)
    if acting is not None:
        others = [name for name in config.action_spaces if name != acting]
        hint += f", or the --action-space of this one: it acts as {acting}, and knows {', '.join(others)}"
    raise UserError(
        f"the policy and the environment do not fit: {'; '.join(problems)}",
        where=f"policy takes {policy_side}; environment gives {env_side}, takes actions [{actions}]",
        fix=f"give the --env that the policy was trained for{hint}",
    )


def acting_block(config: Any, name: str) -> range | None:
    """Where the numbers of the action space that a policy acts in stand among those of all; None: there is one space.

    Args:
        config: From `policy_config`.
        name: A feature.
    """
    if name not in ("action", "observation.state") or not hasattr(config, "own_block"):
        return None
    block: range | None = config.own_block(name)
    return block


def acting_shape(config: Any, name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of a feature in the action space that a policy acts in; ``shape`` where there is one space."""
    block = acting_block(config, name)
    return shape if block is None else (len(block),)


def saved_device(pretrained: Path) -> str | None:
    """The device that a checkpoint was saved with."""
    return json.loads((pretrained / "config.json").read_text(encoding="utf8")).get("device")


def identity_of(pretrained: Path) -> dict[str, str | None]:
    """What tells a policy from others.

    Returns:
        `weights_sha256`, of a checkpoint's weights, or of its adapter's, of an export those it was made from; None:
        unknown. And `export`, of an export: what it was made into.
    """
    if (exported := Manifest.find(pretrained)) is not None:
        return {"weights_sha256": exported.source.get("weights_sha256"), "export": exported.variant}
    weights = next((p for n in ("model", "adapter_model") if (p := pretrained / f"{n}.safetensors").is_file()), None)
    return {"weights_sha256": None if weights is None else sha256_of(weights)}


def policy_config(pretrained: Path, device: str) -> Any:
    """LeRobot configuration of a checkpoint, set to a device.

    Raises:
        UserError: Its policy type is not registered, or a field is unknown to the installed class.
    """
    import lerobot.policies  # noqa: F401 - importing registers the built-in policies
    from lerobot.configs.policies import PreTrainedConfig

    policy_type = json.loads((pretrained / "config.json").read_text(encoding="utf8")).get("type")
    known = PreTrainedConfig.get_known_choices()
    if policy_type not in known:
        raise UserError(
            f"the checkpoint's policy type {policy_type!r} is not installed here",
            where=str(pretrained / "config.json"),
            fix=f"install the plugin that has it, `hlrp policies` lists them; {suggest(str(policy_type), known)}",
        )
    try:
        config = PreTrainedConfig.from_pretrained(pretrained, cli_overrides=[f"--device={device}"])
    except Exception as error:
        raise UserError(
            f"the checkpoint's configuration does not fit the installed LeRobot: {error}",
            where=str(pretrained / "config.json"),
            fix="install the LeRobot release it was trained with (see its run.json)",
        ) from error
    config.pretrained_path = pretrained
    config.device = device
    if getattr(config, "pretrained_backbone_weights", None):
        # The checkpoint holds the trained backbone; without this LeRobot downloads the initial one first.
        config.pretrained_backbone_weights = None
    return config


def choose_action_space(config: Any, name: str | None) -> None:
    """Have a policy act in one of its action spaces.

    Args:
        config: From `policy_config`.
        name: The action space; None: the one that its checkpoint was saved with.

    Raises:
        UserError: It knows no such action space.
    """
    if name is None:
        return
    known = list(getattr(config, "action_spaces", None) or {})
    if name not in known:
        what = f"it knows {', '.join(known)}" if known else "it was trained on one alone"
        raise UserError(
            f"the policy has no action space {name!r}: {what}",
            where="--action-space",
            fix=suggest(name, known) if known else "leave it out",
        )
    config.action_space = name


def load_policy(config: Any, env_cfg: Any, rename: dict[str, str], rename_given: bool) -> LoadedPolicy:
    """Load weights and processors, or an export, and check that nothing in them is missing.

    Args:
        config: From `policy_config`.
        env_cfg: From `environment_config`; None: the policy acts outside of simulators.
        rename: From `effective_rename_map`.
        rename_given: Whether it replaces the one saved with the checkpoint.

    Raises:
        UserError: The weights do not fit the configuration, or a normalised feature has no statistics.
    """
    from lerobot.policies import make_pre_post_processors

    from hlrp.evaluation.relative_actions import keep_references
    from hlrp.policies.build import check_statistics

    pretrained = Path(config.pretrained_path)
    inputs, outputs = dict(config.input_features or {}), dict(config.output_features or {})
    if env_cfg is None:
        # LeRobot makes no policy without an environment or a dataset that names its actions; here they are its own.
        env_cfg = SimpleNamespace(features=outputs, features_map={name: name for name in outputs})
    try:
        with without_prints():
            policy = _make_policy(config, env_cfg, rename)
    except ImportError as error:
        raise UserError(
            f"policy {config.type!r} needs a package that is not installed: {error}",
            fix="`hlrp policies` names the extra",
        ) from error
    except (RuntimeError, ValueError, OSError) as error:
        raise UserError(
            f"the weights cannot be loaded: {error}", where=str(pretrained), fix="use another checkpoint of the run"
        ) from error
    # LeRobot replaced the outputs by what the environment's configuration says; the checkpoint's were just checked.
    config.input_features, config.output_features = inputs, outputs
    policy.eval()
    steps = json.loads((pretrained / PREPROCESSOR).read_text(encoding="utf8")).get("steps", [])
    names = {s.get("registry_name") for s in steps}
    overrides: dict[str, Any] = {}
    if "device_processor" in names:
        overrides["device_processor"] = {"device": str(config.device)}
    if rename_given:
        overrides["rename_observations_processor"] = {"rename_map": rename}
    after: dict[str, Any] = {}
    if getattr(config, "action_spaces", None):
        overrides["hlrp_action_space_state"] = after["hlrp_action_space_action"] = {"acting": config.action_space}
    preprocessor, postprocessor = make_pre_post_processors(
        policy_cfg=config,
        pretrained_path=str(pretrained),
        preprocessor_overrides=overrides,
        postprocessor_overrides=after,
    )
    check_statistics(
        [preprocessor, postprocessor],
        {*inputs, *outputs},
        where=str(pretrained),
        fix="train again with the dataset's statistics, or restore the processors' safetensors files",
    )
    warnings = _weight_warnings(policy, pretrained) + keep_references(policy, preprocessor, postprocessor)
    return LoadedPolicy(policy, config, preprocessor, postprocessor, warnings)


def _make_policy(config: Any, env_cfg: Any, rename: dict[str, str]) -> Any:
    from lerobot.policies import make_policy

    from hlrp.evaluation.exported import load_exported

    if Manifest.find(Path(config.pretrained_path)) is not None:
        return load_exported(config)
    return make_policy(cfg=config, env_cfg=env_cfg, rename_map=rename or None)


def _weight_warnings(policy: Any, pretrained: Path) -> list[str]:
    """Parameters the checkpoint does not hold; LeRobot loads without `strict` and would leave them random."""
    path = pretrained / "model.safetensors"
    if not path.is_file():
        return []
    header = safetensors_header(path)
    # Tied tensors are stored once; the metadata names the other one.
    present = {*header, *(header.get("__metadata__") or {})}
    lacking = sorted(set(policy.state_dict()) - present)
    if not lacking:
        return []
    return [f"the checkpoint holds no values for {len(lacking)} of the policy's tensors, e.g. {lacking[0]}"]
