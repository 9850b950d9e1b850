"""What a runner and its worker say to each other: frames of a length, a kind and a body."""

from __future__ import annotations

import enum
import struct

__all__ = ["HEADER", "Kind"]

HEADER = struct.Struct("!QB")


class Kind(enum.IntEnum):
    """What a frame is.

    Attributes:
        SETUP: To the worker, once: how to become ready.
        CALL: To the worker: what the next frame is, and how to treat it.
        LOAD: To the worker: a function and its arguments.
        READY: From the worker, once: it takes calls.
        STARTED: From the worker: it has loaded the function and calls it now.
        BEAT: From the worker: the function is alive.
        RETURNED: From the worker: what the function returned.
        RAISED: From the worker: what the function, or the way to it, raised.
    """

    SETUP = 0
    CALL = 1
    LOAD = 2
    READY = 3
    STARTED = 4
    BEAT = 5
    RETURNED = 6
    RAISED = 7
