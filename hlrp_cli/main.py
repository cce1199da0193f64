"""The `hlrp` command: collects the commands and turns errors into one message and an exit code."""

import os
import signal
import sys
import traceback
from importlib import import_module
from typing import Any

import typer

from hlrp.errors import HlrpError, Interrupted, UserError
from hlrp.processes import SignalError, child_environment, leave_closed_terminal, signal_handlers, stop_signals
from hlrp.ranks import is_first_process
from hlrp_cli.console import plain_streams
from hlrp_cli.flags import check_flags
from hlrp_cli.launching import add_launcher, requeue

app = typer.Typer(
    name="hlrp",
    help="From robot video to a policy that acts, on LeRobot and Lightning.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    # Rich help costs 0.2 s of imports on every --help.
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
)

# One module per command: it has a function of its own name, or a `group` of them. They import only what flags need.
COMMANDS = (
    "train",
    "sweep",
    "eval",
    "serve",
    "client",
    "push",
    "rollout",
    "export",
    "laq_report",
    "precompute_latents",
    "latents",
    "fit_actions",
    "pseudo_label",
    "collect",
    "import_video",
    "data",
    "demo",
    "config",
    "runs",
    "slurm",
    "report",
    "parity",
    "policies",
    "doctor",
    "make_tiny_backbone",
)


@app.callback()
def _root() -> None:
    """From robot video to a policy that acts, on LeRobot and Lightning."""


for _name in COMMANDS:
    _module = import_module(f"hlrp_cli.{_name}")
    if hasattr(_module, "group"):
        app.add_typer(_module.group, name=_name)
    else:
        app.command(_name.replace("_", "-"), cls=getattr(_module, "Command", None))(getattr(_module, _name))


def command() -> Any:
    """The whole command line, as click runs it."""
    return check_flags(add_launcher(typer.main.get_command(app)))


def _stop(number: int, _frame: object) -> None:
    # The next one does not wait for the clean-up; a closed terminal says so more than once.
    signal.signal(number, signal.SIG_DFL if number == signal.SIGTERM else signal.SIG_IGN)
    leave_closed_terminal()
    raise SignalError(number)


def _check_locale() -> None:
    """Libraries write names, and look for them, in UTF-8 alone."""
    if (encoding := sys.getfilesystemencoding()) != "utf-8":
        raise UserError(f"Python takes names of files for {encoding!r}", where="locale", fix="set PYTHONUTF8=1")


def run() -> None:
    """Console entry point. Exit codes: 0 done, 1 failed, 2 a mistake in what was asked, 128 + signal interrupted.

    Commands that save something when they are stopped have signal handlers of their own meanwhile.
    """
    argv = sys.argv[1:]
    debug = "--debug" in argv or bool(os.environ.get("HLRP_DEBUG"))
    argv = [a for a in argv if a != "--debug"]
    plain_streams()
    os.environ.update(child_environment())
    try:
        _check_locale()
        with signal_handlers(_stop, tuple(n for n in stop_signals() if n != signal.SIGINT)):
            command()(args=argv, prog_name="hlrp")
    except SignalError as stopped:
        if debug:
            traceback.print_exc()
        if is_first_process():
            sys.stderr.write(f"stopped by signal {stopped.number}\n")
            requeue(argv, stopped.number, saved=False)
        sys.exit(128 + stopped.number)
    except HlrpError as error:
        if debug:
            traceback.print_exc()
        sys.stdout.flush()
        prefix = "" if isinstance(error, Interrupted) else "error: "
        sys.stderr.write(f"{prefix}{error}\n")
        if isinstance(error, Interrupted) and is_first_process():
            requeue(argv, error.exit_code - 128, saved=error.saved)
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, SystemExit) as ended:
        # Once typer runs a command, it makes an exit of Ctrl-C.
        if isinstance(ended, SystemExit) and ended.code != 128 + signal.SIGINT:
            raise
        if debug:
            traceback.print_exc()
        sys.stderr.write("interrupted\n")
        sys.exit(128 + signal.SIGINT)
    except Exception as error:
        # Nobody foresaw this one: a report needs the traceback, a user needs one line and the way to it.
        if debug:
            traceback.print_exc()
        else:
            sys.stderr.write(f"internal error: {type(error).__name__}: {error}\n")
            sys.stderr.write("  fix:   run again with --debug and report what it prints\n")
        sys.exit(1)


if __name__ == "__main__":
    run()
