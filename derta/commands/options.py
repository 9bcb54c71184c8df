"""Options of a command that takes any name: words of the command line → names with values."""

from typing import Any


def options(words: list[str]) -> dict[str, Any]:
    """Parse options: ``--name value``, ``--name=value``, ``--name value value`` (a list) or ``--name`` (true).

    Raises:
        ValueError: a word belongs to no option.
    """
    given: dict[str, list[str]] = {}
    for word in words:
        if word.startswith("--"):
            name, equals, value = word.removeprefix("--").partition("=")
            values = given[name.replace("-", "_")] = [value] if equals else []
        elif given:
            values.append(word)
        else:
            raise ValueError(f"{word} belongs to no option")
    return {name: values[0] if len(values) == 1 else values or True for name, values in given.items()}
