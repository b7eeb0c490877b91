"""The exit code holds, whenever ctrl-C comes once it is known: while threads end, and while Python unloads."""

import signal
import subprocess
import sys
import time

import pytest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="ctrl-C is no signal there")

PROGRAM = """
import atexit, os, signal, sys, threading, time
import typer
from avflow.cli import main as cli
from avflow.cli.options import cli_errors

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's job in the background ignores ctrl-C
how, where = sys.argv[1:]
heap = [{} for _ in range(600_000)]  # to unload it takes a while, as torch does


def interrupt():
    os.kill(os.getpid(), signal.SIGINT)


def app():
    if where == "thread":
        threading.Thread(target=time.sleep, args=(60,)).start()
        threading.Timer(0.3, interrupt).start()
    if where == "atexit":
        atexit.register(interrupt)
    if where == "message":
        typer.echo = lambda *_, **__: interrupt()
    with cli_errors():
        if how == "130":
            raise KeyboardInterrupt
        raise typer.Exit(int(how)) from None


real_app = app


def app():  # as typer's: its exceptions end the program
    try:
        real_app()
    except typer.Exit as ended:
        raise SystemExit(ended.exit_code)


cli.app = app
if where == "unloading":
    atexit.register(lambda: os.write(1, b"unloading"))  # before ours: called after it, the last
cli.main()
"""


@pytest.mark.parametrize("code", [0, 1, 130])
@pytest.mark.parametrize("where", ["thread", "atexit", "unloading"])
def test_the_exit_code_holds(code, where):
    with subprocess.Popen([sys.executable, "-c", PROGRAM, str(code), where], stdout=-1, stderr=-1) as process:
        try:
            if where == "unloading":
                assert process.stdout.read(9) == b"unloading", process.stderr.read()
                while process.poll() is None:
                    process.send_signal(signal.SIGINT)
                    time.sleep(0.001)
            assert process.wait(30) == code, process.stderr.read()
        finally:
            process.kill()


def test_ctrl_c_while_it_says_that_it_stopped():
    done = subprocess.run([sys.executable, "-c", PROGRAM, "130", "message"], capture_output=True, timeout=30)
    assert (done.returncode, done.stderr) == (130, b"")


def test_a_command_that_ignores_ctrl_c_goes_on_doing_so():
    """As one that a shell starts in the background."""
    ignoring = f"import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n{PROGRAM}"
    done = subprocess.run([sys.executable, "-c", ignoring, "3", "atexit"], capture_output=True, timeout=30)
    assert done.returncode == 3
