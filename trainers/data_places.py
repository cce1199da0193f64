"""The folders that a run names its datasets by: which there are, others in their place, and where they are kept."""

from collections.abc import Mapping
from pathlib import Path

from hlrp.config import DataSection, load_config, to_yaml
from hlrp.files import write_text
from hlrp.runs import DatasetRecord, RunDirectory
from hlrp.runs.directory import CONFIG


def places_of(data: DataSection) -> dict[str, Path | None]:
    """Key of the schema to the folder that it names, of each dataset."""
    if data.sources:
        return {f"data.sources.{number}.root": source.root for number, source in enumerate(data.sources)}
    return {"data.root": data.root}


def with_places(data: DataSection, places: Mapping[str, Path | None]) -> DataSection:
    """The section with other folders; those that ``places`` does not name stay."""
    if not data.sources:
        return data.model_copy(update={"root": places.get("data.root", data.root)})
    sources = [
        source.model_copy(update={"root": places.get(f"data.sources.{number}.root", source.root)})
        for number, source in enumerate(data.sources)
    ]
    return data.model_copy(update={"sources": sources})


def recorded_at(known: DatasetRecord, data: DataSection) -> DatasetRecord:
    """What `run.json` says of the data of a run, with the folders in which they lie now."""
    places = [str(place.absolute()) if place is not None else None for place in places_of(data).values()]
    if not data.sources:
        return known if known.sources else _at(known, places[0])
    if len(known.sources) != len(places):
        return known
    sources = [_at(record, place) for record, place in zip(known.sources, places, strict=True)]
    return known.model_copy(update={"sources": sources})


def _at(record: DatasetRecord, place: str | None) -> DatasetRecord:
    return record if place in (None, record.root) else record.model_copy(update={"root": place})


def keep_places(directory: RunDirectory, data: DataSection) -> None:
    """Write the folders of a run's datasets into its configuration, so that it finds them there from now on."""
    path = directory.path / CONFIG
    saved = load_config(path).config
    moved = with_places(saved.data, places_of(data))
    if moved != saved.data:
        write_text(path, to_yaml(saved.model_copy(update={"data": moved})))
