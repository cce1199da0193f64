"""A run that is published once it is finished: asked for before it starts, uploaded by a process of its own at its end.

Training keeps its own process off the network before the Hub's client is imported, which reads that once.
"""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from hlrp.errors import UserError, WorkError
from hlrp.processes import child_environment
from hlrp.ranks import is_first_process

_OFFLINE, _BY_DEFAULT = "HF_HUB_OFFLINE", "HLRP_OFFLINE_BY_DEFAULT"
_WHERE = "push_to_hub / --push-to-hub"


def keep_offline() -> None:
    """Keep this process off the Hub, unless its user has said what it may do."""
    if _OFFLINE not in os.environ:
        os.environ |= {_OFFLINE: "1", _BY_DEFAULT: "1"}


def check_push(repo_id: str | None) -> None:
    """Refuse a repository that could not be written at the end of a run, before the run.

    Args:
        repo_id: The repository; None: nothing is published. Of several processes the first one asks.

    Raises:
        UserError: It has no such name, nobody is logged in, or the Hub cannot be reached.
    """
    if repo_id is not None and is_first_process():
        _in_own_process("check", repo_id)


def push_finished(path: Path, repo_id: str) -> str:
    """Publish a finished run; gives the page of its repository, with the commit.

    Raises:
        WorkError: It could not be published; the run is as it was.
    """
    try:
        done = _in_own_process("push", repo_id, str(path))
    except UserError as error:
        later = f"hlrp push {shlex.quote(str(path))} {repo_id}"
        raise WorkError(f"the run is finished, but it was not published: {error}\n  later: {later}") from error
    return f"{done['url']} (commit {done['commit'][:12]})"


def _in_own_process(*arguments: str) -> dict[str, Any]:
    environment = {**os.environ, **child_environment()}
    if environment.pop(_BY_DEFAULT, None) is not None:
        environment.pop(_OFFLINE, None)
    argv = [sys.executable, "-m", "trainers.pushing", *arguments]
    done = subprocess.run(argv, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    try:
        said: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        raise UserError(
            f"the process that publishes ended with code {done.returncode}",
            where=_WHERE,
            fix="look at what it printed above",
        ) from None
    if "what" in said:
        raise UserError(said["what"], where=_WHERE, fix=said["fix"])
    return said


def _main(task: str, repo_id: str, *path: str) -> dict[str, Any]:
    from hlrp.deploy import publish

    try:
        if task == "check":
            publish.check_login(repo_id)
            return {}
        pushed = publish.push(publish.plan_push(Path(path[0]), repo_id))
        return {"url": pushed.url, "commit": pushed.commit}
    except UserError as error:
        return {"what": error.what, "fix": error.fix}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(_main(*sys.argv[1:])))
