"""Folders of every kind that `hlrp push` publishes, made here and published on a Hub on this machine."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from command import hlrp_in_turn
from local_hub import LocalHub, local_hub
from published_models import CAMERA, answers
from tiny_policies import save_tiny_act

from hlrp.runs import DatasetRecord, RunDirectory

sys.path.extend(str(Path(__file__).parents[1] / name) for name in ("bundle", "latents", "deploy"))
from action_toys import planted
from bundle_toys import make_config
from exporting import small_export

KINDS = ("act", "latent", "laq", "foundation", "decoder", "table", "export", "openvino")


def _run(folder: Path, policy: str, data: Path) -> Path:
    """The folder of a finished run of two steps, as a trainer writes it, and where its model goes."""
    from hlrp.config import LeRobotRun, to_yaml

    model = {"policy_type": policy}
    settings = LeRobotRun.model_validate({"model": model, "data": {"root": str(data)}, "output_dir": str(folder)})
    record = DatasetRecord(repo_id="me/toy", root=str(data), fingerprint="f" * 40, episodes=6, frames=240, fps=10.0)
    command = [sys.executable, "-m", "trainers.lerobot.worker", f"--dataset.root={data}", f"--output_dir={folder}"]
    fields: dict[str, Any] = {"trainer": "lerobot", "policy": policy, "steps": 2, "seed": 7, "command": command}
    run = RunDirectory.create(folder, config_yaml=to_yaml(settings), dataset=record, **fields)
    run.update(warnings=[f"something of {data / 'x'}"])
    rows = [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.25}, {"step": 2, "eval_loss": 0.75}]
    (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    state = folder / "checkpoints/000002/training_state"
    state.mkdir(parents=True)
    (state / "optimizer.pt").write_bytes(b"pickled")
    return folder / "checkpoints/000002/pretrained_model"


def _save_latent(folder: Path, table: Path, data: Path) -> None:
    """A policy of random weights, as it is saved while it is trained on a table."""
    from lerobot.configs.train import DatasetConfig, TrainPipelineConfig
    from lerobot.policies.factory import get_policy_class, make_pre_post_processors

    torch.manual_seed(0)
    labels = {"latent_source": "precomputed", "latent_table": str(table), "latent_dataset": str(data)}
    config = make_config("hlrp_action_expert_latent", **labels, license="mit")
    policy = get_policy_class(config.type)(config)
    policy.save_pretrained(folder)
    stats = {name: {"mean": torch.zeros(n), "std": torch.ones(n)} for name, n in (("action", 3), (CAMERA, 3))}
    stats["observation.state"] = {"mean": torch.full((2,), 0.5), "std": torch.full((2,), 0.2)}
    for processor in make_pre_post_processors(config, dataset_stats=stats):
        processor.save_pretrained(folder)
    dataset = DatasetConfig(repo_id="me/toy", root=str(data))
    TrainPipelineConfig(dataset=dataset, policy=config, output_dir=data.parent / "out").save_pretrained(folder)


def _save_foundation(folder: Path) -> None:
    from hlrp.foundation import checkpoint
    from hlrp.foundation.backbones import resolve_backbone
    from hlrp.foundation.backends.registry import backend_class
    from hlrp.foundation.config import BackendConfig
    from hlrp.latents import CodeSpec

    torch.manual_seed(0)
    spec = CodeSpec(codebook_size=8, code_seq_len=2, num_frames=2, offset_seconds=0.2, laq_sha256="a" * 64)
    config = BackendConfig(backend="smol_latent_head", spec=spec, cameras=("top",))
    backbone = shutil.copytree(resolve_backbone("tiny", config.backend, allow_download=False), folder.parent / "vlm")
    backend = backend_class(config.backend).from_backbone(config, backbone)
    record = checkpoint.record_backbone(str(backbone), backbone)
    checkpoint.save(backend, folder, backbone=record, statistics=checkpoint.LabelStatistics(code_counts=[[1] * 8] * 2))


@dataclass
class Made:
    """Folders to publish, by kind; what the models in them say; and the Hub that they were published on."""

    hub: LocalHub
    root: Path
    sources: dict[str, Path]
    folders: dict[str, Path]
    expected: dict[str, np.ndarray]
    environment: dict[str, str]

    def files(self, kind: str) -> dict[str, bytes]:
        """What the Hub has of it."""
        repository = self.hub.repositories[f"me/{kind}"]
        return repository.commits[repository.head]

    def in_another_process(self, code: str, *arguments: Any) -> None:
        """Run Python that knows nothing but the Hub, and the names of what it is given."""
        environment = os.environ | self.environment | {"PYTHONPATH": str(Path(__file__).parents[1])}
        argv = [sys.executable, "-c", code, json.dumps(arguments)]
        done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False, timeout=300)
        assert done.returncode == 0, done.stderr


def publish(root: Path) -> Iterator[Made]:
    """Make one folder of each kind in ``root`` and push it as `me/KIND`."""
    from make_labels import make_quantizer

    from hlrp.latents.actions import fit_actions

    info, table, _ = planted(root / "toy", length=12)
    act = save_tiny_act(_run(root / "runs/act", "act", info.root))
    latent = _run(root / "runs/latent", "hlrp_action_expert_latent", info.root)
    _save_latent(latent, table.folder, info.root)
    _save_foundation(root / "foundation")
    decoder = root / "decoder"
    fit_actions(table, info, [4, 1], offsets=[0]).save(decoder)
    laq = make_quantizer(root / "laq")
    (laq / "old.ckpt").write_bytes(b"pickled")
    sources = {"act": root / "runs/act", "latent": root / "runs/latent", "laq": laq}
    for name, kind in (("export", "onnx"), ("openvino", "openvino")):
        sources[name] = small_export(act, root / name, kind=kind)
    sources |= {"foundation": root / "foundation", "decoder": decoder, "table": table.folder}
    folders = sources | {"act": act, "latent": latent}
    expected = answers({k: str(v) for k, v in folders.items()}, str(info.root), allow_download=False)
    with local_hub() as hub:
        environment = hub.environment(root / "hf")
        pushes = [["push", sources[kind], f"me/{kind}"] for kind in KINDS]
        for done in hlrp_in_turn(pushes, env=environment):
            assert done.code == 0, done.err
            assert not done.heavy & {"torch", "lerobot", "transformers"}
        yield Made(hub, info.root, sources, folders, expected, environment)
