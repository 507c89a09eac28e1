"""The `unsmear` command.

Standard output is for what was asked for: the picture with `--output -`, and the listings of `--dry-run`,
`models` and `doctor`. Everything else, progress and errors included, goes to standard error.

PyTorch takes seconds to load, so whatever needs it is imported where it is used: `unsmear --help` answers at
once, and mistakes in the call are found before anything is loaded.
"""

import io
import os
import signal
import sys
import warnings
from typing import Annotated, Any, NoReturn

import typer

from unsmear import __version__
from unsmear.cli.bench import bench
from unsmear.cli.convert import convert
from unsmear.cli.deblur import deblur
from unsmear.cli.doctor import doctor
from unsmear.cli.evaluate import evaluate
from unsmear.cli.explain import explain
from unsmear.cli.models import models
from unsmear.cli.synth import synth
from unsmear.cli.table1 import table1
from unsmear.cli.terminal import fail
from unsmear.cli.train import train
from unsmear.errors import UnsmearError
from unsmear.process import tune_process

_INTERRUPTED = 130
_WRONG_CALL: Any = typer.BadParameter.__bases__[0]  # any mistake in a call; typer has no public name for it

app = typer.Typer(
    rich_markup_mode=None,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> NoReturn:
    """Run the command line and exit: the one place where errors become messages and exit codes."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # tidy up as after Ctrl-C
    tune_process()
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    if isinstance(sys.stdout, io.TextIOWrapper):  # file names may hold what the terminal's encoding lacks
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        code = app(prog_name="unsmear", standalone_mode=False)
        sys.stdout.flush()
    except UnsmearError as error:
        fail(str(error))
        code = error.exit_code
    except _WRONG_CALL as error:
        command = error.ctx.command_path if error.ctx else "unsmear"
        fail(f"{' '.join(error.format_message().split())} (see '{command} --help')")
        code = error.exit_code
    except KeyboardInterrupt:
        for number in (signal.SIGINT, signal.SIGTERM):  # a second one would cut the tidying short
            signal.signal(number, signal.SIG_IGN)
        code = _INTERRUPTED
    except BrokenPipeError:  # whoever read our output has gone, and Python's last flush must not reach them
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    if code == _INTERRUPTED:
        fail("interrupted; what was finished is in place, and nothing is half-written")
    sys.exit(code)


@app.callback(
    invoke_without_command=True,
    epilog="Exit codes: 0 all done, 1 some pictures failed, 2 wrong call, 3 model unusable, 4 out of memory, "
    "130 interrupted.",
)
def _unsmear(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
) -> None:
    """Take the motion blur out of photographs."""
    if version:
        typer.echo(f"unsmear {__version__}")
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())


for command in (deblur, explain, train, synth, convert, models, doctor, bench):
    app.command()(command)
app.command("eval")(evaluate)
app.command()(table1)
