"""Runs one program of the stack: ``python -m local.child [--user NAME] -- COMMAND ...``.

The program dies with its parent, so that a stack that is killed leaves nothing behind. With --user it runs as
that user, for which this must be started by root.
"""

import argparse
import ctypes
import os
import pwd
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--user")
    parser.add_argument("command", nargs="+")
    options = parser.parse_args()
    parent = os.getppid()
    if options.user:
        account = pwd.getpwnam(options.user)
        os.chdir("/")  # the user may have no right to this folder
        os.setgroups([])
        os.setgid(account.pw_gid)
        os.setuid(account.pw_uid)
    if sys.platform == "linux":  # after the change of user, which would undo it
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(1)
    os.execvp(options.command[0], options.command)


if __name__ == "__main__":
    main()
