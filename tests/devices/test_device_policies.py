"""The three policies on the pretended device: losses, chunks, labels, and the Lightning adapter's steps."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from lerobot.configs.types import FeatureType, PolicyFeature
from lerobot.policies.factory import get_policy_class
from planted_reads import planted_read
from pretended_cuda import CUDA, move, pretended_cuda
from pretended_training import train

import lerobot_policy_felix_bundle as bundle
from hlrp.data import LeRobotDataModule
from hlrp.data.batch_loader import LoaderBesideStep
from hlrp.policies import LeRobotPolicyAdapter

CAMERA = "observation.images.front"
POSITIONS, CHUNK, ACTIONS, STATE = 4, 6, 3, 2
MEANING = {"codebook_size": 8, "code_seq_len": 2, "num_frames": 3, "offset_seconds": 0.2, "laq_sha256": "a" * 64}
DIRECT, LATENT, VLA = "hlrp_action_expert_direct", "hlrp_action_expert_latent", "hlrp_vla_direct"
CONFIGS: dict[str, Any] = {
    DIRECT: bundle.HLRPActionExpertDirectConfig,
    LATENT: bundle.HLRPActionExpertLatentConfig,
    VLA: bundle.HLRPVLADirectConfig,
}


def make_policy(name: str, **fields: Any) -> Any:
    config = CONFIGS[name](
        device="cpu",
        push_to_hub=False,
        chunk_size=CHUNK,
        n_action_steps=4,
        input_features={
            CAMERA: PolicyFeature(FeatureType.VISUAL, (3, 64, 80)),
            "observation.state": PolicyFeature(FeatureType.STATE, (STATE,)),
        },
        output_features={"action": PolicyFeature(FeatureType.ACTION, (ACTIONS,))},
        **({} if name == VLA else {"num_steps": 2}),
        **({} if name == DIRECT else MEANING),
        **fields,
    )
    return get_policy_class(name)(config)


def make_batch(count: int = 2) -> dict[str, Any]:
    """A preprocessed, labelled batch."""
    return {
        CAMERA: torch.rand(count, 3, 64, 80),
        "observation.state": torch.randn(count, STATE),
        "task": ["push", "pull the long lever"] * (count // 2),
        "action": torch.randn(count, CHUNK, ACTIONS),
        "action_is_pad": torch.zeros(count, CHUNK, dtype=torch.bool),
        "hlrp.codes": torch.randint(0, 8, (count, POSITIONS)),
        "hlrp.code_mask": torch.ones(count, POSITIONS, dtype=torch.bool),
        "hlrp.action_mask": torch.arange(count) > 0,
    }


VARIANTS: list[tuple[str, dict[str, Any]]] = [
    (DIRECT, {}),
    (LATENT, {}),
    (LATENT, {"bottleneck_prefix": "kept"}),
    (LATENT, {"conditioning": "tokens"}),
    (LATENT, {"conditioning": "suffix"}),
    (VLA, {}),
    (VLA, {"true_latents": 0.5, "latent_source": "precomputed"}),
]


@pytest.mark.parametrize(("name", "fields"), VARIANTS, ids=[f"{n} {f}" for n, f in VARIANTS])
def test_steps_and_chunks(name: str, fields: dict[str, Any]) -> None:
    policy = make_policy(name, **fields)
    with pretended_cuda(strict=False) as cuda:
        policy.to("cuda")
        batch = move(make_batch())
        optimizer = torch.optim.AdamW(policy.get_optim_params(), lr=1e-3)
        # The first pass may ask for what stays as it is.
        assert policy(batch, reduction="none")[0].device == CUDA
        cuda.strict = True
        policy(batch)[0].backward()
        optimizer.step()
        optimizer.zero_grad()
        with planted_read():
            policy(batch)
        with planted_read(in_optimizer=True):
            optimizer.step()
        if hasattr(policy, "update"):
            policy.update()
        seen = {k: v for k, v in batch.items() if not k.startswith(("hlrp.", "action"))}
        assert policy.predict_action_chunk(seen).device == CUDA
        with planted_read():
            policy.predict_action_chunk(seen)
        if name != VLA:
            # Without the prefix cache every step of a chunk runs the VLM.
            noise, time = torch.randn(2, CHUNK, ACTIONS, device="cuda"), torch.ones(2, device="cuda")
            for _ in range(2):
                with torch.no_grad():
                    noise = noise - policy.expert.velocity(policy.prefix(seen), noise, time) / 2
            assert noise.device == CUDA
        policy.reset()
        assert all(policy.select_action(seen).device == CUDA for _ in range(2))
        cuda.strict = False  # measuring may wait
        assert (policy.code_effect(batch) is not None) is policy.conditioned_on_codes


@pytest.mark.parametrize("fields", [{}, {"bottleneck_prefix": "kept"}, {"conditioning": "suffix"}], ids=str)
def test_real_time_chunking(fields: dict[str, Any]) -> None:
    """Without the observation's keys and values, and with them."""
    rtc = {"enabled": True, "execution_horizon": 4}
    policy = make_policy(LATENT if fields else DIRECT, rtc_config=rtc, **fields)
    with pretended_cuda(strict=False) as cuda:
        policy.to("cuda")
        seen = move({k: v for k, v in make_batch().items() if not k.startswith(("hlrp.", "action"))})
        left = torch.zeros(2, 4, ACTIONS, device="cuda")
        guidance = {"inference_delay": 1, "prev_chunk_left_over": left, "execution_horizon": 4}
        for cuda.strict in (False, True):
            assert policy.predict_action_chunk(seen, **guidance).device == CUDA
        with planted_read():
            policy.predict_action_chunk(seen, **guidance)


@pytest.mark.parametrize("kind", ["mlp", "laq", "both", "vectors"])
def test_decoders_of_latents(kind: str) -> None:
    from hlrp.latents import CodeSpec
    from lerobot_policy_felix_bundle.policies.hlrp_vla_direct.code_decoder import CodeDecoder, VectorDecoder

    sizes: dict[str, Any] = {"state_dim": STATE, "chunk": (CHUNK, ACTIONS), "width": 8, "layers": 1}
    spec = CodeSpec(**MEANING)
    if kind == "vectors":
        decoder: Any = VectorDecoder(POSITIONS, 5, **sizes)
        latents = torch.randn(2, POSITIONS, 5)
    else:
        decoder = CodeDecoder(spec, kind, code_dim=None if kind == "mlp" else 5, **sizes)
        latents = torch.randn(2, POSITIONS, 8).softmax(-1)
    if kind in ("laq", "both"):
        decoder.set_vectors(torch.randn(2, 8, 5))
    with pretended_cuda():
        decoder.to("cuda")
        optimizer = torch.optim.AdamW(decoder.parameters(), fused=True)
        given = move((latents, torch.randn(2, STATE)))
        actions = decoder(*given)
        actions.square().mean().backward()
        optimizer.step()
        assert actions.device == CUDA and actions.shape == (2, CHUNK, ACTIONS)
        with planted_read():
            decoder(*given)


def test_the_map_from_latents_to_actions(monkeypatch: pytest.MonkeyPatch) -> None:
    """The perceptrons of `fit-actions`, which stop where that is best, without a look at every epoch."""
    import numpy as np

    from hlrp.latents import action_estimators

    monkeypatch.setattr(action_estimators, "_EPOCHS", 3)
    fit = np.arange(10) < 7
    with pretended_cuda():
        x, y = move((torch.randn(10, 4), torch.randn(10, 2)))
        model = action_estimators._train(x, y, fit, ~fit, 0)
        assert model(x).device == CUDA
        for in_optimizer in (False, True):
            with planted_read(in_optimizer=in_optimizer):
                action_estimators._train(x, y, fit, ~fit, 0)


@pytest.fixture
def _lerobot_sees_the_device() -> Iterator[None]:
    """LeRobot takes another device where there is no driver."""
    with (
        patch("lerobot.configs.policies.is_torch_device_available", return_value=True),
        patch(
            "lerobot.processor.device_processor.get_safe_torch_device", side_effect=lambda name, **_: torch.device(name)
        ),
    ):
        yield


@pytest.mark.usefixtures("_lerobot_sees_the_device")
@pytest.mark.parametrize(
    ("name", "source", "fields"),
    [
        (LATENT, "table2", {"labelled_episodes": [0, 2]}),
        # An optimizer that was asked for takes plain parameters, as those of LeRobot's own policies do.
        (VLA, "laq3", {"latent_offset_frames": 2, "optimizer": {"type": "adamw", "lr": 1e-4}}),
    ],
    ids=["table", "online"],
)
def test_the_adapters_steps(
    name: str, source: str, fields: dict[str, Any], squares: Path, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Transfer, LeRobot's preprocessor with its labels, loss, clipping, optimizer, the policy's update, the average;
    and all of that again where a checkpoint was left.
    """
    labels = {"latent_table" if source == "table2" else "latent_laq": str(request.getfixturevalue(source))}

    def make() -> LeRobotPolicyAdapter:
        return LeRobotPolicyAdapter(name, ema_decay=0.9, chunk_size=CHUNK, n_action_steps=4, **labels, **fields)

    adapter = make()
    data = LeRobotDataModule(root=squares, cache="ram", batch_size=4, num_workers=0)
    with pretended_cuda() as cuda:
        # From the store, batches are gathered in a thread.
        train(cuda, adapter, data, steps=3, save=tmp_path / "state", in_optimizer=True)
        assert adapter.built.config.device == "cuda"
        assert isinstance(adapter.trainer.train_dataloader, LoaderBesideStep)
        [group] = adapter.optimizers(use_pl_optimizer=False).param_groups
        assert group["fused"]
        if source == "table2":
            train(cuda, make(), data, resume=tmp_path / "state")


@pytest.mark.usefixtures("_lerobot_sees_the_device")
def test_a_policy_acts_after_its_training(squares: Path) -> None:
    """Lightning leaves the weights on the CPU, and observations go to the device that it was made for."""
    adapter = LeRobotPolicyAdapter(DIRECT, ema_decay=0.9, chunk_size=CHUNK, n_action_steps=4, num_steps=2)
    observation = {"observation.image": torch.rand(1, 3, 96, 96), "observation.state": torch.rand(1, 2)}
    observation |= {"task": ["pull it"]}
    with pretended_cuda() as cuda:
        train(cuda, adapter, LeRobotDataModule(root=squares, cache="ram", batch_size=4, num_workers=0))
        assert {p.device.type for p in adapter.parameters()} == {"cpu"}
        cuda.strict = False
        assert adapter.select_action(observation).shape == (1, 3)
        assert {p.device.type for p in adapter.average.module.parameters()} == {"cuda"}
