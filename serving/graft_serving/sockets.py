"""Connections that are silent for long, and must not outlive their other side."""

import socket
from typing import Any


def kept_alive(address: tuple[Any, ...]) -> socket.socket:
    """
    Return aiohttp's socket for an address, with keep-alive: a side that vanished without a word is found after about 11 s.

    For long polls and watches, which say nothing for 20 s or a minute.
    """
    made = socket.socket(address[0], address[1], address[2])
    made.setblocking(False)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in ((socket.TCP_KEEPIDLE, 5), (socket.TCP_KEEPINTVL, 2), (socket.TCP_KEEPCNT, 3)):
        made.setsockopt(socket.IPPROTO_TCP, option, value)
    return made
