"""The one error class for everything a user can mend: a file, a folder or an option."""

from __future__ import annotations


class PhanesInputError(ValueError):
    """A mistake in the input, said in one sentence: which file or option, what is wrong, what to do about it.

    The command line prints the sentence without a traceback; code that uses the package can catch the class.
    """
