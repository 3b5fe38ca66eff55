"""The command line. Commands import what they need when they run, so that `--help` is quick."""

import sys

import click

from dgguf import __version__, interrupts
from dgguf.cli import streams
from dgguf.cli.batch import batch
from dgguf.cli.bench import bench
from dgguf.cli.chat import chat
from dgguf.cli.check import check
from dgguf.cli.commands import Commands, completion, name_variables
from dgguf.cli.compare import compare
from dgguf.cli.decide import decide
from dgguf.cli.doctor import doctor
from dgguf.cli.edit import edit
from dgguf.cli.export import export
from dgguf.cli.fill import fill
from dgguf.cli.imatrix import imatrix
from dgguf.cli.models import list_models, pull, rm
from dgguf.cli.quantize import quantize
from dgguf.cli.replay import replay
from dgguf.cli.resume import resume
from dgguf.cli.run import run
from dgguf.cli.serve import serve
from dgguf.cli.show import show
from dgguf.cli.together import install
from dgguf.cli.tour import tour
from dgguf.errors import DggufError


@click.group(
    cls=Commands,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "auto_envvar_prefix": "DGGUF",
        "show_default": True,
        "max_content_width": 100,
    },
    epilog="Every option can be set by an environment variable: DGGUF_RUN_THREADS=4 for `run --threads 4`.",
)
@click.version_option(__version__, prog_name="dgguf")
@click.pass_context
def cli(context: click.Context) -> None:
    """Run Google's DiffusionGemma on your own machine, and watch it think.

    \b
    Examples:
      dgguf tour
      dgguf run demo "Tell me a story."
      dgguf chat demo
      dgguf run diffusiongemma-26B-A4B-it-Q4_K_M.gguf "Why is the sky blue?"
      dgguf show diffusiongemma-26B-A4B-it-Q4_K_M.gguf
      dgguf quantize ./diffusiongemma-checkpoint out.gguf --type Q8_0
    """
    import logging

    from dgguf.cli.log import show_log

    context.with_resource(show_log(logging.WARNING))


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
    fill,
    edit,
    resume,
    decide,
    batch,
    serve,
    tour,
    replay,
    export,
    list_models,
    show,
    pull,
    rm,
    check,
    quantize,
    imatrix,
    compare,
    bench,
    doctor,
    completion,
):
    cli.add_command(command)
    name_variables(command)
    install(command)

_debug_option = click.option(
    "--debug",
    is_flag=True,
    expose_value=False,
    callback=_set_debug,
    help="Show a traceback when something fails.",
)
for command in (cli, *cli.commands.values()):  # before a command's name and behind it
    _debug_option(command)


def main() -> None:
    """Run a command and end with its exit code.

    It is 0 when done, 1 for an error, 2 for usage, and for a signal 128 + its number: 130 for Ctrl-C.
    """
    streams.prepare()
    try:
        with interrupts.raised():
            code = _run()
    except SystemExit as request:  # by a signal
        # What waits within a library may have made another code of it.
        code = 128 + interrupts.received() if interrupts.received() else int(request.code or 0)
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)


def _run() -> int:
    """Run the command that the arguments name; its exit code."""
    try:
        code = _command()
    except click.ClickException as error:
        from dgguf.cli.output import fail_usage

        fail_usage(error)
        code = error.exit_code
    except (click.Abort, KeyboardInterrupt) as error:
        code = 130
        if isinstance(error.__cause__, EOFError):  # click takes it for Ctrl-D at a question
            if _debug:
                raise
            code = 1
            from dgguf.cli.output import fail

            fail("something that was read ended too early; --debug shows what")
    except Exception as error:
        code = 1
        if interrupts.received():  # what was interrupted has made another exception of it
            pass
        elif _debug or not isinstance(error, DggufError | MemoryError | OSError):
            raise
        elif not (isinstance(error, OSError) and streams.is_closed_pipe(error)):
            from dgguf.cli.output import fail

            fail(error)
    finally:
        streams.give_up_stdout()
    return 128 + interrupts.received() if interrupts.received() else code


def _command() -> int:
    try:
        code = int(cli.main(standalone_mode=False) or 0)
        sys.stdout.flush()
        return code
    finally:
        _say_not_kept()  # before an error, whose sentence is the last


def _say_not_kept() -> None:
    """Say it where kernels were compiled that the next run will compile again."""
    kernel_cache = sys.modules.get("dgguf.kernel_cache")  # of commands that need no compiler it is not
    if kernel_cache and (reason := kernel_cache.not_kept()):
        from dgguf.cli.output import warn

        warn(f"compiled kernels were not kept for later runs: {reason}")
