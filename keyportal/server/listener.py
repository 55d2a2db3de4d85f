"""The listening sockets at a stop: new connections are refused, and none that was made is lost."""

import ctypes
import mmap
import socket
import struct
import sys
from collections.abc import Iterable
from typing import Any

# Shared by the master and its workers, because it is made before the fork.
_flag = mmap.mmap(-1, 1)

# Python has no names for these: asm/socket.h, linux/in.h, linux/in6.h.
_SO_ATTACH_FILTER, _IP_MINTTL, _IPV6_MINHOPCOUNT = 26, 21, 73
# A filter in classic BPF: drop a packet whose TCP flags have SYN and not ACK, pass all others.
_FLAGS_OFFSET, _SYN, _SYN_AND_ACK = 13, 0x02, 0x12
_DROP_SYN = [
    (0x30, 0, 0, _FLAGS_OFFSET),  # Load the byte.
    (0x54, 0, 0, _SYN_AND_ACK),  # And.
    (0x15, 0, 1, _SYN),  # Skip the next instruction if it is not equal.
    (0x06, 0, 0, 0),  # Drop.
    (0x06, 0, 0, 0xFFFF_FFFF),  # Pass.
]


def mark_closing(master: Any) -> None:
    """Called in gunicorn's master when it stops: nobody will accept on its sockets any more.

    They live on if systemd or another master has them (after USR2). Workers that stop without this
    mark are replaced, and their successors accept on the same sockets.
    """
    if not master.systemd and master.reexec_pid == master.master_pid == 0:
        _flag[0] = 1


def is_closing() -> bool:
    return bool(_flag[0])


def stop_handshakes(sockets: Iterable[socket.socket]) -> None:
    """Let no new connection begin, while those that have begun can still be accepted.

    A socket that is closed resets the connections that the kernel has made and nobody has accepted
    yet, with the requests that they already carry. A client whose handshake is ignored repeats it
    after a second, is refused then, and knows that its request was not read.

    Elsewhere than on Linux, it does nothing.
    """
    if sys.platform != "linux":
        return
    program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *op) for op in _DROP_SYN))
    option = struct.pack("HP", len(_DROP_SYN), ctypes.addressof(program))
    for listening in sockets:
        try:
            listening.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, option)
        except PermissionError:
            _require_highest_ttl(listening)


def _require_highest_ttl(listening: socket.socket) -> None:
    """Drop packets whose time to live is below 255, which hardly any system sends.

    Some kernels let only root attach a filter. Unlike the filter, this also stops a connection
    whose handshake is half done at this moment.
    """
    listening.setsockopt(socket.IPPROTO_IP, _IP_MINTTL, 255)
    if listening.family == socket.AF_INET6:
        listening.setsockopt(socket.IPPROTO_IPV6, _IPV6_MINHOPCOUNT, 255)
