"""What a value from the command line means."""

from __future__ import annotations

from .errors import PhanesInputError


def as_bool(name: str, value: object) -> bool:
    """The value of a yes-or-no option. `--name true` and `--name false` arrive as words; Python takes both for true.

    Raises:
        PhanesInputError: it is neither.
    """
    words = {"true": True, "false": False, "1": True, "0": False, "yes": True, "no": False}
    wanted = words.get(str(value).lower())
    if wanted is None:
        raise PhanesInputError(f"{name} is {value!r}: give true or false.")
    return wanted


def switches(**options: object) -> dict[str, bool]:
    """All yes-or-no options of a config by name, see `as_bool`. Only here words become truth values."""
    return {name: as_bool(name, value) for name, value in options.items()}
