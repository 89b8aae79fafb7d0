"""One invocation of `robustq`: its report, and the streams that report, results and messages go to.

Standard output carries data, JSON or a listing that was asked for; everything for people goes to standard error.
"""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from robustq.core.errors import Exit, RobustqError
from robustq.core.report import Report

from .text import visible

if TYPE_CHECKING:
    from rich.console import Console

Renderer = Callable[[Report, "Console", int], None]  # the last is how often -v was given


@dataclass
class Run:
    """What the error boundary knows of the command it runs, also when the command fails half-way."""

    json: bool = False
    force: bool = False
    quiet: bool = False
    verbose: int = 0
    printed: str | None = None  # the kind of document that goes to standard output
    documents: dict[str, str] = field(default_factory=dict)  # kind of document -> the file it is written to
    report: Report = field(default_factory=lambda: Report("robustq"))
    render: Renderer | None = None
    silent: bool = False  # nothing is to be reported: help or a version was asked for

    def start(
        self,
        command: str,
        output: Any,
        render: Renderer | None = None,
        documents: Mapping[str, str | None] | None = None,
    ) -> Report:
        """Take the output options of a command; refuses a document that exists before any work is done.

        documents {kind in `documents.KINDS`: file}; "-" is standard output, which takes one of them.
        """
        from . import documents as written

        self.report = Report(command)
        self.force, self.quiet, self.verbose, self.render = output.force, output.quiet, output.verbose, render
        self.printed, self.documents = written.placed(documents or {}, output.json, self.force)
        self.json = self.printed == "json"
        return self.report

    def follow(self) -> None:
        """Another process of the same run reports: this one prints and writes nothing but its errors."""
        self.silent, self.quiet, self.json, self.render = True, True, False, None
        self.printed, self.documents = None, {}

    def say(self, text: str) -> None:
        """A message for people, unless --quiet."""
        if not self.quiet:
            print(text, file=sys.stderr)

    def complain(self, error: RobustqError) -> None:
        """An error, on standard error, also with --quiet."""
        with suppress(OSError):
            print(f"error: {visible(error.problem)}", file=sys.stderr)
            if error.remedy:
                print(f"       {visible(error.remedy)}", file=sys.stderr)

    def fail(self, error: RobustqError) -> None:
        """Record and print an error that was raised on purpose."""
        self.report.fail(error)
        self.complain(error)

    def interrupt(self) -> None:
        """Ctrl-C: what is known so far is reported."""
        self.report.status, self.report.exit_code = "interrupted", int(Exit.INTERRUPTED)
        self.report.error = {"type": "Interrupted", "problem": "Interrupted.", "remedy": ""}
        self.say("interrupted")

    def crash(self, error: BaseException) -> None:
        """An error that is ours: the traceback goes to a file, its name to the user."""
        import tempfile
        import traceback

        text = "".join(traceback.format_exception(error))
        try:
            with tempfile.NamedTemporaryFile("w", prefix="robustq-", suffix=".txt", delete=False) as file:
                file.write(f"robustq {' '.join(sys.argv[1:])}\n\n{text}")
            place = f"The traceback is in {file.name}; please report it."
        except OSError:
            place = f"The traceback could not be written to a file:\n{text}"
        failure = RobustqError(f"Internal error: {type(error).__name__}: {error}", place)
        self.report.fail(failure)
        self.report.exit_code = int(Exit.INTERNAL)
        self.complain(failure)

    def finish(self) -> int:
        """Write the report where it was asked for; the exit status."""
        if self.silent and self.report.error is None:
            return int(self.report.exit_code)
        failed = self.report.error is not None
        if self.report.content or not failed:
            self._write_documents()
        if self.json:
            print(self.report.to_json())
        if self.render is not None and self.report.content and not self.quiet:
            self.render(self.report, console(sys.stderr), self.verbose)
        for warning in self.report.warnings:
            self.say(f"warning: {visible(warning)}")
        for missed in self.report.content.get("gates_missed", []):
            print(f"gate missed: {visible(missed)}", file=sys.stderr)
        return int(self.report.exit_code)

    def _write_documents(self) -> None:
        from . import documents

        try:
            for kind, path in self.documents.items():
                documents.write(kind, self.report, path, self.force)
            if self.printed not in (None, "json"):
                print(documents.text(str(self.printed), self.report), end="")
        except RobustqError as error:
            self.fail(error)
        except OSError:  # standard output is closed or full: for the boundary
            raise
        except Exception as error:  # the figures are there: what can be reported of them still is
            self.crash(error)

    @contextmanager
    def closing(self) -> Iterator[None]:
        """Flush standard output inside the error boundary, not in the interpreter's last moments."""
        yield
        sys.stdout.flush()

    @contextmanager
    def progress(self) -> Iterator[Callable[[dict[str, Any]], None]]:
        """A sink for core's events; bars appear only on a terminal, and only after a second."""
        if self.quiet or not sys.stderr.isatty():
            yield lambda event: None
            return
        from .progress import Bars

        with Bars(console(sys.stderr)) as bars:
            yield bars.on_event


def console(stream: Any) -> "Console":
    """A rich console; without a terminal lines are as long as they need to be. NO_COLOR is honoured by rich."""
    from rich.console import Console

    return Console(file=stream, highlight=False, markup=False, emoji=False, width=None if stream.isatty() else 4096)
