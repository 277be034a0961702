"""What a process and its children make is never writable by everybody."""

import os
import stat


def keep_others_from_writing() -> None:
    """Add "not writable by others" to this process's umask, which its children inherit, Spark's Java among them.

    Call it as a process begins: what the libraries write obeys the umask and nothing else.
    """
    os.umask(os.umask(0) | stat.S_IWOTH)
