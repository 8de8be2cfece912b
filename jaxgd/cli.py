"""The command line: jaxgd fit | sweep | rate | problems."""

import gc
import sys
from collections.abc import Callable
from typing import Annotated, NoReturn

try:
    import tyro

    from jaxgd.commands import fit, problems, rate, sweep
except ModuleNotFoundError as error:
    sys.exit(f"jaxgd: the command needs {error.name}, which is not installed: pip install 'jaxgd[cli]'")

from jaxgd.commands.job import UserError
from jaxgd.data import DataError

COMMANDS: dict[type, Callable[..., int]] = {
    fit.FitOptions: fit.run,
    sweep.SweepOptions: sweep.run,
    rate.RateOptions: rate.run,
    problems.ProblemsOptions: problems.run,
}


def main() -> None:
    """Run the command; raises SystemExit with its exit code."""
    # Collections while importing and at exit walk a million living objects: a third of the time of a short
    # run. What the command itself leaves behind does not grow with its steps.
    gc.disable()
    options = tyro.cli(
        Annotated[fit.FitOptions, tyro.conf.subcommand("fit")]
        | Annotated[sweep.SweepOptions, tyro.conf.subcommand("sweep")]
        | Annotated[rate.RateOptions, tyro.conf.subcommand("rate")]
        | Annotated[problems.ProblemsOptions, tyro.conf.subcommand("problems")],
        prog="jaxgd",
        description="Gradient descent that can be trusted.",
        config=(tyro.conf.OmitSubcommandPrefixes,),
    )
    try:
        sys.exit(COMMANDS[type(options)](options))
    except (UserError, DataError) as error:
        _fail(str(error))
    except KeyboardInterrupt:
        print("jaxgd: interrupted; nothing was written", file=sys.stderr)
        sys.exit(130)
    finally:
        gc.freeze()


def _fail(message: str) -> NoReturn:
    print(f"jaxgd: {message}", file=sys.stderr)
    sys.exit(2)
