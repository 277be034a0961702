"""Files that this process and its children create are never writable by others."""

import os
import stat


def keep_others_from_writing() -> None:
    """Add "not writable by others" to this process's umask. Its children inherit it, Spark's Java among them.

    Call it at the start of a process: what the libraries write obeys the umask and nothing else.
    """
    os.umask(os.umask(0) | stat.S_IWOTH)
