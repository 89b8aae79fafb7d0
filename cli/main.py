"""The `robustq` command: the app, and the one place where errors become messages and exit statuses.

Nothing here may import torch, numpy, rich or importlib.metadata at module level: `robustq --help` is to be quick.
"""

import os
import sys
from collections.abc import Sequence
from typing import Annotated, NoReturn

import typer

from robustq.core.errors import Exit, OptionError, OutputError, RobustqError

from .attack import attack
from .benchmark import benchmark
from .compress import compress
from .export import export
from .inspect import inspect
from .methods import methods
from .options import VERBOSE
from .report import report
from .run import Run
from .train import train

UsageError: type[Exception] = typer.BadParameter.__mro__[
    1
]  # Typer has its own copy of click since 0.26, and the real one before

app = typer.Typer(
    name="robustq",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Make neural networks small without making them easy to fool, and prove it.",
    epilog="Start with: robustq bench --attack pgd",
)
for function, example in (
    (compress, "robustq compress model.pt --bits 2 -o small.safetensors"),
    (train, "robustq train --arch resnet --data fashion-mnist --objective pgd-at --compress binary-relax:bits=2"),
    (attack, "robustq attack model.pt --data mnist --eps 0.3 --steps 40 -o adv.safetensors"),
    (benchmark, "robustq bench float.pt small.safetensors --data cifar10 --attack pgd --min-robust-acc 0.4"),
    (export, "robustq export small.safetensors --to onnx -o small.onnx"),
    (inspect, "robustq inspect small.safetensors"),
    (report, "robustq report bench.json --html bench.html"),
    (methods, "robustq methods attack"),
):
    app.command(epilog=f"Example: {example}")(function)
    if function is benchmark:
        app.command("bench", epilog=f"Example: {example}", help="Short for benchmark.")(function)


@app.callback(invoke_without_command=True)
def _options(
    ctx: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
    verbose: Annotated[int, VERBOSE] = 0,
) -> None:
    if version:
        from .versions import versions

        print(versions(bool(verbose)))
        raise typer.Exit
    if ctx.invoked_subcommand is None:
        print(ctx.get_help())


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit with its status."""
    if "_ROBUSTQ_COMPLETE" in os.environ:
        app(prog_name="robustq")
    if "TORCHELASTIC_RUN_ID" in os.environ:  # under torchrun each process would print torch's remarks on its reducer
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    sys.exit(int(execute(sys.argv[1:] if argv is None else list(argv))))


def execute(args: list[str]) -> int:
    """Run one command line; the exit status. Every error ends here, as a message and in the report."""
    run = Run(json="--json" in args)
    try:
        with run.closing():
            status = _invoke(args, run)
            return status or run.finish()
    except BrokenPipeError:
        return _closed_pipe()
    except SystemExit as leave:
        if isinstance(leave.__context__, BrokenPipeError):  # rich, which also prints help, leaves with status 1
            return _closed_pipe()
        raise
    except OSError as error:  # the report itself cannot be written: standard output is full or closed
        run.complain(_from_os(error) or OutputError(f"The output cannot be written ({error.strerror})."))
        _discard_stdout()
        return Exit.USAGE


def _invoke(args: list[str], run: Run) -> int:
    """0 if the command ran to its end (its report holds the status), else the status."""
    try:
        with typer.main.get_command(app).make_context("robustq", args, obj=run) as context:
            context.command.invoke(context)
    except typer.Exit as leave:
        run.silent = True
        return leave.exit_code
    except KeyboardInterrupt:
        run.interrupt()
    except RobustqError as error:
        run.fail(error)
    except UsageError as error:
        run.fail(_from_usage(error))
    except BrokenPipeError:
        raise
    except OSError as error:
        known = _from_os(error)
        run.fail(known) if known else run.crash(error)
    except Exception as error:
        run.crash(error)
    return 0


def _from_usage(error: Exception) -> RobustqError:
    context = getattr(error, "ctx", None)
    path = context.command_path if context else "robustq"
    if options := getattr(error, "possibilities", None):
        from robustq.core.registry import suggest

        name = str(getattr(error, "option_name", ""))
        return OptionError(f"There is no option {name}.", f"{suggest(name, options)} `{path} --help` lists all.")
    text = str(getattr(error, "format_message", lambda: error)()) or "There is no command."
    return OptionError(text, f"`{path} --help` lists what there is.")


def _from_os(error: OSError) -> RobustqError | None:
    import errno

    if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM):
        return None
    place = error.filename or "standard output"
    return OutputError(
        f"{place}: {error.strerror}.", "Nothing half-written is left; choose another place or make room."
    )


def _closed_pipe() -> int:
    _discard_stdout()
    return Exit.PIPE


def _discard_stdout() -> None:
    """Let the interpreter's last flush of standard output go nowhere."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)
