"""The command `avflow` within a test's process."""

from __future__ import annotations

import re

from typer.testing import CliRunner

from avflow.cli import main as cli


def avflow_(*arguments):
    result = CliRunner().invoke(cli.app, [str(a) for a in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def one_line_error(result):
    """The message, after a check of its form: exit code 2, one line, no traceback."""
    assert result.exit_code == 2, result.output
    lines = [line for line in re.split(r"[\r\n]+", result.stderr) if line and not re.match(r"\w+: +\d+%", line)]
    assert len(lines) == 1 and lines[0].startswith("error: "), result.stderr
    return lines[0]
