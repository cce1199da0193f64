"""An import from beginning to end: look at all sources, refuse or plan, write episodes, put them together."""

import json
import shutil
import signal
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from hlrp.data.importing.assembly import Assembly, lerobot_encoder
from hlrp.data.importing.captions import read_captions
from hlrp.data.importing.clip import Clip, Fault, Look, clip_from_json, look_at, refuse
from hlrp.data.importing.episode import Job, read_written, write_episode
from hlrp.data.importing.plan import Plan, make_plan
from hlrp.data.importing.request import ImportProgress, ImportRequest, ImportResult, Report, is_text
from hlrp.data.importing.sources import Source, find_sources
from hlrp.data.importing.workers import results
from hlrp.errors import Interrupted, UserError, WorkError
from hlrp.files import fsync_folder
from hlrp.locks import FolderLock
from hlrp.outputs import changed_settings, disk_error
from hlrp.processes import SignalError
from hlrp.ranks import cores

_LOOKS, _SETTINGS = "looks.jsonl", "settings.json"


def import_video(request: ImportRequest, report: Report = lambda _: None) -> ImportResult:
    """Write a LeRobotDataset v3.0 of videos, without actions.

    Finished episodes are kept in `OUTPUT.partial/`; the same request continues after a kill and gives the same bytes.
    The dataset appears under its name when it is complete.

    Args:
        request: What to import.
        report: Called after each file and each episode.

    Raises:
        UserError: The request cannot be met, or a source is wrong: then nothing is left behind.
        WorkError: A process died, or the disk failed.
        Interrupted: SIGINT, SIGTERM or SIGHUP; what is finished is kept.
    """
    began = time.monotonic()
    request.check()
    sources, left_out = find_sources(request.source)
    captions = read_captions(request.captions, sources) if request.captions is not None else {}
    try:
        with FolderLock(request.work) as lock:
            if request.output.exists():  # another process was quicker
                request.check()
            run = _Run(request, sources, lock, report)
            try:
                clips, faults = run.look()
                plan = make_plan(request, clips, captions)
                run.keep_settings(plan, clips)
            except (UserError, WorkError):
                run.forget_looks()
                raise
            result = run.finish(plan, clips, faults)
            return replace(result, left_out=left_out + result.left_out, seconds=time.monotonic() - began)
    except (KeyboardInterrupt, SignalError) as stop:
        number = stop.number if isinstance(stop, SignalError) else signal.SIGINT
        what = f"stopped; what is finished is kept in {request.work}\n  fix:   the same command continues"
        raise Interrupted(what, number) from None
    except OSError as error:
        raise disk_error(error, request.work) from error


class _Run:
    """One import, whose work folder is locked."""

    def __init__(self, request: ImportRequest, sources: Sequence[Source], lock: FolderLock, report: Report) -> None:
        self._request, self._work, self._report = request, lock.folder, report
        self._sources = {source.name: source for source in sources}
        self._workers = request.workers or cores()

    def look(self) -> tuple[list[Clip], list[Fault]]:
        """Look at every source that was not looked at before; what is seen is kept at once.

        Raises:
            UserError: One is wrong and may not be left out, or all are.
        """
        path = self._work / _LOOKS
        seen = dict(_kept_looks(path))
        clips: dict[str, Clip] = {}
        faults: list[Fault] = []
        wishes = []
        for source in self._sources.values():
            wish = Look(source, self._request.scene_cuts, self._request.max_seconds is not None)
            known = seen.get(wish.key)
            if not is_text(source.name):
                said = "its name, or that of a folder above it, is not UTF-8, as which tables keep it"
                faults.append(Fault(source.name, str(source.path), said, "rename it"))
            elif known is None:
                wishes.append(wish)
            else:
                clips[source.name] = known
        total = len(self._sources)
        self._report(ImportProgress("look", len(clips) + len(faults), total))
        workers = min(self._workers, max(1, len(wishes)))
        with path.open("a", encoding="utf8") as file, results(look_at, wishes, workers) as found:
            for key, clip in found:
                if isinstance(clip, Fault):
                    faults.append(clip)
                else:
                    clips[clip.name] = clip
                    file.write(json.dumps([key, asdict(clip)]) + "\n")
                    file.flush()
                self._report(ImportProgress("look", len(clips) + len(faults), total))
        faults.sort()
        if faults and not (self._request.skip_bad and clips):
            raise refuse(faults[0], len(faults) - 1)
        return [clips[name] for name in sorted(clips)], faults

    def forget_looks(self) -> None:
        """Leave nothing behind where nothing was written."""
        if not (self._work / _SETTINGS).exists():
            (self._work / _LOOKS).unlink(missing_ok=True)

    def keep_settings(self, plan: Plan, clips: Sequence[Clip]) -> None:
        """Begin to write, or see that what is written already is of the same plan.

        Raises:
            UserError: It is of another.
        """
        now = self._request.settings(plan.fps, plan.size) | {"files": plan.mark(clips)}
        if differing := changed_settings(self._work / _SETTINGS, now, "import"):
            pairs = "; ".join(f"{key}: begun with {old!r}, now {new!r}" for key, (old, new) in differing.items())
            raise UserError(
                f"an unfinished import has other settings or files ({pairs})",
                where=str(self._work),
                fix=f"repeat the command that was begun, choose another --output, or delete {self._work}",
            )

    def finish(self, plan: Plan, clips: Sequence[Clip], faults: list[Fault]) -> ImportResult:
        """Write what is not written yet, put it together, and give it its name."""
        request = self._request
        name = request.output.name
        assembly = Assembly(self._work, name, request.feature, plan.fps, plan.size, plan.columns)
        assembly.clips.mkdir(exist_ok=True)
        for leftover in assembly.clips.glob(".*.tmp"):
            leftover.unlink(missing_ok=True)
        assembly.take_back()
        bad = self._write(plan, clips, assembly)
        kept = [(n, part, clips[part.clip].name) for n, part in enumerate(plan.parts) if n not in bad]
        if not kept:
            raise refuse(next(iter(bad.values())), len(bad) - 1)
        total = len(kept)
        self._report(ImportProgress("assemble", 0, total))
        frames = assembly.build(kept, lambda done: self._report(ImportProgress("assemble", done, total)))
        reasons = Counter(read_written(assembly.clips / f"{n:06d}.json").encoded for n, _, _ in kept)
        copied = reasons.pop("", 0)
        assembly.dataset.rename(request.output)
        fsync_folder(request.output.absolute().parent)
        shutil.rmtree(self._work)
        left_out = [(f.name, f.reason) for f in (*faults, *bad.values())]
        named_by_file = sum(request.task is None and part.task == name.rpartition("/")[2] for _, part, name in kept)
        return ImportResult(
            request.output,
            total,
            frames,
            float(plan.fps),
            plan.size,
            copied,
            dict(reasons),
            left_out,
            named_by_file=named_by_file,
        )

    def _write(self, plan: Plan, clips: Sequence[Clip], assembly: Assembly) -> dict[int, Fault]:
        """Write the episodes that are not there; what is wrong with those that cannot be written, by number."""
        there = {int(path.stem) for path in assembly.clips.glob("*.json")}
        total, frames = len(plan.parts), 0
        self._report(ImportProgress("write", len(there), total))
        bad: dict[int, Fault] = {}
        done = len(there)
        todo = [number for number in range(total) if number not in there]
        jobs = self._jobs(plan, clips, assembly, todo)
        with results(_numbered, jobs, min(self._workers, max(1, len(todo)))) as found:
            for number, written in found:
                done += 1
                if isinstance(written, Fault):
                    if not self._request.skip_bad:
                        raise refuse(written, 0)
                    bad[number] = written
                else:
                    frames += written.frames
                self._report(ImportProgress("write", done, total, f"{frames} frames"))
        return dict(sorted(bad.items()))

    def _jobs(self, plan: Plan, clips: Sequence[Clip], assembly: Assembly, todo: Sequence[int]) -> Iterator[Job]:
        encoder = lerobot_encoder() if todo else None
        for number in todo:
            part = plan.parts[number]
            clip = clips[part.clip]
            assert encoder is not None
            yield Job(
                number,
                self._sources[clip.name],
                part.begin,
                part.end,
                clip.ends,
                plan.fps,
                plan.size,
                encoder,
                bool(plan.columns),
                assembly.clips,
            )


def _numbered(job: Job) -> tuple[int, Any]:
    return job.number, write_episode(job)


def _kept_looks(path: Path) -> Iterator[tuple[str, Clip]]:
    """What was seen before; a line that a kill has torn is seen anew."""
    if not path.exists():
        return
    for line in path.read_text(encoding="utf8", errors="replace").splitlines():
        try:
            key, said = json.loads(line)
            yield key, clip_from_json(said)
        except (ValueError, TypeError):
            continue
