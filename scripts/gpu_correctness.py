"""Does a GPU compute what a CPU computes? A line of JSON for each check; exit code 1 if one failed.

    python scripts/gpu_correctness.py DATASET_ROOT [--checks NAME...] [--device cuda] [--seconds 240] [--quick]

Small models of random weights on the dataset's frames, float32 without TF32 where numbers are compared. ``value`` is
what was measured and ``limit`` what it may be at most; differences are relative to the largest entry. What no time is
left for is a line too. On a CPU every check runs as well, against itself.
"""

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from hlrp.compiled import compile_blocks
from hlrp.config import LightningRun
from hlrp.data import read_dataset
from hlrp.data.episodes import check_camera
from hlrp.laq import LAQ, LAQConfig
from hlrp.latents.labelling import LabelRequest, LAQEncoder, label
from hlrp.latents.table import LatentTable
from hlrp.runs import RunDirectory
from trainers.lightning.trainer import LightningTrainer

EXACT = 1e-4
"""Of float32 on another device: other orders of the same sums, through all layers."""
ROUNDED = 2e-2
"""Of products in TF32 or bfloat16."""


def apart(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest difference over the largest entry."""
    found, expected = found.detach().double().cpu(), expected.detach().double().cpu()
    return float((found - expected).abs().max() / expected.abs().max().clamp_min(1e-12))


CHECKS = (
    "quantizers",
    "codes",
    "tf32",
    "losses",
    "chunks",
    "resume",
    "compiled_chunk",
    "compiled_losses",
    "parity",
)
"""Methods of `Checks`, in order."""


class Checks:
    """The checks of one dataset on one device.

    Args:
        args: The command's.
        folder: For runs and tables; may be thrown away.
    """

    def __init__(self, args: argparse.Namespace, folder: Path) -> None:
        self.device, self.folder, self.steps = args.device, folder, 4 if args.quick else 40
        self.info = read_dataset(None, args.dataset_root)
        self.camera = check_camera(self.info, args.camera)
        self.config = LAQConfig.preset("tiny", offset_seconds=2 / self.info.fps)
        self.also: dict[str, Any] = {}
        """What the last check says beside its number."""

    def _frames(self, count: int = 16) -> torch.Tensor:
        shape = (count, self.config.num_frames, 3, *self.config.image_size)
        return torch.rand(shape, generator=torch.Generator().manual_seed(0))

    def quantizers(self) -> tuple[float, float]:
        """Predicted frames and gradients of the three quantizers."""
        worst, frames = 0.0, self._frames()
        for name in ("nsvq", "fsq", "vq"):
            torch.manual_seed(0)
            laq = LAQ(LAQConfig.preset("tiny", offset_seconds=self.config.offset_seconds, quantizer=name)).eval()
            torch.nn.init.normal_(laq.decoder.to_pixels.weight, std=0.05)
            found = []
            for device in ("cpu", self.device):
                laq.to(device).zero_grad()
                out = laq(frames.to(device))
                (out.recon - frames[:, 1:].to(device)).square().mean().backward()
                gradients = torch.cat([p.grad.flatten() for p in laq.parameters() if p.grad is not None])
                found.append((out.recon.detach().cpu(), gradients.cpu()))
            worst = max(worst, *(apart(b, a) for a, b in zip(*found, strict=True)))
        return worst, 10 * EXACT  # one code that lies between two others moves a whole frame's gradient

    def codes(self) -> tuple[float, float]:
        """Share of codes in which a table that was made on the device differs from one that a CPU made."""
        torch.manual_seed(0)
        laq, tables = LAQ(self.config).eval(), []
        for number, device in enumerate(("cpu", self.device)):
            request = LabelRequest(self.info, self.camera, self.folder / f"table{number}", self.config, "0" * 64)
            label(request, LAQEncoder(laq.to(device)), device=device)
            tables.append(LatentTable.open(request.output).codes(range(self.info.frames))[0])
        return float((tables[0] != tables[1]).double().mean()), 1e-3

    def tf32(self) -> tuple[float, float]:
        """Vectors of a quantizer with TF32 allowed."""
        laq, frames = LAQ(self.config).eval().to(self.device), self._frames().to(self.device)
        exact = laq.encode_vectors(frames)
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("high")
        try:
            return apart(laq.encode_vectors(frames), exact), ROUNDED
        finally:
            torch.set_float32_matmul_precision(before)

    def _policy(self, name: str, device: str, **fields: Any) -> Any:
        from lerobot.datasets.dataset_metadata import LeRobotDatasetMetadata
        from lerobot.policies.factory import make_policy, make_policy_config

        torch.manual_seed(0)
        meaning = {
            "codebook_size": 8,
            "code_seq_len": 2,
            "num_frames": 2,
            "offset_seconds": 0.2,
            "laq_sha256": "a" * 64,
        }
        own = {} if name.endswith("expert_direct") else meaning
        config = make_policy_config(name, device="cpu", push_to_hub=False, **own, **fields)
        meta = LeRobotDatasetMetadata(self.info.root.name, root=self.info.root)
        policy = make_policy(config, ds_meta=meta).to(device).eval()
        policy.config.device = device
        return policy

    def _observation(self, policy: Any, count: int = 2) -> dict[str, Any]:
        random = torch.Generator().manual_seed(1)
        device = policy.config.device
        shapes = {name: feature.shape for name, feature in policy.config.input_features.items()}
        batch: dict[str, Any] = {k: torch.rand(count, *s, generator=random).to(device) for k, s in shapes.items()}
        return batch | {"task": ["push the square"] * count}

    def chunks(self) -> tuple[float, float]:
        """Chunks of the three policies from the same noise."""
        worst = 0.0
        for name in ("hlrp_action_expert_direct", "hlrp_action_expert_latent", "hlrp_vla_direct"):
            found = []
            for device in ("cpu", self.device):
                policy = self._policy(name, device)
                noise = torch.randn(2, policy.config.chunk_size, policy.config.action_dim, generator=_seeded())
                given = {} if name == "hlrp_vla_direct" else {"noise": noise.to(device)}
                found.append(policy.predict_action_chunk(self._observation(policy), **given))
            worst = max(worst, apart(found[1], found[0]))
        return worst, EXACT

    def losses(self) -> tuple[float, float]:
        """Loss and gradients of an action expert for the same noise and times."""
        found = []
        for device in ("cpu", self.device):
            policy = self._policy("hlrp_action_expert_direct", device)
            actions = torch.randn(2, policy.config.chunk_size, policy.config.action_dim, generator=_seeded())
            batch = self._observation(policy) | {"action": actions.to(device)}
            noise, moment = actions.flip(1).to(device), torch.tensor([0.2, 0.7], device=device)
            loss, _ = policy(batch, noise=noise, time=moment)
            loss.backward()
            gradients = [p.grad.flatten().cpu() for p in policy.parameters() if p.grad is not None]
            found.append(torch.cat([loss.detach().cpu().view(1), *gradients]))
        return apart(found[1], found[0]), 10 * EXACT

    def compiled_chunk(self) -> tuple[float, float]:
        """A chunk by compiled kernels, twice: the second time by what was recorded the first time."""
        plain = self._policy("hlrp_action_expert_direct", self.device)
        policy = self._policy("hlrp_action_expert_direct", self.device, compile_model=True)
        policy.load_state_dict(plain.state_dict())
        shape, seen = (2, plain.config.chunk_size, plain.config.action_dim), self._observation(plain)
        worst = 0.0
        for _ in range(3):
            noise = torch.randn(shape, device=self.device)
            expected = plain.predict_action_chunk(seen, noise=noise)
            worst = max(worst, apart(policy.predict_action_chunk(seen, noise=noise), expected))
        return worst, 10 * EXACT

    def compiled_losses(self) -> tuple[float, float]:
        """A quantizer's losses over steps of training, compiled and not."""
        frames, curves = self._frames().to(self.device), []
        for compiled in (False, True):
            torch.manual_seed(0)
            laq = LAQ(LAQConfig.preset("tiny", offset_seconds=0.1, quantizer="fsq")).to(self.device)
            if compiled:
                compile_blocks(laq)
            optimizer, losses = torch.optim.AdamW(laq.parameters(), lr=1e-4), []
            for _ in range(self.steps):
                loss = (laq(frames).recon - frames[:, 1:]).square().mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                losses.append(loss.detach())
            curves.append(torch.stack(losses))
        return apart(curves[1], curves[0]), 1e-2

    def _run(self) -> LightningRun:
        trainer = {"steps": self.steps, "save_freq": self.steps // 2, "batch_size": 8, "device": self.device}
        model = {"kind": "laq", "preset": "tiny"}
        data = {"root": str(self.info.root), "cameras": [self.camera], "offset_seconds": self.config.offset_seconds}
        sections = {"trainer": trainer | {"logger": [], "tf32": False}, "model": model, "data": data | {"cache": "ram"}}
        return LightningRun.model_validate({"trainer_type": "lightning", **sections})

    def resume(self) -> tuple[float, float]:
        """Weights of a run that was resumed halfway, beside those of one that went on."""
        run, half = self._run(), self.folder / "half"
        whole = LightningTrainer().fit(run=run, output_dir=self.folder / "whole")
        shutil.copytree(whole.path, half, symlinks=True)
        shutil.rmtree(half / "checkpoints" / f"{self.steps:06d}")
        LightningTrainer().resume(RunDirectory.open(half), run)
        weights = []
        for path in (whole.path, half):
            laq = LAQ.from_checkpoint(path)
            weights.append(torch.cat([p.detach().flatten() for p in laq.parameters()]))
        return apart(weights[1], weights[0]), 1e-2

    def parity(self) -> tuple[float, float]:
        """Losses and norms of gradients of LeRobot's loop and Lightning's, for ACT and an action expert.

        Weights are told beside it: where a gradient is nothing but rounding, as that of a bias of keys, Adam makes a
        whole step of it, and kernels that round in another order make another one.
        """
        from trainers.parity import measure_parity, parity_runs

        worst = 0.0
        for name in ("act", "hlrp_action_expert_direct"):
            fields = ["model.chunk_size=8", "model.n_action_steps=4", "trainer.tf32=false"]
            fields += ["model.pretrained_backbone_weights=null"] if name == "act" else []
            flags = {"model.policy_type": name, "data.root": str(self.info.root), "trainer.device": self.device}
            given = {key: (value, "") for key, value in (flags | {"trainer.batch_size": 4}).items()}
            runs = parity_runs(given, fields, None, steps=4, output=self.folder / name)
            found = measure_parity(*runs)
            worst = max(worst, *found.loss, *found.grad_norm)
            self.also |= {f"{name}: weights": max(found.weights.values()), f"{name}: of": found.worst_tensor}
        return worst, EXACT


def _seeded() -> torch.Generator:
    return torch.Generator().manual_seed(2)


def carry_out(name: str, check: Callable[[], tuple[float, float]], left: float) -> dict[str, Any]:
    """The line of one check."""
    began = time.perf_counter()
    if left <= 0:
        return {"check": name, "ok": None, "error": "no time was left"}
    try:
        value, limit = check()
        found: dict[str, Any] = {"ok": value <= limit, "value": float(f"{value:.3g}"), "limit": limit}
    except (Exception, SystemExit) as error:  # a failed check must not hide the others
        found = {"ok": False, "error": f"{type(error).__name__}: {error}"[:2000]}
    return {"check": name, **found, "seconds": round(time.perf_counter() - began, 1)}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("dataset_root", type=Path)
    options.add_argument("--camera", help="default: the dataset's only one")
    options.add_argument("--checks", nargs="+", choices=CHECKS, default=CHECKS, metavar="NAME", help=", ".join(CHECKS))
    options.add_argument("--device", default="cuda")
    options.add_argument("--seconds", type=float, default=240, help="no check begins later")
    options.add_argument("--quick", action="store_true", help="fewer steps, to try the script itself")
    args = options.parse_args()
    # Until here float32 means float32, also in cuDNN.
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    from lerobot.utils.import_utils import register_third_party_plugins

    register_third_party_plugins()
    began, good = time.perf_counter(), True
    with tempfile.TemporaryDirectory() as folder:
        checks = Checks(args, Path(folder))
        for name in args.checks:
            line = carry_out(name, getattr(checks, name), args.seconds - (time.perf_counter() - began)) | checks.also
            checks.also = {}
            good &= line["ok"] is True
            print(json.dumps({"device": args.device, **line}), flush=True)
    raise SystemExit(0 if good else 1)


if __name__ == "__main__":
    main()
