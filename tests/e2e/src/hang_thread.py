"""Stops one thread of a process until standard input ends: hang_thread.py TID

Prints "hangs" when it does. SIGSTOP would stop the whole process.
"""

import ctypes
import os
import sys

PTRACE_DETACH, PTRACE_SEIZE, PTRACE_INTERRUPT = 17, 0x4206, 0x4207
WALL = 0x40000000

libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]


def ptrace(request, thread):
    if libc.ptrace(request, thread, None, None) != 0:
        code = ctypes.get_errno()
        sys.exit(f"ptrace({request:#x}): {os.strerror(code)}")


thread = int(sys.argv[1])
ptrace(PTRACE_SEIZE, thread)
ptrace(PTRACE_INTERRUPT, thread)
os.waitpid(thread, WALL)
print("hangs", flush=True)
sys.stdin.read()
ptrace(PTRACE_DETACH, thread)
