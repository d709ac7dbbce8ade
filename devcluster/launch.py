"""Become another program that dies with the program that started it.

Run as ``python -I -S launch.py PARENT_PID DEATH_SIGNAL USER PROGRAM ARGUMENTS...``;
``USER`` is ``-`` to stay who we are.
"""

import ctypes
import os
import pwd
import signal
import sys

PR_SET_PDEATHSIG = 1
PR_SET_KEEPCAPS = 8
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_RAISE = 2
CAP_DAC_OVERRIDE = 1
CAPABILITY_VERSION_3 = 0x20080522

_libc = ctypes.CDLL(None, use_errno=True)


class _CapabilityHeader(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _CapabilitySets(ctypes.Structure):
    _fields_ = (
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    )


def _checked(result: int, what: str) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")


def _prctl(option: int, *values: int) -> None:
    padded = [ctypes.c_ulong(value) for value in (*values, 0, 0, 0, 0)[:4]]
    _checked(_libc.prctl(option, *padded), f"prctl({option})")


def become(user: str) -> None:
    """Give up root for ``user``, keeping the one capability to reach files in folders that only root enters.

    PostgreSQL refuses to run as root, and the state folder is often below one like root's home that no one
    else may pass.
    """
    entry = pwd.getpwnam(user)
    _prctl(PR_SET_KEEPCAPS, 1)
    os.setgroups([])
    os.setresgid(entry.pw_gid, entry.pw_gid, entry.pw_gid)
    os.setresuid(entry.pw_uid, entry.pw_uid, entry.pw_uid)
    mask = 1 << CAP_DAC_OVERRIDE
    header = _CapabilityHeader(CAPABILITY_VERSION_3, 0)
    sets = (_CapabilitySets * 2)(_CapabilitySets(mask, mask, mask), _CapabilitySets(0, 0, 0))
    _checked(_libc.capset(ctypes.byref(header), ctypes.byref(sets)), "capset")
    _prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_DAC_OVERRIDE)


def main(arguments: list[str]) -> None:
    """Take the identity, tie our life to the parent's, and execute the program."""
    parent, death_signal, user, *program = arguments
    if user != "-":
        become(user)
    # After the change of identity: the kernel forgets the death signal when credentials change.
    _prctl(PR_SET_PDEATHSIG, int(death_signal))
    if os.getppid() != int(parent):
        # The parent died before the kernel knew that it matters to us.
        os.kill(os.getpid(), signal.SIGKILL)
    os.execvp(program[0], program)  # noqa: S606 - the point of this file


if __name__ == "__main__":
    main(sys.argv[1:])
