"""Pseudo-labels: a new dataset in which every episode has actions, the recorded ones or those that a map gives.

Shapes: n frames of an episode, A action dimensions.
"""

import shlex
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hlrp.data.action_statistics import rewrite_action_statistics
from hlrp.data.columns import ACTION_CONFIDENCE, ACTION_SOURCE, PREDICTED, RECORDED, UNKNOWN, read_columns
from hlrp.data.dataset_info import INFO, DatasetInfo
from hlrp.data.episodes import read_episodes
from hlrp.data.identity import visible_files
from hlrp.data.linked_copy import (
    LINKED,
    Column,
    alone,
    column_of,
    place,
    rewrite_json,
    rewrite_table,
    with_columns,
)
from hlrp.data.pseudo_label_checks import episodes_without_actions
from hlrp.data.video_times import nearest_index
from hlrp.errors import UserError
from hlrp.files import fsync_folder, fsync_tree, new_file, write_json
from hlrp.latents.actions import ActionDecoder, EpisodeActions
from hlrp.latents.pseudo_label_identity import PROVENANCE, PseudoLabelIdentity, check_identity, unfinished
from hlrp.latents.table import LatentTable
from hlrp.ranks import Ranks

if TYPE_CHECKING:
    from numpy.typing import NDArray

_ACTION = "action"


@dataclass(frozen=True)
class PseudoLabelRequest:
    """What to make.

    Args:
        info: The dataset that lacks actions.
        decoder: Map from latents to actions.
        latents: Table of the dataset's latents.
        output: Folder of the new dataset.
        mask_below_floor: Give dimensions below the decoder's floor confidence 0; otherwise they are refused.
        ranks: Which process of how many this is.
    """

    info: DatasetInfo
    decoder: ActionDecoder
    latents: LatentTable
    output: Path
    mask_below_floor: bool = False
    ranks: Ranks = field(default_factory=Ranks)


@dataclass(frozen=True)
class PseudoLabelResult:
    """What `pseudo_label` made.

    Args:
        output: Folder of the new dataset.
        complete: Whether it is there.
        missing_files: Tables that other processes have yet to write.
        frames: Frames by where their action is from: recorded, predicted, neither; zeros until it is complete.
        zeros: Episodes without any latent, whose actions are zeros.
    """

    output: Path
    complete: bool
    missing_files: int
    frames: tuple[int, int, int] = (0, 0, 0)
    zeros: list[int] = field(default_factory=list)


def pseudo_label(
    request: PseudoLabelRequest, *, progress: Callable[[int, int], None] | None = None
) -> PseudoLabelResult:
    """Write a dataset in which every episode has actions; continues what a killed run has left.

    Recorded actions, those of the decoder's labelled episodes where it was fitted on this dataset, are kept bit for
    bit; actions of other episodes are not read. Frames that no latent reaches repeat the nearest prediction of their
    episode with confidence 0; an episode without any latent gets zeros. Tables are written anew, videos are links. The
    folder appears when it is complete; the bytes are the same however often it was interrupted and however many
    processes shared the tables.

    Args:
        request: What to make.
        progress: Called as (frames done, frames of this process).

    Raises:
        UserError: As for `check_pseudo_labels`, or the latents do not belong to the dataset or the decoder.
    """
    info, output, decoder = request.info, request.output, request.decoder.manifest
    identity = PseudoLabelIdentity.of(info, decoder, request.latents)
    check_identity(info, decoder, output, identity, mask_below_floor=request.mask_below_floor)
    request.decoder.check(request.latents, info)
    work = _PseudoLabelling(request, identity)
    if work.begin():
        try:
            work.write_tables(progress)
        except FileNotFoundError:
            if not output.exists():  # else another process has made it complete meanwhile
                raise
    missing = work.complete()
    if missing:
        return PseudoLabelResult(output, False, missing)
    made = replace(info, root=output, features=work.features())
    source = read_columns(made, [ACTION_SOURCE])[ACTION_SOURCE]
    recorded, predicted, unknown = np.bincount(source, minlength=3).tolist()
    zeros = episodes_without_actions(made, source, read_episodes(made).present)
    return PseudoLabelResult(output, True, 0, (recorded, predicted, unknown), zeros)


class _PseudoLabelling:
    """One process's part."""

    def __init__(self, request: PseudoLabelRequest, identity: PseudoLabelIdentity) -> None:
        self._request, self._identity = request, identity
        self._info, self._decoder = request.info, request.decoder.manifest
        self._output, self._folder = request.output, unfinished(request.output)
        self._table = read_episodes(self._info)
        self._recorded = np.zeros(len(self._table), bool)
        self._recorded[identity.recorded] = True
        self._width = len(self._decoder.dimensions)
        self._masked = [d.name in identity.masked for d in self._decoder.dimensions]
        self._files = [(Path(name), path) for name, path in visible_files(self._info.root)]
        self._tables = [(name, path) for name, path in self._files if _is_table(name)]
        # Row groups come in order: an episode is decoded once.
        self._predicted = lru_cache(maxsize=2)(self._predict)

    def features(self) -> dict[str, dict[str, Any]]:
        """Those of the new dataset."""
        action = {"dtype": "float32", "shape": [self._width], "names": self._decoder.action_names}
        own = self._info.features
        return own | {
            _ACTION: own.get(_ACTION, action),
            ACTION_SOURCE: {"dtype": "int64", "shape": [1], "names": None},
            ACTION_CONFIDENCE: {"dtype": "float32", "shape": [self._width], "names": None},
        }

    def begin(self) -> bool:
        """Say in the folder what is made there, if the dataset is not there yet.

        Returns:
            Whether there is anything to do.
        """
        with alone(self._output):
            if self._output.exists():
                return False
            for name, _ in (*self._tables, (PROVENANCE, None)):
                (self._folder / name).parent.mkdir(parents=True, exist_ok=True)
            said = {"identity": self._identity.model_dump(), "decoder": self._decoder.model_dump(mode="json")}
            write_json(self._folder / PROVENANCE, said)
            return True

    def write_tables(self, progress: Callable[[int, int], None] | None) -> None:
        """Write this process's share of the tables of rows; those that are there already are kept.

        Raises:
            FileNotFoundError: Another process has made the dataset complete, and the folder is gone.
        """
        import pyarrow.parquet as pq

        mine = [self._tables[i] for i in self._request.ranks.share(len(self._tables))]
        rows = [pq.read_metadata(path).num_rows for _, path in mine]
        done = 0
        for (name, source), count in zip(mine, rows, strict=True):
            target = self._folder / name
            if not target.is_file():
                with new_file(target) as temporary:
                    rewrite_table(source, temporary, self._labelled)
            done += count
            if progress is not None:
                progress(done, sum(rows))

    def _labelled(self, rows: Any) -> Any:
        """A row group with actions, their source and their confidence."""
        index = rows.column("index").to_numpy()
        if len(index) and not 0 <= index.min() <= index.max() < self._info.frames:
            raise UserError(
                f"a row has an index outside of the {self._info.frames} frames in {INFO}",
                where=str(self._info.root / "data"),
                fix=f"`hlrp data check {shlex.quote(str(self._info.root))}` shows what is wrong",
            )
        episodes = self._table.episode_of(index)
        actions = np.zeros((len(index), self._width), np.float32)
        confidence = np.ones((len(index), self._width), np.float32)
        source = np.full((len(index), 1), RECORDED, np.int64)
        for episode in np.unique(episodes).tolist():
            if self._recorded[episode]:
                continue
            here = episodes == episode
            made, at = self._predicted(episode), index[here] - self._table.start[episode]
            actions[here], confidence[here] = made.actions[at], made.confidence[at]
            source[here, 0] = np.where(made.known[at], PREDICTED, UNKNOWN)
        kept = self._recorded[episodes]
        # What was recorded stays as it lies there.
        columns = {} if kept.all() and len(kept) else {_ACTION: _joined(rows, kept, column_of(actions))}
        columns |= {ACTION_SOURCE: column_of(source), ACTION_CONFIDENCE: column_of(confidence)}
        return with_columns(rows, columns)

    def _predict(self, episode: int) -> EpisodeActions:
        made = self._request.decoder.episode(self._request.latents, self._info, episode)
        if not np.isfinite(made.actions).all():
            raise UserError(
                f"the decoder predicts numbers that are not finite for episode {episode}",
                where="--decoder",
                fix="look for numbers that are not finite in observation.state, or fit the decoder again",
            )
        known = np.flatnonzero(made.known)
        if len(known):
            # Of two as near the earlier one: the action is held.
            actions = made.actions[known[nearest_index(known, np.arange(len(made.known)))]]
        else:
            actions = np.zeros_like(made.actions)
        confidence = np.where(made.known[:, None], made.confidence, np.float32(0)).astype(np.float32)
        confidence[:, self._masked] = 0
        return EpisodeActions(actions, confidence, made.known)

    def complete(self) -> int:
        """Make the folder appear if all its tables are there.

        Returns:
            How many are not.
        """
        with alone(self._output):
            if self._output.exists():
                return 0
            missing = sum(not (self._folder / name).is_file() for name, _ in self._tables)
            if missing:
                return missing
            for left_over in self._folder.rglob(".*"):
                left_over.unlink()
            for name, source in self._files:
                target = self._folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                if name == INFO:
                    rewrite_json(source, target, lambda said: said | {"features": self.features()})
                elif not _is_table(name):
                    target.unlink(missing_ok=True)
                    place(source, target, link=name.parts[0] in LINKED)
            made = replace(self._info, root=self._folder, features=self.features())
            rewrite_action_statistics(self._info, made)
            fsync_tree(self._folder)
            self._folder.rename(self._output)
            fsync_folder(self._output.parent)
        return 0


def _is_table(name: Path) -> bool:
    return name.parts[0] == "data" and name.suffix == ".parquet"


def _joined(rows: Any, kept: "NDArray[np.bool_]", predicted: Column) -> Column:
    """The action of a row group: the recorded one where ``kept``, which alone is read, else the predicted one."""
    import pyarrow as pa

    if _ACTION not in rows.column_names:
        return predicted
    old = rows.schema.field(_ACTION).type
    new = predicted.values.cast(old)
    recorded = rows.column(_ACTION).filter(pa.array(kept)).combine_chunks()
    # Taken from both in turn: casting or computing with what was recorded could change its bits.
    order = np.where(kept, np.cumsum(kept) - 1, kept.sum() + np.cumsum(~kept) - 1)
    both = pa.concat_arrays([recorded, new.filter(pa.array(~kept))])
    return Column(both.take(pa.array(order)), {})
