"""The process that locks a program in, and waits for it: the half of `sandbox` that it starts as a script.

It knows Python's standard library alone, since it is started without any other. A request comes from standard input,
what became of it goes to standard output, both as JSON.

The kernel's namespaces lock in: a user namespace, which lets an ordinary user have the others; one of the network,
which has not even a loopback; one of processes, all of which end with the first; one of mounts, in which nothing is
but Python, the system's libraries and an empty folder in memory.
"""

import ctypes
import json
import os
import resource
import select
import signal
import sys
from typing import Any

_FOLDER = "/sandbox"

_NOBODY = 65534

_SEEN = ("/usr", "/bin", "/lib", "/lib64", "/etc/ld.so.cache", "/dev/null", "/dev/zero", "/dev/urandom")
"""What a program sees beside Python, if it is there."""

_OVER = "/proc"
"""Over which all that is mounted: no Python is below it, and a program has no use for it."""

_ROOT = "root"
"""What a program has for the root, below."""

# What sched.h, linux/mount.h and linux/prctl.h call them.
_NEWNS, _NEWIPC, _NEWUSER, _NEWPID, _NEWNET = 0x20000, 0x8000000, 0x10000000, 0x20000000, 0x40000000
_NOSUID, _NODEV, _BIND, _REC, _PRIVATE, _DETACH = 2, 4, 4096, 16384, 1 << 18, 2
_AT_RECURSIVE, _AT_FDCWD, _ATTR_RDONLY, _ATTR_NOSUID = 0x8000, -100, 1, 2
# A number, since the C library has it only from glibc 2.36.
_MOUNT_SETATTR = 442
_PDEATHSIG, _DUMPABLE, _NO_NEW_PRIVS = 1, 4, 38

_HARNESS = """
import os, sys, traceback, types


def main(read=os.read, write=os.write, leave=os._exit, who=os.getpid, lines=traceback.format_exception_only):
    started = who()
    program, token, result = map(int, sys.argv[1:])
    with open(program, "rb") as file:
        source = file.read()
    del sys.argv[1:]
    module = sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        exec(compile(source, "program", "exec"), module.__dict__)
        line = read(token, 64) if who() == started else b""
    except BaseException as error:
        line = lines(error)[-1].strip().encode("utf-8", "backslashreplace")
    if who() == started:
        write(result, line)
    leave(0)


main()
"""
"""It reads the token only once the program is over, and leaves before what that may have asked to be run at its end.
Where a program forks, the process that was started says how it ended: who writes first would be left to chance."""

_SHOWN = 4096
"""Bytes of what a program says that are handed on."""

_libc = ctypes.CDLL(None, use_errno=True)


def _call(name: str, *arguments: Any) -> None:
    """A function of the C library.

    Raises:
        OSError: the kernel refuses, with the function as the name of its file.
    """
    # An int is no long, which is what most of these take.
    given = [ctypes.c_long(each) if isinstance(each, int) else each for each in arguments]
    if getattr(_libc, name)(*given) < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error), name)


def _separate() -> None:
    """Leave the namespaces of this machine; children are in one of processes of their own."""
    me, users, groups = os.getpid(), f"{_NOBODY} {os.geteuid()} 1", f"{_NOBODY} {os.getegid()} 1"
    with open("/proc/self/uid_map") as file:
        is_machine = file.read().split() == ["0", "0", str((1 << 32) - 1)]
    if is_machine and os.geteuid() == 0:
        # No limit of processes holds the machine's root, whatever it is called inside: it becomes another user there.
        _call("setgroups", 0, None)
        users = groups = f"0 0 1\n{_NOBODY} {_NOBODY} 1"
    wait, go = os.pipe()
    # Only a process outside may say which users there are inside.
    outside = os.fork()
    if outside == 0:
        os.close(go)
        os.read(wait, 1)
        os._exit(_name_users(me, users, groups))
    try:
        _call("unshare", _NEWUSER | _NEWNS | _NEWPID | _NEWNET | _NEWIPC)
    finally:
        os.close(go)
        _, status = os.waitpid(outside, 0)
    error = os.waitstatus_to_exitcode(status)
    if error:
        raise OSError(error, os.strerror(error), "uid_map")


def _name_users(process: int, users: str, groups: str) -> int:
    try:
        for name, content in (("setgroups", "deny"), ("uid_map", users), ("gid_map", groups)):
            with open(f"/proc/{process}/{name}", "w") as file:
                file.write(content)
    except OSError as error:
        return error.errno or 1
    return 0


def _enter(size: int) -> None:
    """Leave all files for those that a program may see, and a folder in memory of `size` bytes."""
    os.umask(0o022)
    _call("mount", None, b"/", None, _REC | _PRIVATE, None)
    _call("mount", b"tmpfs", _OVER.encode(), b"tmpfs", _NOSUID | _NODEV, b"size=1m,mode=755")
    os.chdir(_OVER)
    for path in (*_SEEN, sys.base_prefix):
        inside = _ROOT + path
        # Debian's /lib is a link into /usr, and Python may be below it.
        if os.path.lexists(path) and not os.path.lexists(inside):
            os.makedirs(os.path.dirname(inside), exist_ok=True)
            _show(path, inside)
    os.mkdir(_ROOT + _FOLDER)
    attributes = (ctypes.c_uint64 * 4)(_ATTR_RDONLY | _ATTR_NOSUID)
    _call("syscall", _MOUNT_SETATTR, _AT_FDCWD, b".", _AT_RECURSIVE, attributes, ctypes.sizeof(attributes))
    options = f"size={size},nr_inodes=4096,mode=700,uid={_NOBODY},gid={_NOBODY}"
    _call("mount", b"tmpfs", (_ROOT + _FOLDER).encode(), b"tmpfs", _NOSUID | _NODEV, options.encode())
    _call("pivot_root", b".", b".")
    _call("umount2", b".", _DETACH)
    # Who is in a folder that isn't the root of all mounts can make no user namespace, in which all could begin again.
    os.chroot(_ROOT)
    os.chdir(_FOLDER)


def _show(path: str, inside: str) -> None:
    if os.path.islink(path) and path in _SEEN:
        os.symlink(os.readlink(path), inside)
        return
    if os.path.isdir(path):
        os.mkdir(inside)
    else:
        os.close(os.open(inside, os.O_CREAT))
    _call("mount", path.encode(), inside.encode(), None, _BIND | _REC, None)


def _lead(request: dict[str, Any], files: list[int], report: int) -> None:
    """Be the first process inside: start the program, say how it ended, and end all others."""
    os.setresgid(_NOBODY, _NOBODY, _NOBODY)
    os.setresuid(_NOBODY, _NOBODY, _NOBODY)
    _call("prctl", _PDEATHSIG, signal.SIGKILL.value, 0, 0, 0)
    # The program is the same user, and may not look into this process.
    _call("prctl", _DUMPABLE, 0, 0, 0, 0)
    child = os.fork()
    if child == 0:
        _become(request, files)
    ended, status = os.wait()
    while ended != child:
        ended, status = os.wait()
    _tell(report, {"ended": os.waitstatus_to_exitcode(status)})


def _become(request: dict[str, Any], files: list[int]) -> None:
    output, *others = files
    empty = os.open("/dev/null", os.O_RDONLY)
    for own, descriptor in enumerate((empty, output, output)):
        os.dup2(descriptor, own)
    for descriptor in others:
        os.set_inheritable(descriptor, True)
    limits = {
        resource.RLIMIT_AS: request["memory"],
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_FSIZE: request["written"],
        # With the first process, which is of the same user.
        resource.RLIMIT_NPROC: request["processes"] + 1,
    }
    for each, most in limits.items():
        resource.setrlimit(each, (most, most))
    resource.setrlimit(resource.RLIMIT_CPU, (request["seconds"], request["seconds"] + 1))
    _call("prctl", _NO_NEW_PRIVS, 1, 0, 0, 0)
    # No `-I`, which ignores the seed of hashes: nothing else is in this environment.
    command = [sys.executable, "-s", "-S", "-P", "-u", "-c", _HARNESS, *map(str, others)]
    environment = {"HOME": _FOLDER, "LC_ALL": "C.UTF-8", "PYTHONHASHSEED": "0", "TMPDIR": _FOLDER}
    os.execve(sys.executable, command, environment)


def _file(content: str = "") -> int:
    """A file in memory."""
    descriptor = os.memfd_create("file")
    os.write(descriptor, content.encode("utf-8", "surrogatepass"))
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def _read(descriptor: int) -> str:
    return os.pread(descriptor, _SHOWN, 0).decode("utf-8", "replace")


def _run(request: dict[str, Any]) -> dict[str, Any]:
    """Run a program, and end all that it has started.

    Raises:
        OSError: the kernel refuses to lock it in.
    """
    files = [_file(), _file(request["program"]), _file(request["token"]), _file()]
    _separate()
    _call("prctl", _PDEATHSIG, signal.SIGKILL.value, 0, 0, 0)
    _enter(request["written"])
    told, report = os.pipe()
    first = os.fork()
    if first == 0:
        os.close(told)
        try:
            _lead(request, files, report)
        except OSError as error:
            _tell(report, _refused(error))
        os._exit(0)
    os.close(report)
    in_time, _, _ = select.select([told], [], [], request["patience"])
    # Its end is the end of all others, for which the kernel waits.
    os.kill(first, signal.SIGKILL)
    os.waitpid(first, 0)
    # The first word counts: a program that can't be started says why, and then ends. Who was killed says nothing.
    line = os.read(told, _SHOWN).partition(b"\n")[0] if in_time else b'{"ended": null}'
    found = json.loads(line) if line else {"ended": -signal.SIGKILL}
    return {"output": _read(files[0]), "result": _read(files[3])} | found


def _tell(report: int, found: dict[str, Any]) -> None:
    os.write(report, json.dumps(found).encode() + b"\n")


def _refused(error: OSError) -> dict[str, str]:
    return {"forbidden": f"{error.filename}: {error.strerror}"}


if __name__ == "__main__":
    try:
        done = _run(json.load(sys.stdin))
    except OSError as refusal:
        done = _refused(refusal)
    json.dump(done, sys.stdout)
