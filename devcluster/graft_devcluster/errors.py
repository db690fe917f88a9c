"""The one error a user sees: what is wrong and what to do about it."""


class ClusterError(Exception):
    """Something the user must act on. The message names the cause and the remedy; no traceback is shown for it."""
