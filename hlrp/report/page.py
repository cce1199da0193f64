"""Run pages from `templates/`: one file with everything in it, no script, nothing from outside, light and dark."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hlrp.errors import UserError
from hlrp.evaluation.plan import find_run
from hlrp.evaluation.request import RESULTS
from hlrp.files import write_text
from hlrp.pages import page_environment
from hlrp.report.contents import Page, read_page
from hlrp.report.evaluations import VIDEO_LIMIT
from hlrp.report.origins import PAGE, run_name
from hlrp.runs import list_runs
from hlrp.runs.directory import MANIFEST, check_writable, now

INDEX = "index.html"
"""Name of the index in a folder of runs."""


@dataclass(frozen=True)
class IndexRow:
    """A run in an index: its page's link (None: it could not be written), and what the page says; None: unread."""

    name: str
    link: str | None
    page: Page | None


def make_page(
    path: Path,
    *,
    against: Sequence[Path] = (),
    output: Path | None = None,
    announce: Callable[[str], None] = lambda _: None,
) -> Path:
    """Write the page of a run; of a folder of runs an index, and the page of each of them.

    Args:
        path: A run or a checkpoint of it, an evaluation, a latent table, an action decoder, or a folder of runs.
        against: Runs or evaluations to put beside it.
        output: The file; None: `report.html` in the run, `index.html` in a folder of runs.
        announce: Told of what is left out of an index.

    Returns:
        The file.

    Raises:
        UserError: There is no run, or the file cannot be written.
    """
    runs = list(_runs_below(path, announce))
    if runs and against:
        raise UserError(
            f"{path} holds {len(runs)} runs; which one is to be compared is not said",
            where="RUN",
            fix=f"name one of them, such as {runs[-1]}",
        )
    if runs:
        file = _checked(output or path / INDEX)
        rows = [_index_row(run, file.parent, announce) for run in runs]
        return _write(file, "index.html", rows=rows[::-1], title=run_name(path), path=path.absolute())
    file = _checked(output or _folder(path) / PAGE)
    return _write_page(read_page(path, against, file.parent), file)


def _runs_below(path: Path, announce: Callable[[str], None]) -> Iterator[Path]:
    """The runs in a folder that is none itself, oldest first, then the evaluations that lie in no run."""
    if not path.is_dir() or any((path / name).exists() for name in (MANIFEST, RESULTS, "manifest.json")):
        return
    runs = [run.path for run in list_runs(path, lambda problem: announce(f"warning: {problem.what} ({problem.where})"))]
    yield from runs
    inside = {run.resolve() for run in runs}
    for results in sorted(path.rglob(RESULTS)):
        if results.parent.name != "compared" and not inside & set(results.resolve().parents):
            yield results.parent


def _index_row(run: Path, folder: Path, announce: Callable[[str], None]) -> IndexRow:
    """Write a run's page and say where it is."""
    link = os.path.relpath((run / PAGE).resolve(), folder.resolve())
    try:
        page = read_page(run, (), run)
        _write_page(page, _checked(run / PAGE))
    except UserError as problem:
        announce(f"warning: no page of {run}: {problem.what}")
        return IndexRow(run_name(run), link if (run / PAGE).is_file() else None, None)
    return IndexRow(page.title, link, page)


def _folder(path: Path) -> Path:
    """The folder of what ``path`` means: of a file of results, or a checkpoint, the one it lies in."""
    if path.suffix == ".json":
        return path.parent
    if not path.is_dir() or any((path / name).exists() for name in (MANIFEST, RESULTS)):
        return path
    run = find_run(path.absolute())
    return path if run is None else run.path


def _checked(file: Path) -> Path:
    if file.is_dir():
        raise UserError(f"{file} is a folder", where="--output", fix=f"name a file in it: {file / PAGE}")
    check_writable(file.parent)
    return file


def _write_page(page: Page, file: Path) -> Path:
    return _write(file, "run.html", page=page, title=page.title, video_limit=VIDEO_LIMIT)


def _write(file: Path, template: str, **values: object) -> Path:
    text = page_environment("hlrp.report").get_template(template).render(created=now(), **values)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, text)
    return file
