"""`hlrp doctor`: whether this machine and installation can do what `hlrp` does, and what to do where not."""

import json
import os
import platform
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer

DISTRIBUTION = "lerobot_policy_felix_bundle"
SHOWN = ("torch", "lerobot", "lightning", "transformers", "numpy", "mujoco", "metaworld")
EXTRAS = ("sim", "aloha", "libero", "diffusion", "smolvla", "serve", "export", "slurm")
_GIB = 1 << 30


@dataclass(frozen=True)
class Finding:
    """One line: what was looked at, `ok`, `warning` or `problem`, what was found, and what to do."""

    name: str
    state: str
    found: str
    fix: str = ""


def doctor(json_output: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Check Python, packages, GPU, video decoder, OpenGL, plugin, folders; exit code 1 when there is a problem."""
    findings = []
    for check in CHECKS:
        for finding in _run(check):
            findings.append(finding)
            if not json_output:
                typer.echo(f"{finding.state:<8} {finding.name:<14} {finding.found}")
                if finding.fix:
                    typer.echo(f"{'':<8} {'':<14} -> {finding.fix}")
    problems = sum(f.state == "problem" for f in findings)
    if json_output:
        typer.echo(json.dumps({"ok": not problems, "findings": [asdict(f) for f in findings]}))
    else:
        typer.echo(f"{problems} problems" if problems else "no problems")
    if problems:
        raise typer.Exit(1)


def _run(check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """The findings of one check; a check that breaks is a finding too, since the others still have to run."""
    try:
        yield from check()
    except Exception as error:
        yield Finding(
            check.__name__.strip("_"), "problem", f"{type(error).__name__}: {error}", "reinstall that package"
        )


def _python() -> Iterator[Finding]:
    from importlib.metadata import PackageNotFoundError, metadata

    from packaging.specifiers import SpecifierSet

    try:
        wanted = metadata(DISTRIBUTION).get("Requires-Python") or ""
    except PackageNotFoundError:
        yield Finding(
            "hlrp", "problem", f"{DISTRIBUTION} is not installed", "run scripts/setup.sh, or pip install -e ."
        )
        return
    version = platform.python_version()
    if version in SpecifierSet(wanted):
        yield Finding("python", "ok", f"{version} at {sys.executable}")
    else:
        yield Finding("python", "problem", f"{version}, supported is {wanted}", "run scripts/setup.sh")


def _packages() -> Iterator[Finding]:
    from hlrp_cli.requirements import canonical, needs_of

    base = needs_of(DISTRIBUTION)
    # A package of an extra may be missing; one that is here has to be of a version that works.
    extra = {e: needs_of(DISTRIBUTION, (e,)) for e in EXTRAS}
    for name in (*SHOWN, *(n for n in base if n not in SHOWN)):
        optional = next((e for e, needs in extra.items() if canonical(name) in needs), None)
        need = base.get(canonical(name)) or extra.get(optional or "", {}).get(canonical(name))
        if need is None or (need.problem is None and name not in SHOWN):
            continue
        accepted = f" (supported {need.accepted})" if str(need.accepted) else ""
        if need.problem is None:
            yield Finding(name, "ok", f"{need.installed}{accepted}")
        elif need.installed is None and name not in base:
            yield Finding(name, "warning", "not installed", f"pip install '{DISTRIBUTION}[{optional}]'")
        else:
            fix = f"pip install '{need.name}{need.accepted}' (asked for by {', '.join(dict.fromkeys(need.by))})"
            yield Finding(name, "problem", need.problem, fix)
    yield from _extras(extra)


def _extras(extras: dict[str, dict]) -> Iterator[Finding]:
    for name, needs in extras.items():
        wrong = [n for n in needs.values() if n.problem and n.name not in SHOWN]
        if not wrong:
            continue
        broken = [n for n in wrong if n.installed is not None]
        said = ", ".join(f"{n.name} {n.problem}" for n in broken or wrong)
        state = "problem" if broken else "warning"
        yield Finding(f"extra {name}", state, said, f"pip install '{DISTRIBUTION}[{name}]'")


def _gpu() -> Iterator[Finding]:
    import torch

    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            memory = torch.cuda.get_device_properties(i).total_memory / _GIB
            yield Finding("gpu", "ok", f"cuda:{i} {torch.cuda.get_device_name(i)}, {memory:.0f} GiB")
    elif torch.version.cuda and Path("/dev/nvidiactl").exists():
        fix = "update the NVIDIA driver, or install a torch build for the driver's CUDA version"
        yield Finding(
            "gpu", "problem", f"there is an NVIDIA GPU, but torch (CUDA {torch.version.cuda}) cannot use it", fix
        )
    elif torch.backends.mps.is_available():
        yield Finding("gpu", "ok", "mps")
    else:
        yield Finding("gpu", "warning", f"none: training runs on {os.cpu_count()} CPU cores", "small policies only")


def _video() -> Iterator[Finding]:
    from importlib import import_module

    try:
        import av
    except ImportError as error:
        av = None
        reason = str(error)
    try:
        codec = import_module("torchcodec")
        yield Finding("video decoder", "ok", f"torchcodec {codec.__version__}")
    except (ImportError, OSError, RuntimeError) as error:
        if av is None:
            yield Finding("video decoder", "problem", f"none loads: {reason}", "pip install av")
            return
        line = next((t.strip() for t in str(error).splitlines() if t.strip()), type(error).__name__)
        fix = "fine as it is; torchcodec needs FFmpeg's shared libraries (Debian/Ubuntu: apt-get install ffmpeg)"
        yield Finding("video decoder", "warning", f"PyAV {av.__version__}; torchcodec does not load: {line[:80]}", fix)


def _opengl() -> Iterator[Finding]:
    from hlrp.errors import UserError
    from hlrp.sim.rendering import configure_gl, probe_rendering
    from hlrp_cli.requirements import installed_version

    if installed_version("mujoco") is None:
        yield Finding("opengl", "warning", "not tried: mujoco is not installed", f"pip install '{DISTRIBUTION}[sim]'")
        return
    backend = configure_gl()
    try:
        probe_rendering()
    except UserError as error:
        yield Finding("opengl", "problem", error.what, error.fix or "")
    else:
        yield Finding("opengl", "ok", f"MuJoCo renders (MUJOCO_GL={backend or 'unset'})")


def _plugin() -> Iterator[Finding]:
    from hlrp.catalog import policy_catalog

    catalog = policy_catalog()
    for name, reason in catalog.failed.items():
        yield Finding("plugin", "problem", f"{name} failed to import: {reason}", "repair or uninstall it")
    for name in catalog.skipped:
        fix = f"rename the distribution to {name.replace('-', '_')}"
        yield Finding("plugin", "problem", f"LeRobot skips {name}: the name has hyphens", fix)
    if DISTRIBUTION not in catalog.failed:
        count = f"{len(catalog.policies)} policies"
        yield Finding("plugin", "ok", f"LeRobot finds {DISTRIBUTION}; {count} are registered")


def _folders() -> Iterator[Finding]:
    import shutil

    from hlrp.catalog import cache_folder
    from hlrp.errors import UserError
    from hlrp.runs.directory import check_writable

    hub = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    places = {"outputs": Path("outputs").absolute(), "cache": cache_folder(), "hub cache": hub}
    for name, path in places.items():
        try:
            check_writable(path)
        except UserError as error:
            fix = {"cache": "set HLRP_CACHE", "hub cache": "set HF_HOME"}.get(name, "run in a folder you can write to")
            yield Finding(name, "problem", f"{path}: {error.what}", fix)
        else:
            yield Finding(name, "ok", f"{path} can be written")
    free = shutil.disk_usage(Path.cwd()).free / _GIB
    state = "problem" if free < 1 else "warning" if free < 10 else "ok"
    yield Finding(
        "disk", state, f"{free:.0f} GiB free here", "" if state == "ok" else "free some space for checkpoints"
    )
    shared = Path("/dev/shm")  # noqa: S108 - looked at, not written to
    if shared.is_dir() and (size := shutil.disk_usage(shared).total / _GIB) < 0.25:
        fix = "start the container with --shm-size=2g, or train with data.num_workers=0"
        yield Finding("shared memory", "warning", f"{size:.2f} GiB: data workers may die", fix)


def _hub() -> Iterator[Finding]:
    offline = [k for k in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE") if os.environ.get(k, "0").lower() not in ("", "0")]
    if offline:
        found = f"offline ({', '.join(offline)}): only what is in the cache"
    else:
        found = "hlrp fetches nothing unless --allow-download is given"
    yield Finding("hub", "ok", found)


CHECKS = (_python, _packages, _gpu, _video, _opengl, _plugin, _folders, _hub)
