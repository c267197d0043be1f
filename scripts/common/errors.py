"""Errors that a user can mend: a file, a folder, an option, or a folder of results that cannot be written."""

from __future__ import annotations


class PhanesInputError(ValueError):
    """A mistake in the input, in one sentence: which file or option, what is wrong, what to do.

    The command line prints the sentence without a traceback. Code that uses the package can catch the class.
    """


class PhanesOutputError(PhanesInputError):
    """Results cannot be written: the disk is full, the folder is read-only, or alike. The run ends.

    Finished cases stay. The same command goes on with the rest.
    """
