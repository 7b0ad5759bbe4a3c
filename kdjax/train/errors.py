"""The errors that a user can mend by changing a config, a flag or a folder."""

import errno
import os


class RecipeError(ValueError):
    """Something in a recipe does not fit; the message is one line that says what to change."""


class CheckpointError(RecipeError):
    """Checkpoints are there, but none can be read, or none can be written; names the folder."""


STORAGE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)
"""Numbers of errors that are the disk's, not the program's."""


def why_not_written(error: BaseException) -> str:
    """The system's own words, such as `No space left on device`, where an error holds them.

    Example:
      >>> why_not_written(ValueError('UNKNOWN: write failed [errno: No space left on device]'))
      'No space left on device'
    """
    text = str(error)
    for number in STORAGE:
        if os.strerror(number) in text:
            return os.strerror(number)
    return one_line(error, 150)


def one_line(error: BaseException, limit: int = 400) -> str:
    """An error's message without line breaks, cut off where it gets too long."""
    # A KeyError shows its message in quotes.
    text = error.args[0] if isinstance(error, KeyError) and error.args else error
    text = " ".join(str(text).split()) or type(error).__name__
    return text if len(text) <= limit else f"{text[:limit]} …"
