"""What a policy does on recorded pictures and states, beside what was done: its weights and processors alone."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hlrp.evaluation.diagnosis.findings import Finding, Trace, failed, passed, undecided
from hlrp.evaluation.diagnosis.recorded import ACTION, STATE, Recorded, Row
from hlrp.evaluation.frames import reads_next_observation
from hlrp.evaluation.policy import LoadedPolicy

_MOST_STEPS = 300
_MOST_LOOKED_UP = 20_000
_WORTH = 0.5
"""Of what looking up the nearest recorded state explains: weights that explain less have not learned these data."""
_EXPLAINS = 0.5
_LAGS = (-3, -2, -1, 1, 2, 3)


@dataclass(frozen=True, eq=False)
class OpenLoop:
    """Actions on recorded observations, episode by episode.

    Args:
        rows: The episodes.
        predicted: The policy's, as it would execute them, `[T, A]` each.
        recorded: Those of the data, `[T, A]` each.
    """

    rows: list[Row]
    predicted: list[NDArray[np.float32]]
    recorded: list[NDArray[np.float32]]


def act_on_recorded(
    loaded: LoadedPolicy, recorded: Recorded, rename: Mapping[str, str], seed: int, *, most: int = _MOST_STEPS
) -> OpenLoop:
    """Let a policy act on recorded observations as in a rollout: chunk by chunk, with its memory of observations.

    Args:
        loaded: The policy.
        recorded: The data; the episodes are its rows.
        rename: What the policy's preprocessor renames.
        seed: Of the noise that some policies draw.
        most: Steps of an episode at most.
    """
    from lerobot.utils.random_utils import set_seed

    set_seed(seed)
    rows, policy = recorded.rows, loaded.policy
    lengths = [min(row.length, most) for row in rows]
    told = {new: old for old, new in rename.items()}
    inputs = [name for name in loaded.config.input_features or {} if name in recorded.shapes]
    tasks = [recorded.table.task[row.episode] for row in rows]
    policy.reset()
    looks, pictures, actions = True, {}, []
    with torch.inference_mode():
        for step in range(max(lengths)):
            index = np.array([row.start + min(step, length - 1) for row, length in zip(rows, lengths, strict=True)])
            batch: dict[str, Any] = {"task": tasks}
            for name in inputs:
                if name in recorded.readers:
                    if looks or name not in pictures:
                        pictures[name] = torch.from_numpy(recorded.readers[name].read(index)).float() / 255
                    batch[told.get(name, name)] = pictures[name]
                elif (values := recorded.numbers(name)) is not None:
                    batch[told.get(name, name)] = torch.from_numpy(values[index])
            action = loaded.postprocessor(policy.select_action(loaded.preprocessor(batch)))
            actions.append(action.float().cpu().numpy())
            looks = reads_next_observation(policy)
    together = np.stack(actions, 1)
    theirs = [recorded.of(ACTION, row) for row in rows]
    return OpenLoop(
        rows,
        [together[i, :length] for i, length in enumerate(lengths)],
        [values[:length] for values, length in zip(theirs, lengths, strict=True) if values is not None],
    )


def explained(loop: OpenLoop, recorded: Recorded) -> NDArray[np.float64]:
    """Share of the recorded actions' variance that the policy explains, `[A]`; NaN of a joint that never moved."""
    error = np.concatenate(loop.predicted) - np.concatenate(loop.recorded)
    return _share(error, loop, recorded)


def _share(error: NDArray[np.float32], loop: OpenLoop, recorded: Recorded) -> NDArray[np.float64]:
    everything = np.concatenate(recorded.by_episode(ACTION)).astype(np.float64)
    constant = ((np.concatenate(loop.recorded) - everything.mean(0)) ** 2).mean(0)
    moving = everything.std(0) > 0.05 * recorded.spread(ACTION)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(moving & (constant > 0), 1 - (error.astype(np.float64) ** 2).mean(0) / constant, np.nan)


def looked_up(loop: OpenLoop, recorded: Recorded) -> float | None:
    """What the action of the nearest recorded state of any other episode explains, mean over joints; None: no other."""
    states, actions = recorded.numbers(STATE), recorded.numbers(ACTION)
    if states is None or actions is None or len(recorded.table.present) < 2:
        return None
    scaled = states / recorded.spread(STATE)
    errors = []
    for row, own in zip(loop.rows, loop.recorded, strict=True):
        others = np.concatenate(
            [
                np.arange(recorded.table.start[e], recorded.table.end[e])
                for e in recorded.table.present
                if e != row.episode
            ]
        )
        others = others[:: -(-len(others) // _MOST_LOOKED_UP)]
        kept = others[np.isfinite(actions[others]).all(1) & np.isfinite(scaled[others]).all(1)]
        asked = scaled[row.start : row.start + len(own)]
        nearest = [kept[int(((scaled[kept] - state) ** 2).sum(1).argmin())] for state in asked]
        errors.append(actions[nearest] - own)
    return typical(_share(np.concatenate(errors), loop, recorded))


def typical(shares: NDArray[np.float64]) -> float:
    """The mean over joints; one that is worse than useless counts as -1 at least."""
    return float(np.nanmean(np.clip(shares, -1.0, 1.0))) if np.isfinite(shares).any() else 0.0


def check_open_loop(loaded: LoadedPolicy, loop: OpenLoop, recorded: Recorded, *, repaired: bool) -> Finding:
    """Whether the weights have learned the recorded actions.

    Args:
        loaded: The policy.
        loop: What it did.
        recorded: The data.
        repaired: Whether it acted with the dataset's statistics in place of its own.
    """
    shares = explained(loop, recorded)
    names = recorded.joints(ACTION)
    share, reference = typical(shares), looked_up(loop, recorded)
    steps, chunk = (getattr(loaded.config, name, None) for name in ("n_action_steps", "chunk_size"))
    chunk = chunk or getattr(loaded.config, "horizon", None)
    each = {n: None if np.isnan(s) else round(float(s), 4) for n, s in zip(names, shares, strict=True)}
    evidence = {"explained": round(share, 4), "joints": each, "n_action_steps": steps, "chunk_size": chunk}
    evidence |= {"nearest_state_explains": None if reference is None else round(reference, 4)}
    said = "" if reference is None else f"; the nearest recorded state's action explains {max(reference, 0):.0%}"
    much = f"{share:.0%}" if share > 0 else "nothing"
    text = f"on recorded pictures the policy's actions explain {much} of what the recorded ones vary{said}"
    if repaired:
        text += " (with the dataset's statistics in place of its own)"
    if loaded.warnings:
        fix = "restore the checkpoint, or use another one of the run"
        return failed("weights", "open loop", "weights_missing", f"{loaded.warnings[0]}; {text}", fix, **evidence)
    lag = _lag(loop)
    if lag is not None:
        when = f"{abs(lag)} step{'s' if abs(lag) > 1 else ''} {'late' if lag < 0 else 'early'}"
        line = f"the policy does what was recorded {when}; as it is its actions explain {much}"
        fix = "train again from this dataset: these weights were trained with shifted actions"
        return failed("weights", "open loop", "actions_shifted", line, fix, lag=lag, **evidence)
    if share <= _WORTH * max(reference or 0.0, 0.0):
        fix = "train longer, or take the checkpoint that was meant; `hlrp report RUN` shows the loss"
        return failed(
            "weights", "open loop", "weights_untrained", f"{text}: untrained, or other weights", fix, **evidence
        )
    if steps and chunk:
        text += f"; {steps} of {chunk} actions of a chunk are executed"
    late = _late_error(loop, steps)
    if late is not None:
        evidence["late_error_ratio"] = round(late, 2)
        if late > 1 / _WORTH:
            line = (
                f"{text}, the last of them {late:.1f} times as wrong as the first: fewer n_action_steps may do better"
            )
            return undecided("weights", "open loop", line, **evidence)
    return passed("weights", "open loop", text, **evidence)


def _lag(loop: OpenLoop) -> int | None:
    """By how many steps the policy's actions are the recorded ones shifted, if that explains most of the error."""

    def error(lag: int) -> float:
        total, count = 0.0, 0
        for ours, theirs in zip(loop.predicted, loop.recorded, strict=True):
            a, b = (ours[: len(ours) - lag], theirs[lag:]) if lag >= 0 else (ours[-lag:], theirs[:lag])
            total, count = total + float(((a - b) ** 2).sum()), count + a.size
        return total / max(count, 1)

    best = min(_LAGS, key=error)
    return best if error(best) <= _EXPLAINS * _EXPLAINS * error(0) else None


def _late_error(loop: OpenLoop, steps: int | None) -> float | None:
    """Error of the last executed actions of chunks over that of the first ones; None: there are not three of them."""
    if not steps or steps < 3:
        return None
    error = [np.abs(a - b).mean(1) for a, b in zip(loop.predicted, loop.recorded, strict=True)]
    place = np.concatenate([np.arange(len(e)) % steps for e in error])
    joined = np.concatenate(error)
    third = steps // 3
    first, last = joined[place < third].mean(), joined[place >= steps - third]
    return float(last.mean() / first) if len(last) and first > 0 else None


def traces_of(loop: OpenLoop, recorded: Recorded) -> list[Trace]:
    """Joint by joint the first episode."""
    names = recorded.joints(ACTION)
    ours, theirs = loop.predicted[0], loop.recorded[0]
    return [Trace(n, loop.rows[0].episode, theirs[:, d], ours[:, d]) for d, n in enumerate(names)]
