"""Breaks single lines of the code, one at a time, and sees whether a test notices: run before a release.

Usage: python scripts/check_mutants.py [--list FILE] [--jobs N] [--results FILE] [--only TEXT] [--fresh]

The breaks are listed in `mutants.toml` beside this file: `file`, `before` and `after` (a piece of text that stands in
the file exactly once), and `tests`, which pytest is given and one of which should fail. They are tried in copies of the
working tree, so nothing here changes. What was found is kept in the results file: a break is tried again only when its
own text, its file or its tests have changed. Exit code 0: at least 90 % are caught; 1: fewer, or a text that is no
longer found; 2: the tests fail without any break.
"""

import argparse
import contextlib
import hashlib
import importlib
import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
CAUGHT, SURVIVED, GONE, ERROR = "caught", "survived", "text not found once", "error"
WANTED_SHARE = 0.9


@dataclass(frozen=True)
class Break:
    """One break.

    Args:
        file: The file that is changed, relative to the project.
        before: What stands there, exactly once.
        after: What is put in its place.
        tests: Arguments for pytest: files or node ids.
    """

    file: str
    before: str
    after: str
    tests: tuple[str, ...]

    def applied(self, root: Path) -> str:
        """The file's broken content.

        Raises:
            ValueError: The text does not stand there exactly once.
        """
        text = (root / self.file).read_text(encoding="utf8") if (root / self.file).is_file() else ""
        if text.count(self.before) != 1:
            raise ValueError(f"{self.file} holds {self.before!r} {text.count(self.before)} times instead of once")
        return text.replace(self.before, self.after)

    def key(self, root: Path) -> str:
        """Changes when the break, its file or its tests do."""
        files = [self.file, *sorted({test.partition("::")[0] for test in self.tests})]
        known = [self.before, self.after, *self.tests, *(_content(root / name) for name in files)]
        return hashlib.sha256("\0".join(known).encode()).hexdigest()[:16]


def _content(path: Path) -> str:
    paths = sorted(path.rglob("*.py")) if path.is_dir() else [path]
    return "".join(p.read_text(encoding="utf8") for p in paths if p.is_file())


def read_list(path: Path) -> tuple[list[Break], list[str]]:
    """The breaks, and modules that are imported once for all of them.

    Raises:
        ValueError: A break is listed twice, changes nothing, or lacks something.
    """
    raw = tomllib.loads(path.read_text(encoding="utf8"))
    breaks = [Break(m["file"], m["before"], m["after"], tuple(m["tests"])) for m in raw["mutant"]]
    for found in breaks:
        if found.before == found.after or not found.tests:
            raise ValueError(f"a break needs two texts that differ, and tests: {found}")
    if len({(b.file, b.before, b.after) for b in breaks}) < len(breaks):
        raise ValueError(f"{path} lists a break twice")
    return breaks, raw.get("preload", [])


def copy_tree(root: Path, target: Path) -> None:
    """Copy what git knows or would know of a working tree."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=root, capture_output=True, check=True).stdout.decode()
    for name in filter(None, listed.split("\0")):
        if (root / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, target / name)


class Run:
    """pytest at work in a copy, in a process forked from this one, which has imported what is slow to import.

    Args:
        copy: A copy of the tree, in which nothing else runs.
        tests: Arguments for pytest.
        limit_s: Seconds that it may take.
    """

    def __init__(self, copy: Path, tests: tuple[str, ...], limit_s: float) -> None:
        self.copy, self._log = copy, copy / ".check_mutants.log"
        self._began, self._limit_s = time.monotonic(), limit_s
        self.process = multiprocessing.get_context("fork").Process(target=_pytest, args=(copy, tests, self._log))
        self.process.start()

    @property
    def seconds(self) -> float:
        """Since it began."""
        return time.monotonic() - self._began

    @property
    def over(self) -> bool:
        """Whether it has ended, or taken too long."""
        return not self.process.is_alive() or self.seconds > self._limit_s

    def end(self) -> tuple[int | None, str]:
        """pytest's exit code, None if it took too long; and what it printed."""
        late = self.process.is_alive()
        # Whatever the tests have started belongs to its session.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid or 0, signal.SIGKILL)
        self.process.join()
        return (None if late else self.process.exitcode), self._log.read_text(encoding="utf8", errors="replace")


def _pytest(copy: Path, tests: tuple[str, ...], log: Path) -> None:
    os.setsid()
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(output, stream)
    os.chdir(copy)
    sys.path.insert(0, str(copy))
    # Compiled files are told apart by seconds and size: two breaks of one file would be taken for one another.
    sys.dont_write_bytecode = True
    os.environ |= {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    import pytest

    code = pytest.main(["-x", "-q", "--no-header", "-p", "no:cacheprovider", *tests])
    sys.stdout.flush()
    os._exit(int(code))


def judge(code: int | None, output: str) -> tuple[str, str]:
    """What a run of the tests says of a break, and by which test; too long is noticed too."""
    if code is None:
        return CAUGHT, "took too long"
    if code in (0, 1):
        first = re.search(r"^(?:FAILED|ERROR) (\S+)", output, re.MULTILINE)
        return (CAUGHT if code else SURVIVED), (first[1] if first and code else "")
    return ERROR, f"pytest ended with {code}: {' '.join(output.split()[-30:])}"


def check(
    breaks: list[Break],
    root: Path,
    results: dict[str, Any],
    keep: Callable[[], object],
    *,
    jobs: int,
    limit_s: float,
) -> None:
    """Try the breaks that have no result yet; ``keep`` is called after each.

    Raises:
        RuntimeError: The tests fail without any break.
    """
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        copies = [Path(folder) / str(number) for number in range(jobs)]
        for copy in copies:
            copy_tree(root, copy)
        # Now, as the copies are made: the working tree may change meanwhile.
        keys = {one: one.key(root) for one in breaks}
        todo = [one for one in breaks if keys[one] not in results]
        _see_them_pass(todo, copies[0], limit_s)
        running: dict[Break, Run] = {}
        whole: dict[Break, bytes] = {}
        # All forks are made by one thread: some libraries forbid two at once.
        while todo or running:
            while todo and copies:
                one, copy = todo.pop(0), copies.pop()
                whole[one] = (copy / one.file).read_bytes()
                (copy / one.file).write_text(one.applied(copy), encoding="utf8")
                running[one] = Run(copy, one.tests, limit_s)
            wait([run.process.sentinel for run in running.values()], timeout=1)
            for one in [one for one, run in running.items() if run.over]:
                run = running.pop(one)
                status, by = judge(*run.end())
                (run.copy / one.file).write_bytes(whole[one])
                copies.append(run.copy)
                results[keys[one]] = {"status": status, "by": by, "seconds": round(run.seconds, 1)}
                keep()
                print(f"{status:>8} {run.seconds:6.1f} s  {one.file}: {' '.join(one.after.split())}", flush=True)


def _see_them_pass(todo: list[Break], copy: Path, limit_s: float) -> None:
    tests = tuple(dict.fromkeys(test for one in todo for test in one.tests))
    if not tests:
        return
    run = Run(copy, tests, limit_s * 10)
    while not run.over:
        run.process.join(1)
    code, output = run.end()
    if code != 0:
        raise RuntimeError(f"the tests fail without any break:\n{output[-3000:]}")


def report(breaks: list[Break], root: Path, results: dict[str, Any]) -> tuple[str, float]:
    """Tables in Markdown, of files and of what nothing notices, and the share that is caught."""
    counts: dict[str, list[int]] = {}
    missed = []
    for one in breaks:
        try:
            one.applied(root)
            status = results.get(one.key(root), {}).get("status", "not tried")
        except ValueError:
            status = GONE
        count = counts.setdefault(one.file, [0, 0])
        count[0] += 1
        count[1] += status == CAUGHT
        if status != CAUGHT:
            texts = [f"`{' '.join(text.split())}`".replace("|", "\\|") for text in (one.before, one.after)]
            missed.append(f"| {one.file} | {texts[0]} | {texts[1]} | {status} |")
    lines = ["| file | breaks | caught |", "|---|---|---|"]
    lines += [f"| {file} | {tried} | {caught} |" for file, (tried, caught) in sorted(counts.items())]
    if missed:
        lines += ["", "| file | text | break | |", "|---|---|---|---|", *missed]
    caught = sum(count[1] for count in counts.values())
    lines += ["", f"{caught} of {len(breaks)} breaks are caught: {caught / len(breaks):.0%}."]
    return "\n".join(lines), caught / len(breaks)


def main(arguments: list[str] | None = None, root: Path = ROOT) -> int:
    """Run the command; returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", type=Path, default=Path(__file__).with_name("mutants.toml"))
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--results", type=Path, default=root / ".mutants.json")
    parser.add_argument("--only", default="", help="breaks whose file or text holds this")
    parser.add_argument("--limit", type=float, default=180, help="seconds after which a break counts as caught")
    parser.add_argument("--fresh", action="store_true", help="forget former results")
    options = parser.parse_args(arguments)
    breaks, preload = read_list(options.list)
    breaks = [b for b in breaks if options.only in b.file or options.only in b.before]
    gone = []
    for one in breaks:
        try:
            one.applied(root)
        except ValueError as error:
            gone.append(one)
            print(f"error: {error}", file=sys.stderr)
    results = {} if options.fresh or not options.results.is_file() else json.loads(options.results.read_text())
    # One thread each: as many processes as were asked for share the machine.
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    for module in preload:
        importlib.import_module(module)
    try:
        check(
            [b for b in breaks if b not in gone],
            root,
            results,
            lambda: options.results.write_text(json.dumps(results, indent=1)),
            jobs=options.jobs,
            limit_s=options.limit,
        )
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 2
    table, share = report(breaks, root, results)
    print(f"\n{table}")
    return 0 if share >= WANTED_SHARE and not gone else 1


if __name__ == "__main__":
    sys.exit(main())
