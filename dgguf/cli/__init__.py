"""The command line. Commands import what they need when they run, so that `--help` is quick."""

import contextlib
import errno
import io
import os
import platform
import sys

import click

from dgguf import __version__
from dgguf.cli.bench import bench
from dgguf.cli.chat import chat
from dgguf.cli.check import check
from dgguf.cli.compare import compare
from dgguf.cli.doctor import doctor
from dgguf.cli.export import export
from dgguf.cli.imatrix import imatrix
from dgguf.cli.info import info
from dgguf.cli.models import models, pull
from dgguf.cli.quantize import quantize
from dgguf.cli.replay import replay
from dgguf.cli.run import run
from dgguf.errors import DggufError, sentence


@click.group(
    context_settings={
        "help_option_names": ["-h", "--help"],
        "auto_envvar_prefix": "DGGUF",
        "show_default": True,
        "max_content_width": 100,
    },
    epilog="Every option can be set by an environment variable: DGGUF_RUN_THREADS=4 for `run --threads 4`.",
)
@click.version_option(__version__, prog_name="dgguf")
def cli() -> None:
    """Run Google's DiffusionGemma on your own machine, and watch it think.

    \b
    Examples:
      dgguf run demo -p "Tell me a story."
      dgguf chat demo
      dgguf run diffusiongemma-26B-A4B-it-Q4_K_M.gguf -p "Why is the sky blue?"
      dgguf info diffusiongemma-26B-A4B-it-Q4_K_M.gguf
      dgguf quantize ./diffusiongemma-checkpoint out.gguf --type Q8_0
    """


_debug = False


def _set_debug(context: click.Context, parameter: click.Parameter, given: bool) -> None:
    global _debug
    if given:
        import logging

        from dgguf.cli.log import show_log

        _debug = True
        context.with_resource(show_log(logging.DEBUG))


for command in (
    run,
    chat,
    replay,
    export,
    bench,
    doctor,
    info,
    check,
    models,
    pull,
    quantize,
    imatrix,
    compare,
):
    cli.add_command(command)

_debug_option = click.option(
    "--debug",
    is_flag=True,
    expose_value=False,
    callback=_set_debug,
    help="Show a traceback when something fails.",
)
for command in (cli, *cli.commands.values()):  # before a command's name and behind it
    _debug_option(command)


def _prepare_streams() -> None:
    """Let what a model writes pass: UTF-8 and LF through pipes, replaced where a terminal lacks it.

    Windows would write cp1252 and CR LF into pipes; a console of it is told to obey escape codes.
    """
    if sys.stdin is None:  # as below; Python knows no closed stream
        sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: SIM115
    named = bool(os.environ.get("PYTHONIOENCODING"))
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by whoever started us
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper) and not (named or stream.isatty()):
            stream.reconfigure(encoding="utf-8", errors="replace", newline="\n")
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    if platform.system() == "Windows":
        from dgguf.machine.windows import enable_escape_codes

        if not enable_escape_codes():
            os.environ["TERM"] = "dumb"


def _is_closed_pipe(error: OSError) -> bool:
    """Whether who read our output has gone, which Windows calls an invalid argument."""
    return isinstance(error, BrokenPipeError) or (
        error.errno == errno.EINVAL and error.filename is None and platform.system() == "Windows"
    )


def main() -> None:
    """Run a command and end with its exit code: 0 done, 1 an error, 2 usage, 130 Ctrl-C."""
    _prepare_streams()
    try:
        code = cli.main(standalone_mode=False) or 0
        sys.stdout.flush()
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except (click.Abort, KeyboardInterrupt) as error:
        code = 130
        if isinstance(error.__cause__, EOFError):  # click takes it for Ctrl-D at a question
            if _debug:
                raise
            code = 1
            click.echo("dgguf: error: something that was read ended too early; --debug shows what", err=True)
    except (DggufError, MemoryError, OSError) as error:
        code = 1
        if isinstance(error, OSError) and _is_closed_pipe(error):
            # Quietly stop, and keep Python from flushing into nothing.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        elif _debug:
            raise
        else:
            click.echo(f"dgguf: error: {sentence(error)}", err=True)
    _say_not_kept()
    sys.exit(code)


def _say_not_kept() -> None:
    """Say it where kernels were compiled that the next run will compile again."""
    kernel_cache = sys.modules.get("dgguf.kernel_cache")  # of commands that need no compiler it is not
    if kernel_cache and (reason := kernel_cache.not_kept()):
        with contextlib.suppress(OSError):
            click.echo(f"dgguf: compiled kernels were not kept for later runs: {reason}", err=True)
