"""The error class for everything a user can mend: a file, a folder or an option; and for a folder of results."""

from __future__ import annotations


class PhanesInputError(ValueError):
    """A mistake in the input, said in one sentence: which file or option, what is wrong, what to do about it.

    The command line prints the sentence without a traceback; code that uses the package can catch the class.
    """


class PhanesOutputError(PhanesInputError):
    """Results cannot be written (disk full, folder read-only, ...): no further case can succeed, so the run ends.

    Cases that are finished stay; the same command takes up the rest.
    """
