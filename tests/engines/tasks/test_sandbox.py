"""Programs that would do harm, or pass without being right."""

import os
import socket
import subprocess
import sys
import time

import psutil
import pytest

from llmrecipe.engines.tasks import sandbox
from llmrecipe.engines.tasks.sandbox import Limits
from llmrecipe.errors import StageError

REFUSAL = "the kernel refuses to lock them in"


@pytest.fixture(scope="module")
def run():
    """`sandbox.run`; where the kernel doesn't allow it, what it says is checked in its place."""
    # By another program that does the same.
    namespaces = ["--user", "--map-root-user", "--mount", "--net", "--ipc", "--pid", "--fork"]
    if subprocess.run(["unshare", *namespaces, "true"], check=False).returncode:
        with pytest.raises(StageError, match=REFUSAL) as refused:
            sandbox.refuse_forbidden()
        pytest.skip(str(refused.value))
    return lambda program, **limits: sandbox.run(program, Limits(**limits))


def running(marker):
    """Processes of this machine that have the marker in their command."""
    return [process for process in psutil.process_iter(["cmdline"]) if marker in (process.info["cmdline"] or [])]


def test_a_program_whose_tests_hold_passes(run):
    outcome = run("def add(a, b):\n    return a + b\n\nprint('é')\nassert add(1, 2) == 3")
    assert (outcome.verdict, outcome.reason, outcome.output) == ("passed", "", "é\n")


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("assert 1 + 1 == 3, 'no'", "AssertionError: no"),
        ("x = (", "SyntaxError: '(' was never closed"),
        ("import numpy", "ModuleNotFoundError: No module named 'numpy'"),
        ("import os\nos.kill(os.getpid(), 11)", "was killed by SIGSEGV"),
        ("\ud800", "SyntaxError"),
        ("def f():\n    f()\nf()", "RecursionError"),
    ],
)
def test_one_that_fails_says_how(run, program, reason):
    outcome = run(program)
    assert outcome.verdict == "failed"
    assert outcome.reason.startswith(reason)


@pytest.mark.parametrize(
    "ending",
    [
        "import os; os._exit(0)",
        "import sys; sys.exit(0)",
        "raise SystemExit",
        "print('passed'); import os; os._exit(0)",
        "import os; os.execv('/usr/bin/true', ['true'])",
        # The child fails, and its parent is gone by then.
        "import os\nif os.fork(): os._exit(0)",
        "import threading; threading.excepthook = None; raise KeyboardInterrupt",
    ],
)
def test_one_that_ends_before_its_tests_does_not_pass(run, ending):
    assert run(f"{ending}\nassert False").verdict == "failed"


def test_one_that_forks_does_not_pass_by_the_half_that_does(run):
    """Whichever of both is first."""
    for late in ("os.fork()", "not os.fork()"):
        forked = f"import os, time\nif {late}: time.sleep(0.3)\n"
        # The program itself is the second process where it is locked in.
        assert run(forked + "assert os.getpid() != 2").verdict == "failed"
        assert run(forked + "assert os.getpid() == 2").verdict == "passed"
    assert run("import os\nif os.fork(): os.wait()").verdict == "passed"


def test_it_is_over_after_its_last_line(run):
    waiting = "import threading, time\nthreading.Thread(target=time.sleep, args=[99]).start()\n"
    leaving = "import atexit\natexit.register(print, 'left')"
    assert run(waiting + leaving) == sandbox.Outcome(verdict="passed", reason="", output="")


def test_names_of_a_program_are_its_own(run):
    program = "assert __name__ == '__main__' and 'os' not in globals()\nimport sys\nassert len(sys.argv) == 1\n"
    redefined = "def read(): pass\ndef main(): pass\nos = sys = traceback = types = line = None\n"
    assert run(program + redefined).verdict == "passed"


def test_one_that_computes_for_ever_is_ended(run):
    begin = time.monotonic()
    outcome = run("while True: pass", seconds=1)
    assert outcome.verdict == "timed out"
    # On a machine that has much else to do, it may have computed for less by then.
    assert outcome.reason in ("has computed for 1 seconds", "4 seconds have passed by")
    assert time.monotonic() - begin < 20


def test_one_that_waits_for_ever_is_ended_with_its_children(run):
    marker = f"98765.{os.getpid()}4321"
    program = f"import os, time\nif os.fork() == 0: os.execv('/usr/bin/sleep', ['sleep', '{marker}'])\ntime.sleep(99)"
    outcome = run(program, seconds=1)
    assert (outcome.verdict, outcome.reason) == ("timed out", "4 seconds have passed by")
    assert running(marker) == []


def test_children_end_with_their_program(run):
    marker = f"98765.{os.getpid()}1234"
    # In a session of its own, and of no parent that lives.
    program = f"""
import os, time
read, write = os.pipe()
if os.fork() == 0:
    os.setsid()
    if os.fork():
        os._exit(0)
    os.execv('/usr/bin/sleep', ['sleep', '{marker}'])
time.sleep(0.3)
assert os.waitpid(-1, 0)
"""
    begin = time.monotonic()
    assert run(program).verdict == "passed"
    assert time.monotonic() - begin < 30
    assert running(marker) == []


def test_a_program_ends_with_who_asked_for_it(run):
    marker = f"98765.{os.getpid()}5678"
    program = f"import os; os.execv('/usr/bin/sleep', ['sleep', '{marker}'])"
    asking = f"from llmrecipe.engines.tasks.sandbox import run; run({program!r})"
    with subprocess.Popen([sys.executable, "-c", asking]) as process:
        until(lambda: running(marker))
        process.kill()
    until(lambda: not running(marker))


def until(true):
    """Wait for what has to become true within some seconds."""
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize(
    "program",
    ["x = bytearray(10 << 30)", "import mmap\nx = mmap.mmap(-1, 10 << 30)", "x = []\nwhile True: x.append('x' * 999)"],
)
def test_one_that_takes_much_memory_is_ended(run, program):
    assert run(program, memory=1 << 28).verdict == "out of memory"


def test_processes_are_counted(run):
    program = "import os, time\nfor _ in range({}):\n    if os.fork() == 0: time.sleep(9)"
    # With its own.
    assert run(program.format(3), processes=4).verdict == "passed"
    assert run(program.format(4), processes=4).reason.startswith("BlockingIOError")


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("open('large', 'wb').write(bytes(9 << 20))", "OSError: [Errno 27]"),
        ("for each in range(9): open(str(each), 'wb').write(bytes(1 << 20))", "OSError: [Errno 28]"),
        ("while True: print('x' * 999)", "OSError: [Errno 27]"),
    ],
)
def test_what_it_writes_is_counted(run, program, reason):
    outcome = run(program, written=4 << 20)
    assert outcome.verdict == "failed"
    assert outcome.reason.startswith(reason)
    assert len(outcome.output) <= 4096


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_UNIX])
def test_there_is_no_network_not_even_of_this_machine(run, family):
    # An abstract socket, which is no file.
    own = ("127.0.0.1", 0) if family == socket.AF_INET else "\0of-llmrecipes-tests"
    with socket.socket(family) as listener:
        listener.bind(own)
        listener.listen()
        listener.setblocking(False)
        program = f"import socket\nsocket.socket(socket.AddressFamily({int(family)})).connect({{!r}})"
        outcome = run(program.format(listener.getsockname()))
        assert outcome.verdict == "failed"
        assert outcome.reason.startswith(("OSError: [Errno 101]", "ConnectionRefusedError"))
        with pytest.raises(BlockingIOError):
            listener.accept()


def test_files_and_the_environment_are_out_of_sight(run, tmp_path, monkeypatch):
    (tmp_path / "secret").write_text("secret", encoding="utf-8")
    monkeypatch.setenv("SECRET", "secret")
    assert run(f"open({str(tmp_path / 'secret')!r})").reason.startswith("FileNotFoundError")
    program = (
        "import os\nprint(sorted(os.environ), os.listdir(), os.path.exists('/proc'), os.path.exists('/etc/passwd'))"
    )
    assert run(program).output == "['HOME', 'LC_ALL', 'PYTHONHASHSEED', 'TMPDIR'] [] False False\n"


@pytest.mark.parametrize("path", ["/file", "/usr/file", f"{sys.base_prefix}/file"])
def test_nothing_can_be_written_but_in_its_folder(run, path):
    assert run(f"open({path!r}, 'w')").reason.startswith("OSError: [Errno 30]")
    assert run("import tempfile\ntempfile.TemporaryFile().write(b'x')\nopen('file', 'w')").verdict == "passed"


def test_it_can_not_begin_again_with_namespaces_of_its_own(run):
    flags = [0x10000000, 0x10000000 | 0x20000, 0x20000, 0x40000000]
    program = f"import ctypes\nassert [ctypes.CDLL(None).unshare(each) for each in {flags}] == [-1] * 4"
    assert run(program).verdict == "passed"


def test_it_can_not_look_into_the_process_that_leads_it(run):
    program = "import ctypes, os\nassert os.getppid() == 1\nassert ctypes.CDLL(None).ptrace(16, 1, None, None) == -1"
    assert run(program).verdict == "passed"
    assert run("import os, signal\nos.kill(1, signal.SIGKILL)").verdict == "passed"


def test_sets_have_the_same_order_each_time(run):
    program = "print({str(each) for each in range(20)})"
    assert run(program).output == run(program).output


def test_what_the_kernel_refuses_is_said(monkeypatch):
    monkeypatch.setattr(sandbox, "_locked_in", lambda request: {"forbidden": "unshare: Operation not permitted"})
    with pytest.raises(StageError, match=r"refuses .* \(unshare: Operation not permitted\).*user\.max_user_namespaces"):
        sandbox.refuse_forbidden()
    with pytest.raises(StageError, match=REFUSAL):
        sandbox.run("pass")


def of_mapped_root(limit, program):
    """What `run` does where an ordinary user is root of a user namespace, which allows some others."""
    command = f'echo {limit} > /proc/sys/user/max_user_namespaces && exec "$0" -c "$1"'
    asking = f"from llmrecipe.engines.tasks.sandbox import run; print(run({program!r}))"
    return subprocess.run(
        ["unshare", "--user", "--map-root-user", "sh", "-c", command, sys.executable, asking],
        capture_output=True,
        text=True,
        check=False,
    )


def test_who_is_root_by_name_alone_runs_programs(run):
    assert "verdict='passed'" in of_mapped_root(1, "pass").stdout


def test_where_no_namespace_is_allowed_nothing_is_run(run):
    done = of_mapped_root(0, "pass")
    assert (done.returncode, done.stdout) == (1, "")
    assert f"{REFUSAL} (unshare: No space left on device)" in done.stderr


def test_a_python_that_needs_more_than_there_is_is_said(monkeypatch):
    monkeypatch.setattr(
        sandbox, "_locked_in", lambda request: {"ended": 127, "result": "", "output": "libpython3.so: not found\n"}
    )
    with pytest.raises(StageError, match=r"Python itself doesn't .* libpython3\.so: not found"):
        sandbox.refuse_forbidden()
