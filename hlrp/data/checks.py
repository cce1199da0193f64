"""All that can be wrong with a dataset, found before anything is trained on it."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from hlrp.data.columns import TASKS, read_tasks
from hlrp.data.dataset_info import DatasetInfo, check_episodes
from hlrp.data.episodes import Episodes, read_episodes
from hlrp.data.problems import Problem
from hlrp.data.pseudo_label_checks import pseudo_label_problems
from hlrp.data.statistics_checks import statistics_problems
from hlrp.data.table_checks import Extremes, table_problems
from hlrp.errors import UserError


def dataset_problems(
    info: DatasetInfo,
    episodes: Sequence[int] | None = None,
    cameras: Sequence[str] | None = None,
    *,
    used: Sequence[str] | None = None,
    by_lerobot: bool = True,
    needs_statistics: bool = True,
    fetchable: bool = False,
    labelled: Mapping[str, Sequence[int]] | None = None,
) -> Iterator[Problem]:
    """All that is wrong with a dataset, by reading its tables once and opening its videos: nothing is decoded whole.

    Args:
        info: The dataset.
        episodes: Episodes that are used, the only ones whose files must be here; none: all.
        cameras: Image features that are used; none: all.
        used: Numeric columns that are trained on: numbers that are not finite are fatal there. None: the action and all
            of `observation.*`.
        by_lerobot: Whether LeRobot's own reader may read it, which needs the videos of all cameras and refuses more.
        fetchable: Whether files that are not here will be fetched: of a dataset that lacks some nothing more is said.
        needs_statistics: Whether numbers are normalised with `meta/stats.json`.
        labelled: Columns that are used in some episodes only, and normalised with other statistics: those episodes.

    Yields:
        Problems, the files' and the tables' first. Those that are not fatal are warnings.

    Raises:
        UserError: An episode that does not exist.
    """
    check_episodes(info, list(episodes) if episodes is not None else None)
    chosen = sorted(episodes) if episodes is not None else list(range(info.episodes))
    seen = list(cameras) if cameras is not None else info.cameras
    try:
        table = read_episodes(info)
    except UserError as error:
        yield Problem.of(error)
        return
    if info.stream is not None:
        return  # its files are looked at when they are read
    missing = [*_missing_files(table, chosen, info.cameras if by_lerobot else seen)]
    if missing and fetchable:
        return
    yield from missing
    yield from _other_tables(table)
    numbers = _numbers_of_tasks(info)
    yield from _task_problems(info, table, chosen, numbers)
    if used is None:
        used = [n for n in info.features if n == "action" or n.startswith("observation.")]
    extremes: dict[str, Extremes] = {}
    there = [e for e in chosen if not table.tables or table.tables[e].is_file()]
    some = labelled or {}
    yield from table_problems(table, there, used, extremes, tasks=numbers, by_lerobot=by_lerobot, only=some)
    yield from statistics_problems(info, {*used} - some.keys(), extremes, needed=needs_statistics)
    yield from pseudo_label_problems(info, extremes)
    if not missing:
        from hlrp.data.video_checks import video_problems  # imports decoders

        yield from video_problems(info, seen, episodes)


def _missing_files(table: Episodes, episodes: Sequence[int], cameras: Sequence[str]) -> Iterator[Problem]:
    """Files of the episodes that are not on this machine."""
    named: dict[Path, list[int]] = {}
    for episode in episodes:
        for path in ([table.tables[episode]] if table.tables else []) + [
            table.video[c][0][episode] for c in cameras if c in table.video
        ]:
            named.setdefault(path, []).append(episode)
    for path, holds in named.items():
        if not path.is_file():
            shown = ", ".join(map(str, holds[:5])) + (", ..." if len(holds) > 5 else "")
            kind = "symbolic link to a file that does not exist" if path.is_symlink() else "missing file"
            yield Problem(
                f"{kind}: it holds episodes {shown}",
                str(path),
                "copy it here, or use the episodes whose files are here with --episodes",
            )


def _other_tables(table: Episodes) -> Iterator[Problem]:
    """Files that LeRobot's reader would take for tables of the dataset."""
    folder, known = table.info.root / "data", set(table.tables)
    for path in sorted(folder.glob("*/*.parquet")):
        if path.name.startswith("."):
            what, fix = "a hidden file with a table's name, such as macOS leaves behind", "delete it"
        elif table.tables and path not in known:
            what, fix = "a table that no episode lies in", "move it out of the folder"
        else:
            continue
        yield Problem(f"{what}: LeRobot reads every data/*/*.parquet as a part of the dataset", str(path), fix)


def _numbers_of_tasks(info: DatasetInfo) -> list[int] | None:
    """Values of `task_index` in the table of tasks, in its order; None: there is no readable one."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(info.root / TASKS) as file:
            return [int(n) for n in file.read(columns=["task_index"]).column(0).to_pylist()]
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException):
        return None


def _task_problems(
    info: DatasetInfo, table: Episodes, episodes: Sequence[int], numbers: list[int] | None
) -> Iterator[Problem]:
    where = str(info.root / TASKS)
    if not (info.root / TASKS).is_file():
        yield Problem("missing file: it holds the task sentences", where, "copy it here: the dataset is incomplete")
        return
    try:
        sentences = set(read_tasks(info))
    except UserError as error:
        yield Problem.of(error)
        return
    if numbers is None:
        yield Problem("the table of tasks has no readable column 'task_index'", where, "restore it")
        return
    if len(set(numbers)) < len(numbers):
        twice = next(n for n in numbers if numbers.count(n) > 1)
        yield Problem(f"task_index {twice} stands for two sentences", where, "restore the table of tasks")
    elif numbers != list(range(len(numbers))):
        yield Problem(
            f"the rows of the table of tasks are not in the order of task_index ({numbers[:8]}): it is looked up by "
            "number here, but plain LeRobot takes the row and would give other sentences",
            where,
            "sort the table by task_index if plain LeRobot is to read the dataset",
            fatal=False,
        )
    unknown = [e for e in episodes if table.task[e] and table.task[e] not in sentences]
    if unknown:
        yield Problem(
            f"episode {unknown[0]} has the task {table.task[unknown[0]]!r}, which the table of tasks does not know",
            where,
            f"restore {TASKS} or meta/episodes: they are of different datasets",
            fatal=False,
        )


def refuse_fatal(problems: Iterator[Problem], info: DatasetInfo) -> list[str]:
    """The warnings among ``problems``, one line each.

    Raises:
        UserError: The first fatal problem, with the number of the others and the command that shows them.
    """
    all_problems = list(problems)
    fatal = [p for p in all_problems if p.fatal]
    if fatal:
        more = f"{len(all_problems) - 1} more" if len(all_problems) > 1 else "all of it"
        first = fatal[0]
        raise UserError(
            first.message,
            where=first.where,
            fix=f"{first.fix}; `hlrp data check {shlex.quote(str(info.root))}` shows {more}",
        )
    return [f"{p.message} ({p.where})" for p in all_problems]
