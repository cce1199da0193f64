"""The held-out loss of both engines: of this project's policies over what is supervised, of others over batches."""

import logging
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from make_dataset import make_dataset
from two_processes import first_of_two

from hlrp.finite import FiniteLoss
from hlrp.policies.held_out import HeldOutLoss
from lerobot_policy_felix_bundle.policies.common.losses import Term, reduce_terms

sys.path.insert(0, str(Path(__file__).parent))
from tiny_runs import rows_of, train_in_lightning, train_natively

DIRECT = "hlrp_action_expert_direct"
LABELLED = [0, 1, 3]
"""Of five episodes, the last two of which are held out."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("held") / "squares", episodes=5, length=10)


def _terms(losses: list[float], mask: list[bool], codes: list[float], known: list[bool]) -> dict[str, Term]:
    return {
        "action": Term(torch.tensor(losses), torch.tensor(mask)),
        "latent": Term(torch.tensor(codes), torch.tensor(known), weight=0.5),
    }


BATCHES = [
    _terms([1.0, 2.0, 9.0], [True, True, False], [7.0, 7.0, 4.0], [False, False, True]),
    _terms([9.0, 9.0], [False, False], [9.0, 9.0], [False, False]),
    _terms([6.0, 9.0], [True, False], [1.0, 1.0], [True, True]),
]


def _measured(batches: list[dict[str, Term]], add_up: Any = lambda sums: sums) -> dict[str, float]:
    losses = HeldOutLoss()
    with torch.no_grad():
        for terms in batches:
            losses.add(*reduce_terms(terms, "mean"))
    found = losses.measure("val", add_up)
    assert not losses and losses.measure("val", add_up) == {}
    return found


def test_means_are_taken_over_what_is_supervised_in_all_batches() -> None:
    assert _measured(BATCHES) == {"val_action_loss": 3, "val_latent_loss": 2, "val_loss": 4}


def test_a_term_of_which_there_is_nothing_is_left_out() -> None:
    masked = [False] * 2
    assert _measured([_terms([1.0, 2.0], masked, [3.0, 5.0], [True, True])]) == {"val_latent_loss": 4, "val_loss": 2}
    assert _measured(BATCHES[1:2]) == {}
    unweighted = {"latent": Term(torch.tensor([3.0]), torch.tensor([True]), weight=0.0)}
    assert _measured([unweighted]) == {"val_latent_loss": 3}, "it decides nothing"


def test_two_processes_that_have_unlike_much_measure_as_one(tmp_path: Path) -> None:
    def share(rank: int) -> dict[str, float]:
        def add_up(sums: torch.Tensor) -> torch.Tensor:
            torch.distributed.all_reduce(sums)
            return sums

        return _measured([BATCHES[:2], BATCHES[2:]][rank], add_up)

    assert first_of_two(share, tmp_path / "meeting") == _measured(BATCHES)


def test_of_other_policies_it_is_the_mean_over_batches() -> None:
    losses = HeldOutLoss()
    for loss in (1.0, 2.0, 6.0):
        losses.add(torch.tensor(loss), {"l1_loss": 5.0})
    assert losses.measure("val", lambda sums: sums) == {"val_loss": 3}


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, int]]:
    """Of each held-out batch the loss that the policy gives, and the numbers of labelled actions in it."""
    from lerobot.policies.act.modeling_act import ACTPolicy

    from lerobot_policy_felix_bundle.policies.common.policy import HLRPPolicy

    seen: list[tuple[float, int]] = []
    for policy in (ACTPolicy, HLRPPolicy):

        def watched(self: Any, batch: Any, forward: Any = policy.forward, **given: Any) -> Any:
            loss, outputs = forward(self, batch, **given)
            if not self.training:
                labelled = torch.isin(batch["episode_index"], torch.tensor(LABELLED)).reshape(-1, 1)
                count = int((labelled & ~batch["action_is_pad"]).sum()) * batch["action"].shape[-1]
                seen.append((float(loss), count))
            return loss, outputs

        monkeypatch.setattr(policy, "forward", watched)
    return seen


def _expected(batches: list[tuple[float, int]]) -> float:
    """The mean over labelled actions, from which the mean over batches is far."""
    assert len(batches) == 5 and sum(count == 0 for _, count in batches) == 2
    mean = sum(loss * count for loss, count in batches) / sum(count for _, count in batches)
    assert mean > 1.3 * sum(loss for loss, _ in batches) / len(batches)
    return mean


def test_lightning_leaves_out_what_is_not_labelled(
    root: Path, tmp_path: Path, batches: list[tuple[float, int]]
) -> None:
    keys: dict[str, Any] = {"model.labelled_episodes": LABELLED, "trainer.eval_split": 0.4, "trainer.steps": 2}
    run = train_in_lightning(DIRECT, root, tmp_path / "run", **keys, **{"trainer.eval_steps": 2})
    (loss,) = rows_of(run, "val_loss")
    assert loss == pytest.approx(_expected(batches), rel=1e-5)
    assert rows_of(run, "val_action_loss") == [loss]


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, Any]]]:
    """What LeRobot's loop in this process tells of its held-out losses, with the trainer's hooks for them."""
    from accelerate import Accelerator
    from lerobot.scripts import lerobot_train

    from trainers.lerobot.hooks import _report_metrics, _watch_held_out

    told: list[dict[str, Any]] = []
    for owner, name in (
        (lerobot_train, "make_optimizer_and_scheduler"),
        (lerobot_train.MetricsTracker, "step"),
        (Accelerator, "reduce"),
    ):
        monkeypatch.setattr(owner, name, getattr(owner, name))
    factory = logging.getLogRecordFactory()

    def emit(event: str, **fields: Any) -> None:
        if event == "eval_loss":
            told.append(fields)

    _report_metrics(lerobot_train, emit, FiniteLoss(10), _watch_held_out(lerobot_train))
    yield told
    logging.setLogRecordFactory(factory)


@pytest.mark.parametrize("policy", [DIRECT, "act"])
def test_lerobots_loop_tells_the_same_at_full_precision(
    policy: str,
    root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    batches: list[tuple[float, int]],
    events: list[dict[str, Any]],
) -> None:
    more: dict[str, Any] = {"dataset.eval_split": 0.4, "eval_steps": 2}
    more |= {"policy.labelled_episodes": LABELLED} if policy == DIRECT else {}
    native = train_natively(policy, root, tmp_path / "out", monkeypatch, steps=2, **more)
    (told,) = events
    mean = _expected(batches) if policy == DIRECT else sum(loss for loss, _ in batches) / len(batches)
    assert told.pop("steps") == 2 and told.pop("eval_loss") == pytest.approx(mean, rel=1e-6)
    assert told == ({"eval_action_loss": pytest.approx(mean, rel=1e-6)} if policy == DIRECT else {})
    assert native.eval_loss == [round(mean, 4)], "and LeRobot's own line says it too"
    assert not math.isclose(mean, round(mean, 4), rel_tol=1e-6)
