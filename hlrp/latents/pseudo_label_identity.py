"""What decides a dataset with pseudo-labels, and what is refused before one is made."""

import hashlib
import json
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict

from hlrp.data.columns import ACTION_CONFIDENCE, ACTION_SOURCE
from hlrp.data.dataset_info import INFO, DatasetInfo
from hlrp.data.linked_copy import refuse_inside
from hlrp.data.pseudo_label_checks import first_few
from hlrp.errors import UserError
from hlrp.files import sha256_of
from hlrp.latents.decoder_manifest import DecoderManifest
from hlrp.latents.spec import Difference, describe
from hlrp.latents.table import MANIFEST, LatentTable

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
        # Decoders of older versions have no hash of the actions; what was made by one stays its own.
        said = json.dumps(decoder.model_dump(mode="json", exclude={"actions_sha256"}), sort_keys=True)
        same = info.known_as(decoder.dataset_fingerprint)
        return cls(
            decoder_sha256=hashlib.sha256(said.encode()).hexdigest(),
            dataset_fingerprint=decoder.dataset_fingerprint if same else info.fingerprint(),
            recorded=sorted(decoder.episodes) if same or decoder.has_actions_of(info) else [],
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


def check_pseudo_labels(
    info: DatasetInfo, decoder: DecoderManifest, output: Path, *, mask_below_floor: bool
) -> list[str]:
    """Check all that can be checked before there are latents.

    Returns:
        What is allowed and may not be meant: that no recorded action of the dataset is kept.

    Raises:
        UserError: The decoder does not fit the dataset or cannot be trusted, or the folder holds something else or lies
            inside the dataset.
    """
    asked = PseudoLabelIdentity.of(info, decoder)
    check_identity(info, decoder, output, asked, mask_below_floor=mask_below_floor)
    if asked.recorded or _ACTION not in info.features:
        return []
    if decoder.actions_sha256 is None:
        why = f"the decoder, of an older hlrp, knows {decoder.dataset} as it was alone: fit it again to keep them"
    else:
        why = f"episodes {first_few(decoder.episodes)} have not the actions that the decoder was fitted on"
    return [f"all actions recorded in {info.root} are replaced by predictions: {why}"]


def check_identity(
    info: DatasetInfo, decoder: DecoderManifest, output: Path, asked: PseudoLabelIdentity, *, mask_below_floor: bool
) -> None:
    """The same once the latents are known, which ``asked`` names."""
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
