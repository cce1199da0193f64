"""The map from latents to actions: fitted on a few labelled episodes, scored on held-out ones, kept in a folder.

Shapes: n frames of an episode, A action dimensions, H steps of a chunk, J = T - 1 transitions of a window of T frames,
S code positions, D width of a vector.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self

import numpy as np

from hlrp import __version__
from hlrp.camera_names import known_as
from hlrp.data.columns import read_column
from hlrp.data.dataset_info import DatasetInfo, check_episodes
from hlrp.data.episodes import Episodes, read_episodes, window_offset
from hlrp.errors import UserError
from hlrp.files import new_folder
from hlrp.latents import action_estimators as estimators
from hlrp.latents.action_scores import FLOOR, ActionDimension, score_dimensions
from hlrp.latents.action_targets import STATE, ActionForm, Targets, column_slices, from_columns, read_targets, width_of
from hlrp.latents.decoder_manifest import (
    KIND,
    MANIFEST,
    SCHEMA_VERSION,
    WEIGHTS,
    DecoderManifest,
    Estimator,
    check_output,
    hash_of_actions,
)
from hlrp.latents.spec import Difference, describe
from hlrp.latents.step_features import (
    Inputs,
    StepFeatures,
    Transitions,
    check_inputs,
    default_offsets,
    read_transitions,
)
from hlrp.latents.table import LatentTable

if TYPE_CHECKING:
    from numpy.typing import NDArray


class EpisodeActions(NamedTuple):
    """Decoded actions of an episode.

    Args:
        actions: float32 ``[n, A]``, in the dataset's units; 0 where not known.
        confidence: float32 ``[n, A]`` in ``[0, 1]``: `ActionDimension.confidence`, 0 where not known.
        known: bool ``[n]``: at least one window of the step could be read.
    """

    actions: "NDArray[np.float32]"
    confidence: "NDArray[np.float32]"
    known: "NDArray[np.bool_]"


class ActionDecoder:
    """A fitted map from latents to actions.

    Args:
        manifest: What it is.
        weights: Its arrays by name, the scale of the features among them.
    """

    def __init__(self, manifest: DecoderManifest, weights: "dict[str, NDArray[np.float32]]") -> None:
        self.manifest, self._weights = manifest, weights
        self._features = StepFeatures(manifest.offsets, weights["feature_mean"], weights["feature_scale"])
        self._targets = [d.target for d in manifest.dimensions]
        self._opened: tuple[LatentTable, DatasetInfo] | None = None
        self._states: NDArray[np.float32] | None = None

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read a decoder.

        Raises:
            UserError: There is none, or its files are of another schema or do not fit together.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load as from_bytes

        manifest = DecoderManifest.read(folder)
        try:
            content = (folder / WEIGHTS).read_bytes()
            weights = from_bytes(content)
        except (OSError, SafetensorError) as error:
            raise UserError(
                f"the weights of the action decoder cannot be read: {error}",
                where=str(folder / WEIGHTS),
                fix="fit it again with hlrp fit-actions",
            ) from error
        digest = hashlib.sha256(content).hexdigest()
        shapes = {name: value.shape for name, value in weights.items()}
        if digest != manifest.weights_sha256 or shapes != _expected_shapes(manifest):
            raise UserError(
                f"{WEIGHTS} (SHA-256 {digest[:16]}...) and {MANIFEST} ({manifest.weights_sha256[:16]}...) are not of "
                f"one decoder",
                where=str(folder),
                fix="fit it again with hlrp fit-actions",
            )
        return cls(manifest, weights)

    def save(self, folder: Path) -> None:
        """Write the folder, which appears whole or not at all; the same fit gives the same bytes.

        Raises:
            UserError: The folder is there already.
        """
        check_output(folder)
        with new_folder(folder) as temporary:
            temporary.mkdir()
            (temporary / WEIGHTS).write_bytes(_to_bytes(self._weights))
            text = self.manifest.model_dump_json(indent=2) + "\n"
            (temporary / MANIFEST).write_text(text, encoding="utf8")

    def check(self, latents: LatentTable, info: DatasetInfo) -> None:
        """Check that it can decode the latents of a dataset, which need not be the one that it was fitted on.

        Raises:
            UserError: Another quantizer, rate, camera, width of the action or of the state; both sides are named.
        """
        latents.check(dataset=info)
        manifest, identity = self.manifest, latents.identity
        vectors = manifest.inputs != "codes"
        differ = identity.codes(vectors=vectors).differences(manifest.spec)
        if identity.camera != known_as(manifest.camera, info.cameras):
            differ.append(Difference("camera", identity.camera, manifest.camera))
        if info.fps != manifest.fps:
            differ.append(Difference("frames per second", info.fps, manifest.fps))
        if "action" in info.features and width_of(info, "action") != len(manifest.dimensions):
            differ.append(Difference("width of the action", width_of(info, "action"), len(manifest.dimensions)))
        state = width_of(info, STATE) if STATE in info.features else None
        if manifest.state_width is not None and state != manifest.state_width:
            differ.append(Difference(f"width of {STATE!r}", state, manifest.state_width))
        if differ:
            raise UserError(
                "the action decoder does not fit: " + describe(differ, "the dataset", "the decoder"),
                where=f"--decoder, {latents.folder}, {info.root}",
                fix="fit a decoder on labelled episodes of this robot and camera, with the quantizer of these latents",
            )

    def episode(self, latents: LatentTable, info: DatasetInfo, episode: int) -> EpisodeActions:
        """Decode an episode; of the dataset's columns only `observation.state` is read, and only for differences to it.

        With a horizon above 1: the first action of each chunk.

        Raises:
            UserError: As `check`, or there is no such episode.
        """
        table = read_episodes(info)
        self._open(latents, info, table)
        check_episodes(info, [episode])
        first, end = int(table.start[episode]), int(table.end[episode])
        state = None if self._states is None else self._states[first:end]
        chunks, known = self.decode(read_transitions(latents, first, end, self.manifest.inputs), state)
        sure = np.asarray([d.confidence for d in self.manifest.dimensions], np.float32)
        return EpisodeActions(chunks[:, 0], sure * known[:, None], known)

    def _open(self, latents: LatentTable, info: DatasetInfo, table: Episodes) -> None:
        """Check a dataset and read its states, once for all its episodes."""
        if self._opened is not None and self._opened[0] is latents and self._opened[1] is info:
            return
        self.check(latents, info)
        needed = self.manifest.state_width is not None
        self._states = read_column(info, STATE, table.present) if needed else None
        self._opened = (latents, info)

    def decode(
        self, windows: Transitions, state: "NDArray[np.float32] | None" = None
    ) -> "tuple[NDArray[np.float32], NDArray[np.bool_]]":
        """Decode the windows that begin at frames in a row; for one that reads the window at the step alone, any.

        Args:
            windows: Latents of ``n`` windows, `inputs` of the manifest.
            state: `observation.state` of the frames that the windows begin at, ``[n, state_width]``, where differences
                to it are predicted.

        Returns:
            Actions float32 ``[n, H, A]``, 0 where not known, and known bool ``[n]``.
        """
        rows, share = self._features.rows(windows)
        known = share > 0
        columns = estimators.predict(self.manifest.estimator, self._weights, rows)
        values = from_columns(columns, self._targets, self.manifest.horizon)
        for number, dimension in enumerate(self.manifest.dimensions):
            stretched = dimension.mean + dimension.factor * (values[..., number] - dimension.mean)
            values[..., number] = stretched.clip(dimension.low, dimension.high)
            if dimension.state is not None:
                assert state is not None, "this decoder needs the state"
                values[..., number] += state[:, dimension.state, None]
        if state is not None:
            known = known & np.isfinite(values).all((1, 2))
        return np.where(known[:, None, None], values, 0).astype(np.float32), known


def fit_actions(
    latents: LatentTable,
    info: DatasetInfo,
    episodes: Sequence[int],
    *,
    estimator: Estimator = "ridge",
    inputs: Inputs = "both",
    action_form: ActionForm | Literal["auto"] = "auto",
    offsets: Sequence[int] | None = None,
    horizon: int = 1,
    floor: float = FLOOR,
    seed: int = 0,
    device: str = "cpu",
) -> ActionDecoder:
    """Fit the map on the labelled episodes of a dataset.

    Args:
        latents: Table of the dataset's latents, with vectors unless ``inputs`` are codes.
        info: The dataset. Latents of all its episodes may be read, actions and states of ``episodes`` alone.
        episodes: The labelled episodes.
        estimator: A ridge regression, or five small perceptrons.
        inputs: Continuous latents, codes, or both.
        action_form: Whether actions are predicted or their difference to the state; auto: as the labelled data are.
        offsets: Frames around a step at which windows begin; none: `default_offsets`, or with a ``horizon`` above 1 at
            the step alone.
        horizon: Actions to predict from a step on.
        floor: Held-out R2 below which a dimension is not trusted.
        seed: Of the perceptrons.
        device: Where the perceptrons are fitted.

    Raises:
        UserError: No labelled episode, one that is not there or has no usable step, latents that do not belong to the
            dataset, or no state to take differences to.
    """
    chosen = sorted(set(episodes))
    if not chosen:
        raise UserError("no episode is labelled", where="--episodes", fix="name episodes whose actions may be read")
    check_episodes(info, chosen)
    latents.check(dataset=info)
    check_inputs(latents, inputs)
    table = read_episodes(info)
    reach = window_offset(latents.identity.offset_seconds, info.fps)
    windows = list(offsets) if offsets is not None else default_offsets(reach) if horizon == 1 else [0]
    targets = read_targets(info, table, chosen, action_form, horizon)
    features = StepFeatures.of_table(latents, inputs, windows)
    rows, whole, targets = _labelled_rows(features, latents, table, targets, inputs)
    folds = estimators.make_folds(targets.episode, table.task)
    if estimator == "ridge":
        fit = estimators.fit_ridge(rows, targets.columns(), folds, _columns_of(targets, horizon))
    else:
        fit = estimators.fit_ensemble(rows, targets.columns(), folds, seed=seed, device=device)
    held_out = from_columns(fit.held_out, targets.dimensions, horizon)
    dimensions = score_dimensions(held_out, targets, whole, table.task, floor)
    weights = fit.weights | {"feature_mean": features.mean, "feature_scale": features.scale}
    settings = {"estimator": estimator, "inputs": inputs, "offsets": windows, "horizon": horizon, "seed": seed}
    manifest = _describe(latents, info, dimensions, folds, weights, episodes=chosen, floor=floor, **settings)
    return ActionDecoder(manifest, weights)


def _describe(
    latents: LatentTable,
    info: DatasetInfo,
    dimensions: list[ActionDimension],
    folds: estimators.Folds,
    weights: "dict[str, NDArray[np.float32]]",
    **settings: Any,
) -> DecoderManifest:
    """The manifest of a map, whose fields that were asked for are ``settings``."""
    differences = any(d.state is not None for d in dimensions)
    return DecoderManifest(
        schema_version=SCHEMA_VERSION,
        kind=KIND,
        hlrp_version=__version__,
        spec=latents.identity.codes(vectors=settings["inputs"] != "codes"),
        dataset=info.repo_id,
        dataset_fingerprint=info.fingerprint(),
        actions_sha256=hash_of_actions(info, settings["episodes"]),
        camera=latents.identity.camera,
        fps=info.fps,
        action_form="state_difference" if differences else "direct",
        state_width=width_of(info, STATE) if differences else None,
        dimensions=dimensions,
        held_out="episodes" if folds.whole.all() else "both" if folds.whole.any() else "blocks",
        weights_sha256=hashlib.sha256(_to_bytes(weights)).hexdigest(),
        **settings,
    )


def _labelled_rows(
    features: StepFeatures, latents: LatentTable, table: Episodes, targets: Targets, inputs: Inputs
) -> "tuple[NDArray[np.float32], NDArray[np.bool_], Targets]":
    """Features of the labelled steps, whether all windows of a step could be read, and the steps that have any.

    Raises:
        UserError: None has.
    """
    parts, shares = [], np.zeros(len(targets.episode))
    for episode in np.unique(targets.episode).tolist():
        windows = read_transitions(latents, int(table.start[episode]), int(table.end[episode]), inputs)
        rows, share = features.rows(windows)
        mine = np.flatnonzero(targets.episode == episode)
        shares[mine] = share[targets.step[mine]]
        parts.append(rows[targets.step[mine]])
    keep = shares > 0
    kept = Targets(targets.episode[keep], targets.step[keep], targets.values[keep], targets.dimensions)
    if keep.sum() < 2:
        raise UserError(
            "the labelled episodes have no latents: they are shorter than a window, or could not be decoded",
            where=f"--episodes, {latents.folder}",
            fix="choose longer episodes, or label with a quantizer of a shorter offset",
        )
    return np.concatenate(parts)[keep], shares[keep] == 1, kept


def _columns_of(targets: Targets, horizon: int) -> "list[NDArray[np.int64]]":
    """The columns of each dimension, over all steps of a chunk."""
    slices = column_slices(targets.dimensions)
    width = slices[-1].stop
    steps = np.arange(horizon)[:, None] * width
    return [(steps + np.arange(s.start, s.stop)).reshape(-1) for s in slices]


def _expected_shapes(manifest: DecoderManifest) -> dict[str, tuple[int, ...]]:
    spec = manifest.spec
    transitions = spec.num_frames - 1
    widths = {"vectors": spec.vector_dim or 0, "codes": spec.codebook_size}
    numbers = spec.code_seq_len * sum(width for name, width in widths.items() if manifest.inputs in ("both", name))
    columns = manifest.horizon * sum(d.target.width for d in manifest.dimensions)
    width = len(manifest.offsets) * transitions * (numbers + 1)
    scale = dict.fromkeys(("feature_mean", "feature_scale"), (transitions, numbers))
    return scale | estimators.expected_shapes(manifest.estimator, width, columns)


def _to_bytes(weights: "dict[str, NDArray[np.float32]]") -> bytes:
    from safetensors.numpy import save

    return save({name: np.ascontiguousarray(weights[name]) for name in sorted(weights)})
