"""Pseudo-labels: a new dataset in which every episode has actions, the recorded ones or those that a map gives.

Experimental. Shapes: n frames of an episode, A action dimensions.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from pydantic import BaseModel, ConfigDict

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
    refuse_inside,
    rewrite_json,
    rewrite_table,
    with_columns,
)
from hlrp.errors import UserError
from hlrp.files import fsync_folder, fsync_tree, new_file, write_json
from hlrp.latents.actions import ActionDecoder, EpisodeActions
from hlrp.latents.decoder_manifest import DecoderManifest
from hlrp.latents.spec import Difference, describe
from hlrp.latents.table import MANIFEST, LatentTable, sha256_of
from hlrp.processes import Ranks

if TYPE_CHECKING:
    from numpy.typing import NDArray

PROVENANCE = Path("meta/hlrp_pseudo_labels.json")
_ACTION = "action"


class PseudoLabelIdentity(BaseModel):
    """What decides every byte of a dataset with pseudo-labels."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    decoder_sha256: str
    """Of the decoder's manifest, which names its weights by theirs."""
    dataset_fingerprint: str
    """Of the dataset that it was made from."""
    recorded: list[int]
    """Episodes whose recorded actions are kept."""
    masked: list[str]
    """Dimensions below the decoder's floor, whose confidence is 0."""
    latents_sha256: str | None
    """Of the latent table's manifest, which names its shards by theirs; none: not known yet."""

    @classmethod
    def of(cls, info: DatasetInfo, decoder: DecoderManifest, latents: LatentTable | None = None) -> Self:
        """What labelling a dataset by this decoder and these latents comes to."""
        said = json.dumps(decoder.model_dump(mode="json"), sort_keys=True)
        own = info.known_as(decoder.dataset_fingerprint)
        return cls(
            decoder_sha256=hashlib.sha256(said.encode()).hexdigest(),
            dataset_fingerprint=decoder.dataset_fingerprint if own else info.fingerprint(),
            recorded=sorted(decoder.episodes) if own else [],
            masked=[d.name for d in decoder.below_floor],
            latents_sha256=None if latents is None else sha256_of(latents.folder / MANIFEST),
        )

    def differences(self, asked: "PseudoLabelIdentity") -> list[Difference]:
        """Where this is not what is asked for."""
        pairs = ((name, getattr(self, name), getattr(asked, name)) for name in type(self).model_fields)
        return [
            Difference(name.replace("_", " "), here, wanted)
            for name, here, wanted in pairs
            if wanted is not None and here != wanted
        ]


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
    """

    output: Path
    complete: bool
    missing_files: int
    frames: tuple[int, int, int] = (0, 0, 0)


def check_pseudo_labels(info: DatasetInfo, decoder: DecoderManifest, output: Path, *, mask_below_floor: bool) -> None:
    """Check all that can be checked before there are latents.

    Raises:
        UserError: The decoder does not fit the dataset or cannot be trusted, or the folder holds something else or lies
            inside the dataset.
    """
    _check(info, decoder, output, PseudoLabelIdentity.of(info, decoder), mask_below_floor=mask_below_floor)


def _check(
    info: DatasetInfo, decoder: DecoderManifest, output: Path, asked: PseudoLabelIdentity, *, mask_below_floor: bool
) -> None:
    _refuse_unfit(info, decoder, asked)
    if not mask_below_floor:
        _refuse_below_floor(decoder)
    there = [name for name in (ACTION_SOURCE, ACTION_CONFIDENCE) if name in info.features]
    if there:
        raise UserError(
            f"the dataset has a column {there[0]!r} already",
            where=str(info.root / INFO),
            fix="give the dataset that it was made from",
        )
    refuse_inside(info.root, output, "--output")
    for folder in (output, unfinished(output)):
        _refuse_other(folder, asked)


def _refuse_unfit(info: DatasetInfo, decoder: DecoderManifest, asked: PseudoLabelIdentity) -> None:
    where, feature = f"--decoder, {info.root / INFO}", info.features.get(_ACTION)
    if not decoder.episodes:
        raise UserError(
            "the decoder was fitted on no labelled episode", where="--decoder", fix="fit it with hlrp fit-actions"
        )
    pairs: list[tuple[str, object, object]] = [("frames per second", decoder.fps, info.fps)]
    if feature is not None:
        pairs.append(("shape of the action", [len(decoder.dimensions)], list(feature["shape"])))
    differ = [Difference(what, mine, theirs) for what, mine, theirs in pairs if mine != theirs]
    if differ:
        raise UserError(
            f"the decoder does not fit the dataset ({describe(differ, 'the decoder', 'the dataset')})",
            where=where,
            fix="fit a decoder on labelled episodes of this robot at this rate with hlrp fit-actions",
        )
    if asked.recorded and (feature is None or asked.recorded[-1] >= info.episodes):
        has = f"has {info.episodes} episodes" if feature is not None else "has no actions"
        raise UserError(
            f"the decoder names the labelled episode {asked.recorded[-1]} of this dataset, which {has}",
            where=where,
            fix="fit the decoder again with hlrp fit-actions",
        )


def _refuse_below_floor(decoder: DecoderManifest) -> None:
    if low := decoder.below_floor:
        shown = ", ".join(f"{d.name} (R2 {d.r2:.2f})" for d in low[:6]) + (", ..." if len(low) > 6 else "")
        raise UserError(
            f"{len(low)} of {len(decoder.dimensions)} dimensions of the action lie below the decoder's floor, R2 "
            f"{decoder.floor:g} on held-out episodes: {shown}",
            where="--decoder",
            fix="label more episodes, those that `hlrp fit-actions --suggest` names, and fit again; or add "
            "--mask-below-floor: these dimensions get confidence 0, so that hlrp's own policies do not learn them from "
            "predicted episodes; LeRobot's policies cannot leave them out",
        )


def unfinished(output: Path) -> Path:
    """Where the dataset is made until it is complete: a kill leaves it, and the same command goes on."""
    return output.with_name(f".{output.name}.unfinished")


def _refuse_other(folder: Path, asked: PseudoLabelIdentity) -> None:
    """Refuse a folder that is there and was not made as asked.

    Raises:
        UserError: Naming both sides.
    """
    if not folder.exists():
        return
    try:
        said = json.loads((folder / PROVENANCE).read_text(encoding="utf8"))["identity"]
        differ = describe(PseudoLabelIdentity.model_validate(said).differences(asked), "the folder", "asked for is")
    except FileNotFoundError:
        if folder.name.startswith(".") and not any(folder.rglob("*.parquet")):
            return  # killed before it said what it is
        differ = f"it has no {PROVENANCE}"
    except (OSError, ValueError, KeyError, TypeError) as error:
        differ = f"{PROVENANCE} cannot be read: {error}"
    if differ:
        raise UserError(
            f"{folder} exists and is not this dataset with these labels ({differ})",
            where="--output",
            fix="choose a new folder, or delete the old one",
        )


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
    _check(info, decoder, output, identity, mask_below_floor=request.mask_below_floor)
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
    return PseudoLabelResult(output, True, 0, (recorded, predicted, unknown))


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
                fix=f"`hlrp data check {self._info.root}` shows what is wrong",
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
        frames = np.arange(len(made.known))
        if len(known):
            # The nearest one; of two as near the earlier one: the action is held.
            after = np.searchsorted(known, frames).clip(max=len(known) - 1)
            before = (after - 1).clip(min=0)
            nearer = np.abs(known[before] - frames) <= np.abs(known[after] - frames)
            actions = made.actions[np.where(nearer, known[before], known[after])]
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
