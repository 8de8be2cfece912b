"""The command line: jaxgd fit | sweep | rate | predict | check | problems."""

import gc
import json
import os
import signal
import sys
from collections.abc import Callable
from typing import Annotated, NoReturn

import jax

try:
    import tyro

    from jaxgd.commands import check, fit, predict, problems, rate, sweep
except ModuleNotFoundError as error:
    sys.exit(f"jaxgd: the command needs {error.name}, which is not installed: pip install 'jaxgd[cli]'")

from jaxgd import interrupt
from jaxgd.commands.errors import PrintedError, UserError
from jaxgd.commands.words import check_command, checked, in_flags
from jaxgd.data import DataError
from jaxgd.descent.host import terminate
from jaxgd.version import __version__

COMMANDS: dict[type, Callable[..., int]] = {
    fit.FitOptions: fit.run,
    sweep.SweepOptions: sweep.run,
    rate.RateOptions: rate.run,
    predict.PredictOptions: predict.run,
    check.CheckOptions: check.run,
    problems.ProblemsOptions: problems.run,
}


SMALL_LOOPS = "--xla_backend_extra_options=xla_cpu_small_while_loop_byte_threshold"
"""XLA compiles a loop as one function if a step touches at most this many bytes. The default is 1024; a step of one row
of 200 inputs touches more, and would take five times as long."""

SMALL_LOOP_BYTES = 32768


def compile_small_loops() -> None:
    """Set this flag of XLA unless the user has set it. This must happen before the first JAX array is made."""
    flags = os.environ.get("XLA_FLAGS", "")
    if SMALL_LOOPS not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {SMALL_LOOPS}={SMALL_LOOP_BYTES}".strip()


def keep_compiled_programs() -> None:
    """Keep compiled programs in the user's cache folder, so that the same command starts faster the next time.

    If the user has chosen a cache (`JAX_COMPILATION_CACHE_DIR`), nothing is changed.
    """
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    jax.config.update("jax_compilation_cache_dir", os.path.join(home, "jaxgd", f"programs-jax-{jax.__version__}"))
    # By default only programs that took a second to compile are kept; a command compiles many small ones.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.05)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def main() -> NoReturn:
    """Run the command and end the process with its exit code.

    Returns:
      Never.
    """
    # Garbage collection during the imports visits a million objects, which takes a third of the time of a short run.
    # The garbage of the command itself does not grow with the number of steps.
    gc.disable()
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:  # nohup ignores SIGHUP, and so do we then
            signal.signal(number, terminate)
    compile_small_loops()
    if "--no-compilation-cache" not in sys.argv:
        keep_compiled_programs()
    try:
        interrupt.restore()
        code = run(sys.argv[1:])
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of the output has seen enough
        code = 1
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    sys.stderr.flush()
    # Everything is written. Python can crash if it shuts down while threads of XLA still run, above all after an
    # interrupt. Freeing the memory of the run would also take a tenth of its time.
    os._exit(code)


def run(words: list[str]) -> int:
    """Run the command.

    Args:
      words: the words of the command line, without the name of the program.

    Returns:
      The exit code.

    Raises:
      SystemExit: the words cannot be parsed, or they request help.
    """
    as_json = "--json" in words
    try:
        return _run(words)
    except (UserError, DataError) as error:
        code = error.exit_code if isinstance(error, UserError) else 2
        if as_json and not isinstance(error, PrintedError):  # there the result is what was printed
            print(json.dumps({"error": str(error), "exit_code": code}))
        else:
            print(f"jaxgd: {error}", file=sys.stderr)
        return code
    except KeyboardInterrupt:
        if as_json:
            print(json.dumps({"error": "interrupted", "exit_code": 130}))
        else:
            print("jaxgd: interrupted; nothing was written", file=sys.stderr)
        return 130


def _run(words: list[str]) -> int:
    """Run the command; raise an error for a mistake of the user."""
    if words == ["--version"]:
        print(f"jaxgd {__version__}")
        return 0
    by_name = {kind.__name__.removesuffix("Options").lower(): kind for kind in COMMANDS}
    if words and not words[0].startswith("-"):
        check_command(words, by_name)
        words = [words[0], *checked(words[1:], by_name[words[0]])]
    options = tyro.cli(
        Annotated[fit.FitOptions, tyro.conf.subcommand("fit")]
        | Annotated[sweep.SweepOptions, tyro.conf.subcommand("sweep")]
        | Annotated[rate.RateOptions, tyro.conf.subcommand("rate")]
        | Annotated[predict.PredictOptions, tyro.conf.subcommand("predict")]
        | Annotated[check.CheckOptions, tyro.conf.subcommand("check")]
        | Annotated[problems.ProblemsOptions, tyro.conf.subcommand("problems")],
        args=words or ["--help"],
        prog="jaxgd",
        description="Gradient descent that reports why it ended and which learning rates are stable.",
        config=(tyro.conf.OmitSubcommandPrefixes,),
    )
    try:
        return COMMANDS[type(options)](options)
    except UserError as error:
        raise type(error)(in_flags(str(error), type(options))) from None
