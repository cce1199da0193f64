"""Which trainer and kind of model acts on which key of the configuration; keys without effect are refused.

No key is ever dropped in silence. Keys of the `model` section belong to one
kind, so the schema itself refuses them elsewhere, and fields of policies and simulators are checked against their own
classes. A trainer of another package names the keys that it acts on (`trainers.base.BaseTrainer.obeys`).
"""

from collections.abc import Collection, Iterator

from pydantic import BaseModel

from hlrp.config.models import ClassPath, FoundationModel, LaqModel, PolicyModel
from hlrp.config.schema import LeRobotRun, LightningRun, OtherRun
from hlrp.config.slurm_section import SlurmSection
from hlrp.config.trainer_names import TRAINERS
from hlrp.errors import UserError, suggest

_LEROBOT, _POLICY, _LAQ, _FOUNDATION, _CLASS = (
    "lerobot policy",
    "lightning policy",
    "lightning laq",
    "lightning foundation",
    "lightning class",
)
_LIGHTNING = frozenset({_POLICY, _LAQ, _FOUNDATION, _CLASS})
_EVERY = _LIGHTNING | {_LEROBOT}
_POLICIES = frozenset({_LEROBOT, _POLICY})
_WINDOWS = frozenset({_LAQ, _FOUNDATION, _CLASS})

OBEYED: dict[str, frozenset[str]] = {
    "trainer_type": _EVERY,
    **dict.fromkeys(("slurm", *(f"slurm.{name}" for name in SlurmSection.model_fields)), _EVERY),
    "output_dir": _EVERY,
    "job_name": _EVERY,
    "allow_download": _EVERY,
    "push_to_hub": _EVERY - {_CLASS},
    # trainer, both
    "trainer.steps": _EVERY,
    "trainer.max_epochs": _EVERY,
    "trainer.batch_size": _EVERY,
    "trainer.learning_rate": _EVERY - {_CLASS},
    "trainer.devices": _EVERY,
    "trainer.num_nodes": _EVERY,
    "trainer.precision": _EVERY,
    "trainer.tf32": _EVERY,
    "trainer.seed": _EVERY,
    "trainer.device": _EVERY,
    "trainer.log_freq": _EVERY,
    "trainer.save_freq": _EVERY,
    "trainer.eval_freq": _POLICIES,
    "trainer.eval_split": _EVERY,
    "trainer.eval_steps": _EVERY,
    "trainer.max_nonfinite_steps": _EVERY,
    # trainer, one of them
    "trainer.lerobot_args": frozenset({_LEROBOT}),
    "trainer.accumulate_grad_batches": _LIGHTNING,
    "trainer.gradient_clip_val": _LIGHTNING,
    "trainer.optimizer": frozenset({_POLICY}),
    "trainer.scheduler": frozenset({_POLICY}),
    "trainer.ema_decay": frozenset({_POLICY}),
    "trainer.eval_episodes": frozenset({_POLICY}),
    "trainer.strategy": _LIGHTNING,
    "trainer.activation_checkpointing": _LIGHTNING,
    "trainer.callbacks": _LIGHTNING,
    "trainer.callbacks.class_path": _LIGHTNING,
    "trainer.callbacks.init_args": _LIGHTNING,
    "trainer.logger": _LIGHTNING,
    "trainer.profiler": _LIGHTNING,
    "trainer.compile": _LIGHTNING,
    "trainer.keep_last": _LIGHTNING,
    "trainer.limit_train_batches": _LIGHTNING,
    "trainer.val_check_interval": _LIGHTNING,
    "trainer.trainer_args": _LIGHTNING,
    # model
    "model.policy_type": _POLICIES,
    "model.init_from": _POLICIES | {_LAQ, _FOUNDATION},
    "model.kind": frozenset({_LAQ, _FOUNDATION}),
    "model.class_path": frozenset({_CLASS}),
    "model.init_args": frozenset({_CLASS}),
    "model.preset": frozenset({_LAQ}),
    "model.quantizer": frozenset({_LAQ}),
    "model.codebook_size": frozenset({_LAQ}),
    "model.code_seq_len": frozenset({_LAQ}),
    "model.image_size": frozenset({_LAQ, _FOUNDATION}),
    "model.patch_size": frozenset({_LAQ}),
    "model.background_weight": frozenset({_LAQ}),
    "model.feature_model": frozenset({_LAQ}),
    "model.feature_weight": frozenset({_LAQ}),
    "model.space": frozenset({_LAQ}),
    "model.labelled_episodes": frozenset({_LAQ}),
    "model.action_weight": frozenset({_LAQ}),
    "model.labelled_share": frozenset({_LAQ}),
    "model.flow_model": frozenset({_LAQ}),
    "model.flow_weight": frozenset({_LAQ}),
    "model.backend": frozenset({_FOUNDATION}),
    "model.backbone": frozenset({_FOUNDATION}),
    "model.mode": frozenset({_FOUNDATION}),
    "model.use_state": frozenset({_FOUNDATION}),
    "model.layers": frozenset({_FOUNDATION}),
    "model.max_text_tokens": frozenset({_FOUNDATION}),
    "model.train_vision": frozenset({_FOUNDATION}),
    "model.train_language": frozenset({_FOUNDATION}),
    "model.lora": frozenset({_FOUNDATION}),
    "model.lora.rank": frozenset({_FOUNDATION}),
    "model.lora.alpha": frozenset({_FOUNDATION}),
    "model.lora.targets": frozenset({_FOUNDATION}),
    # data
    "data.repo_id": _EVERY,
    "data.root": _EVERY,
    "data.episodes": _EVERY,
    "data.num_workers": _EVERY,
    "data.cache": _LIGHTNING,
    "data.cache_limit_gb": _LIGHTNING,
    "data.streaming": frozenset({_LAQ}),
    "data.streaming_files": frozenset({_LAQ}),
    "data.cameras": _EVERY,
    "data.num_frames": _WINDOWS,
    "data.offset_seconds": _WINDOWS,
    "data.sources": _EVERY,
    "data.sources.repo_id": _EVERY,
    "data.sources.root": _EVERY,
    "data.sources.weight": _EVERY,
    "data.sources.labelled_episodes": _POLICIES | {_LAQ},
    "data.sources.table": _POLICIES | {_FOUNDATION},
    "data.sources.rename_map": _POLICIES,
    "data.sources.action_space": _POLICIES,
    "data.video_backend": _EVERY,
    "data.tolerance_s": _EVERY,
    "data.rename_map": _POLICIES,
    "data.image_transforms": _EVERY,
    "data.image_transforms.enable": _EVERY,
    "data.image_transforms.max_num_transforms": _EVERY,
    "data.image_transforms.random_order": _EVERY,
    "data.image_transforms.tfs": _EVERY,
    "data.image_transforms.tfs.weight": _EVERY,
    "data.image_transforms.tfs.type": _EVERY,
    "data.image_transforms.tfs.kwargs": _EVERY,
    "data.filter": _EVERY,
    "data.filter.motion": _EVERY,
    "data.filter.motion.below": _EVERY,
    "data.filter.motion.above": _EVERY,
    "data.filter.motion.seconds": _POLICIES,
    "data.filter.motion.min_seconds": _EVERY,
    "data.filter.idle": _EVERY,
    "data.filter.idle.picture_below": _EVERY,
    "data.filter.idle.picture_above": _EVERY,
    "data.filter.idle.robot_below": _EVERY,
    "data.filter.idle.robot_above": _EVERY,
    "data.filter.idle.seconds": _EVERY,
    "data.filter.idle.min_seconds": _EVERY,
    # latents, env
    "latents.source": _POLICIES | {_FOUNDATION},
    "latents.table": _POLICIES | {_FOUNDATION},
    "latents.laq": _POLICIES | {_FOUNDATION},
    "env": _POLICIES,
    "env.type": _POLICIES,
    "env.task": _POLICIES,
}
"""Key of the schema to those who obey it; the others refuse it."""

_FIX: dict[str, str] = {
    "push_to_hub": "leave it out: only policies, quantizers and foundation models can be published",
    "trainer.learning_rate": "leave it out; a class takes its learning rate in model.init_args",
    "trainer.eval_freq": "leave it out: only a policy can be rolled out",
    "trainer.eval_episodes": "leave it out",
    "trainer.optimizer": "leave it out: only policies take it from the trainer",
    "trainer.scheduler": "leave it out: only policies take it from the trainer",
    "trainer.ema_decay": "leave it out: only policies take it from the trainer",
    "trainer.compile": "leave it out: with LeRobot's trainer a policy that has model.compile_model compiles itself",
    "data.cache": "leave it out, or use --trainer lightning, which keeps decoded frames",
    "data.cache_limit_gb": "leave it out, or use --trainer lightning, which keeps decoded frames",
    "data.streaming": "leave it out: only quantizers are trained on frames as they come; policies need all tables",
    "data.num_frames": "leave it out: a policy's labels have the window of the table or quantizer that they come from",
    "data.offset_seconds": "leave it out: a policy's labels have the offset of the table or quantizer they come from",
    "data.sources.labelled_episodes": "leave it out: only policies and quantizers use actions",
    "data.sources.table": "leave it out: only policies and foundation models are trained on labels",
    "data.sources.action_space": "leave it out: only policies have actions of their own",
    "data.sources.rename_map": "leave it out: name the camera of each source as the others do (hlrp data rename)",
    "data.filter.motion.seconds": "leave it out: windows compare the frames of their own pairs (data.offset_seconds)",
    "data.rename_map": "leave it out: names are only changed for a pretrained policy",
    "latents.source": "leave it out: only policies and foundation models are trained on labels",
    "latents.table": "leave --latents out: only policies and foundation models are trained on labels",
    "latents.laq": "leave --online-laq out: only policies and foundation models are trained on labels",
    "env": "leave it out: only a policy can be rolled out",
}

_LABELS = ("model.labelled_episodes", "data.sources.labelled_episodes")
_GIVE_LABELS = "give model.labelled_episodes, from whose actions the action head learns"

_TRANSFORM = "give --augment, or data.image_transforms.enable=true"

_NEEDS: dict[str, tuple[tuple[str, ...], str]] = {
    "trainer.eval_episodes": (("trainer.eval_freq",), "give trainer.eval_freq, the steps between rollouts"),
    "trainer.val_check_interval": (("trainer.eval_split",), "give trainer.eval_split, the share held out"),
    "model.feature_weight": (("model.feature_model",), "give model.feature_model, whose features are predicted"),
    "model.flow_weight": (("model.flow_model",), "give model.flow_model, which computes the flow"),
    "model.action_weight": (_LABELS, _GIVE_LABELS),
    "model.labelled_share": (_LABELS, _GIVE_LABELS),
    "data.streaming_files": (("data.streaming",), "give data.streaming=true"),
    "data.rename_map": (("model.init_from",), "give --init-from: a new policy takes the dataset's own names"),
    **{
        f"data.image_transforms.{name}": (("data.image_transforms.enable",), _TRANSFORM)
        for name in ("max_num_transforms", "random_order", "tfs")
    },
}
"""Keys that have no effect without another one, and what to do then."""


def obeyer(run: LeRobotRun | LightningRun) -> str:
    """Who executes the run: the trainer's name and the kind of model, as in `OBEYED`."""
    kinds: dict[type, str] = {PolicyModel: "policy", LaqModel: "laq", FoundationModel: "foundation", ClassPath: "class"}
    return f"{run.trainer_type} {kinds[type(run.model)]}"


def given_keys(section: BaseModel, prefix: str = "") -> Iterator[str]:
    """Yield the dotted key of every value that is not the schema's default, outer ones first.

    A default that is written out, as in the configuration of a run that is resumed, asks for nothing.
    """
    for name, field in type(section).model_fields.items():
        key, value = f"{prefix}{name}", getattr(section, name)
        if field.is_required() or value != field.get_default(call_default_factory=True):
            yield key
        parts = value if isinstance(value, list) else value.values() if isinstance(value, dict) else [value]
        for part in parts:
            if isinstance(part, BaseModel):
                yield from given_keys(part, f"{key}.")


def refuse_unused(run: LeRobotRun | LightningRun) -> None:
    """Refuse every key that is given but that this trainer does not act on for this model.

    Raises:
        UserError: Naming the first such key.
    """
    who = obeyer(run)
    trainer, _, kind = who.partition(" ")
    given = dict.fromkeys(given_keys(run))
    unused = [key for key in given if key in OBEYED and who not in OBEYED[key]]
    if unused:
        # The source follows from what is given beside it.
        key = next((key for key in unused if key != "latents.source"), unused[0])
        what = {"policy": "a policy", "class": "a class"}.get(kind, f"a model of kind {kind!r}")
        raise UserError(
            f"{key} has no effect when the {TRAINERS[trainer]} trainer trains {what}",
            where=key,
            fix=_FIX.get(key, "leave it out"),
        )
    if kind == "class":
        given.pop("trainer.val_check_interval", None)  # a module made in Python may bring validation data of its own
    _refuse_without_need(given)


def refuse_unused_by_other(run: OtherRun, obeys: Collection[str]) -> None:
    """Refuse every key that is given but that a trainer of another package does not act on.

    Args:
        run: Its run.
        obeys: Dotted keys that it acts on, keys of `trainer` that only it has among them; each stands for those below
            it too.

    Raises:
        UserError: Naming the first other key.
    """
    given = [key for key in dict.fromkeys(given_keys(run)) if key in OBEYED]
    own = [f"trainer.{name}" for name in run.trainer.model_extra or {}]
    taken = {*obeys, "trainer_type", "slurm"}  # these two are the command's
    unused = [key for key in (*given, *own) if not any(f"{key}.".startswith(f"{other}.") for other in taken)]
    # A mapping, such as `data.filter`, is given with a part of it.
    unused = [key for key in unused if not any(other.startswith(f"{key}.") for other in taken)]
    if unused:
        key = next((key for key in unused if key != "latents.source"), unused[0])
        if key in own:
            known = [other.removeprefix("trainer.") for other in obeys if other.startswith("trainer.")]
            fix = suggest(key.removeprefix("trainer."), known)
            raise UserError(f"unknown key {key!r} of the trainer {run.trainer_type!r}", where=key, fix=fix)
        fix = "leave it out" if obeys else "leave it out; a trainer names the keys that it acts on in `obeys`"
        raise UserError(f"{key} has no effect with the trainer {run.trainer_type!r}", where=key, fix=fix)
    _refuse_without_need(given)


def _refuse_without_need(given: Collection[str]) -> None:
    for key, (needed, fix) in _NEEDS.items():
        if key in given and not any(other in given for other in needed):
            raise UserError(f"{key} has no effect without {needed[0]}", where=key, fix=f"{fix}; or leave it out")
