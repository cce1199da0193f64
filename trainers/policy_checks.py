"""What is checked of a policy's run by either trainer: first without LeRobot, and with it for a dry run."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hlrp.catalog import Catalog, FieldInfo, build_catalog, cached_catalog, policy_catalog
from hlrp.compat import lerobot_version, without_unused_packages
from hlrp.config import EnvSection, LeRobotRun, LightningRun, LightningTrainerSection, PolicyModel, refuse_unused
from hlrp.data.dataset_info import DatasetInfo, require_training_features
from hlrp.data.episodes import check_camera_names
from hlrp.data.filtering import refuse_idle_of_unknown_actions
from hlrp.errors import UserError
from hlrp.policies.adapted import ADAPTERS
from hlrp.runs import resolve_pretrained
from hlrp.runs.checkpoints import is_foundation
from hlrp.runs.published import folder_of
from hlrp.sim.catalog import envs_catalog, expand_tasks, require_installed
from trainers.policy_labels import foundation_of, label_fields, mixture_of, saved_fields
from trainers.pushing import keep_offline
from trainers.schedules import warn_of_early_decay

DTYPES = {"32": "float32", "bf16": "bfloat16", "fp16": "float16"}
# Policies that are made in a moment: a dry run makes them too, which is the one way to know that they can be.
_SMALL = ("act", "diffusion", "vqbet", "tdmpc")
# LeRobot runs their layers in pieces, which the compiling of layers does not reach, and compiles them itself.
_COMPILE_THEMSELVES = ("smolvla", "pi0", "pi05", "pi0_fast")
# Of these pi0_fast calls its layers whole. How the others are told to compute theirs again.
_IN_PIECES = {
    "smolvla": "leave it out",
    "pi0": "leave it out, and set model.gradient_checkpointing=true",
    "pi05": "leave it out, and set model.gradient_checkpointing=true",
}
# LeRobot updates their codebooks in place with what it computes, which is of another type in mixed precision.
_SINGLE_PRECISION = ("vqbet",)
# They find the weights that adapters are added to by a field of their own.
_ADAPTED_BY_NAME = ("molmoact2",)
# What a policy has presets for; its fields begin with these words, and so do LeRobot's arguments.
_PRESETS = ("optimizer", "scheduler")
_USES_PRESETS = "use_policy_training_preset"

Run = LeRobotRun | LightningRun


def policy_of(run: Run) -> PolicyModel:
    """The run's policy."""
    if not isinstance(run.model, PolicyModel):
        raise TypeError("the model section names no policy")
    return run.model


def policy_fields(run: Run, dataset: DatasetInfo | None, known: Mapping[str, Any] | None) -> dict[str, Any]:
    """Fields for the policy's LeRobot class: its own, those that the `trainer` section sets, and the labels'.

    Args:
        run: A run of a policy.
        dataset: The local dataset; needed for labels that are made while training.
        known: The class's own fields, where the catalog has them.

    Raises:
        UserError: The policy has no use for labels, or they are not here.
    """
    model, trainer = policy_of(run), run.trainer
    fields = model.policy_fields
    if trainer.learning_rate is not None:
        fields["optimizer_lr"] = trainer.learning_rate
    if trainer.precision and known is not None and "dtype" in known:
        fields.setdefault("dtype", DTYPES[trainer.precision])
    return fields | label_fields(run, dataset)


def check_policy_run(run: Run, dataset: DatasetInfo | None) -> Mapping[str, FieldInfo] | None:
    """Check what can be known of a policy's run without importing LeRobot or torch.

    Args:
        run: A run of a policy.
        dataset: The local dataset, or the mixture as one; None if LeRobot is to download it.

    Returns:
        Fields of the policy's class, where the list of all policies is at hand.

    Raises:
        UserError: Naming the mistake.
    """
    lerobot_version()
    _refuse_unfit_settings(run)
    model, catalog = policy_of(run), _catalog(run)
    if run.env is not None:
        check_environment(run.env)
    known = None if catalog is None else catalog.policy(model.policy_type).fields
    # Asked for either way: which mistake is told first does not depend on whether the list of policies is at hand.
    fields = policy_fields(run, dataset, known)
    if catalog is not None:
        catalog.check_fields(model.policy_type, fields)
    foundation = foundation_of(model)
    if foundation is not None and run.data.rename_map:
        raise UserError(
            "names are only changed for a pretrained policy; from a foundation model starts a new one",
            where="data.rename_map",
            fix="leave it out",
        )
    if model.init_from and foundation is None and (Path(model.init_from).exists() or not run.allow_download):
        saved = json.loads((start_of(model.init_from) / "config.json").read_text(encoding="utf8")).get("type")
        if saved != model.policy_type:
            raise UserError(
                f"{model.init_from} holds a policy {saved!r}, not {model.policy_type!r}",
                where="--init-from / model.init_from",
                fix=f"train it as --policy {saved}",
            )
    warn_of_early_decay(run, dataset.frames if dataset is not None else None, saved_fields(model) | fields, known)
    named = [model.policy_fields.get("labelled_episodes"), *(s.labelled_episodes for s in run.data.sources)]
    if any(each not in (None, "all") for each in named):
        refuse_idle_of_unknown_actions(run.data.filter)
    if dataset is not None:
        require_training_features(dataset)
        if run.data.cameras is not None:
            check_camera_names(run.data.cameras, dataset.cameras, f"data.cameras, dataset {dataset.root}")
        _check_labels(run, dataset)
    return known


def _refuse_unfit_settings(run: Run) -> None:
    """Refuse what the `trainer` section asks of a policy that is not made for it."""
    name, trainer = policy_of(run).policy_type, run.trainer
    if isinstance(run, LightningRun) and run.trainer.compile and name in _COMPILE_THEMSELVES:
        raise UserError(
            f"trainer.compile has no effect on the layers of policy {name!r}, which compiles itself",
            where="trainer.compile",
            fix="leave it out, and set model.compile_model=true",
        )
    if isinstance(run, LightningRun) and run.trainer.activation_checkpointing and name in _IN_PIECES:
        raise UserError(
            f"policy {name!r} runs its layers in pieces, which trainer.activation_checkpointing does not reach",
            where="trainer.activation_checkpointing",
            fix=_IN_PIECES[name],
        )
    start = policy_of(run).init_from
    if name not in _ADAPTED_BY_NAME and _makes_adapters(run) and (start is None or foundation_of(policy_of(run))):
        raise UserError(
            "LeRobot adds adapters to trained policies alone, and this run starts a new one",
            where="trainer.lerobot_args (peft)",
            fix="give a run or checkpoint of the policy with --init-from, or leave peft.* out",
        )
    if trainer.precision not in (None, "32") and name in _SINGLE_PRECISION:
        raise UserError(
            f"LeRobot's policy {name!r} cannot be trained in {trainer.precision}: its codebooks are float32",
            where="--precision / trainer.precision",
            fix="leave it out, or give 32",
        )
    _refuse_unread_presets(run)


def _refuse_unread_presets(run: Run) -> None:
    """Refuse what sets a policy's own optimizer or schedule where it is replaced, and what replaces it where it is not.

    Both trainers take either the policy's presets or what is given in their place, and leave the other aside.
    """
    fields, section = policy_of(run).policy_fields, run.trainer
    if isinstance(section, LightningTrainerSection):
        replaced = {part: f"trainer.{part}" for part in _PRESETS if getattr(section, part) is not None}
        given, place = section.optimizer or {}, "trainer.optimizer.lr"
    else:
        given, place = section.lerobot_args, "trainer.lerobot_args.optimizer.lr"
        if str(given.get(_USES_PRESETS, True)).lower() != "false":
            for name in given:
                if name.startswith(tuple(f"{part}." for part in _PRESETS)):
                    raise UserError(
                        f"{name} has no effect: LeRobot takes optimizer and schedule from the policy",
                        where=f"trainer.lerobot_args.{name}",
                        fix=f"give {_USES_PRESETS}: false beside it, with optimizer.* and scheduler.*, or leave it out",
                    )
            return
        replaced = dict.fromkeys(_PRESETS, f"trainer.lerobot_args.{_USES_PRESETS}=false")
    if "optimizer" in replaced and section.learning_rate is not None:
        raise UserError(
            f"it has no effect beside {replaced['optimizer']}, which replaces the policy's own optimizer",
            where="--lr / trainer.learning_rate",
            fix=f"give it as {place}",
        )
    for name in fields:
        part = name.partition("_")[0]
        if part in replaced:
            raise UserError(
                f"{name} has no effect beside {replaced[part]}, which replaces the policy's own {part}",
                where=f"model.{name}",
                fix=f"say it in {place.replace('optimizer.lr', part)}, or leave it out",
            )


def _makes_adapters(run: Run) -> bool:
    arguments = run.trainer.lerobot_args if isinstance(run, LeRobotRun) else {}
    return any(name.partition(".")[0] == "peft" and value is not None for name, value in arguments.items())


def _check_labels(run: Run, dataset: DatasetInfo) -> None:
    """Check that precomputed labels are there, and of this dataset, or of those of the mixture."""
    if run.latents.source != "precomputed" and not any(source.table for source in run.data.sources):
        return
    from hlrp.latents.column import LatentColumn
    from hlrp.latents.joined import JoinedRows, rows_of_sources
    from hlrp.latents.table import LatentTable

    cameras, mixture = run.data.cameras or [], mixture_of(run)
    camera = cameras[0] if len(cameras) == 1 else None
    if mixture is not None:
        rows = rows_of_sources(mixture.sources, run.latents.table, camera)
        JoinedRows(rows, [source.info.frames for source in mixture.sources])
    elif run.latents.table is not None:
        LatentTable.open(run.latents.table).check(dataset=dataset, camera=camera)
    else:
        LatentColumn(dataset).check(dataset=dataset, camera=camera)


def _catalog(run: Run) -> Catalog | None:
    """The list of policies; where there is none yet, it is made if the run's own settings depend on it."""
    # Whether precision is a field of the policy decides the command itself.
    return cached_catalog() or (build_catalog() if run.trainer.precision else None)


def prepare_process(run: Run) -> None:
    """Set what LeRobot reads when it is imported, in a process that is there for this run alone.

    Raises:
        UserError: A mistake that is seen without the seconds which that import takes.
    """
    refuse_unused(run)
    if not isinstance(run.model, PolicyModel):
        return
    if (catalog := cached_catalog()) is not None:
        catalog.check_fields(run.model.policy_type, run.model.policy_fields)
    adapted = False
    if start := run.model.init_from:
        here = Path(start).exists() or not run.allow_download
        adapted = not here or (start_of(start) / ADAPTERS).is_file()
    if not run.allow_download:
        keep_offline()
    arguments = run.trainer.lerobot_args if isinstance(run, LeRobotRun) else {}
    if not adapted and not any("peft" in key for key in (*arguments, *run.model.policy_fields)):
        without_unused_packages(run.model.policy_type)


def check_environment(env: EnvSection) -> None:
    """Refuse a simulator that is not here, or a task that it does not know, before training starts.

    Raises:
        UserError: Naming the mistake.
    """
    catalog = envs_catalog()
    if env.type in catalog:
        require_installed(env.type)
        expand_tasks(env.type, env.task or catalog[env.type].default_task, where="env.task")
    else:
        check_environment_fields(env)


def check_environment_fields(env: EnvSection) -> None:
    """Have LeRobot's own class of the environment judge its fields; imports LeRobot.

    Raises:
        UserError: Unknown type or field, or a value that the class refuses.
    """
    from lerobot.utils.import_utils import register_third_party_plugins

    from hlrp.evaluation.environment import environment_config

    register_third_party_plugins()
    tasks = expand_tasks(env.type, env.task, where="env.task") if env.task and env.type in envs_catalog() else []
    environment_config(env.type, tasks[0] if tasks else env.task, env.env_fields)


def start_of(init_from: str) -> Path:
    """The folder of weights to start from.

    Raises:
        UserError: It is not on this machine, or holds neither a policy nor a foundation model.
    """
    path = folder_of(Path(init_from), "--init-from / model.init_from", allow_download=False)
    if not path.exists():
        raise UserError(
            f"{init_from!r} is not a folder on this machine",
            where="--init-from / model.init_from",
            fix="give a local folder, or what is on the Hub as USER/NAME",
        )
    return path if is_foundation(path) else resolve_pretrained(path)


def check_with_lerobot(run: Run, dataset: DatasetInfo | None) -> None:
    """Check the rest as the run itself will, with LeRobot's own classes; small policies are made.

    Raises:
        UserError: A setting that the policy's or environment's class refuses, or data that it cannot use.
    """
    from hlrp.data.augmentation import image_transforms
    from hlrp.data.lerobot_data_module import LeRobotDataModule
    from hlrp.data.policy_data_module import MixtureDataModule
    from hlrp.policies.build import build_policy, check_dataset, optimizer_config, policy_config, scheduler_config

    model, data = policy_of(run), run.data
    if run.env is not None:
        check_environment_fields(run.env)
    start = start_of(model.init_from) if model.init_from and Path(model.init_from).exists() else None
    if model.init_from and start is None:
        return  # only LeRobot can fetch it
    known = policy_catalog().policy(model.policy_type).fields
    fields = policy_fields(run, dataset, known)
    allow_download = bool(fields.pop("allow_download", False)) or run.allow_download
    config = policy_config(model.policy_type, fields, device="cpu", init_from=start, allow_download=allow_download)
    if isinstance(run, LightningRun):
        optimizer_config(config, run.trainer.optimizer)
        scheduler_config(config, run.trainer.scheduler)
    if dataset is None:
        return
    mixture, transforms = mixture_of(run), image_transforms(data.image_transforms)
    seen = (
        MixtureDataModule(mixture, eval_split=run.trainer.eval_split, image_transforms=transforms)
        if mixture is not None
        else LeRobotDataModule(
            dataset.repo_id,
            root=dataset.root,
            episodes=data.episodes,
            cameras=data.cameras,
            eval_split=run.trainer.eval_split,
            image_transforms=transforms,
        )
    )
    make = build_policy if _is_small(config) else check_dataset
    make(config, seen.meta, cameras=seen.cameras, rename_map=data.rename_map or None)


def _is_small(config: Any) -> bool:
    """Whether a policy is made in a moment."""
    if config.type in _SMALL:
        return True
    if getattr(config, "init_from", None):
        from hlrp.foundation.checkpoint import read_manifest

        return not read_manifest(Path(config.init_from)).backbone.pretrained
    return getattr(config, "backbone", None) == "tiny"
