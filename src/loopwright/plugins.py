"""Parts that other packages bring, found by entry points.

Each table of this package (targets, back ends, templates, devices, drivers) has rows of its own and
a group of entry points for rows from outside, each named for the kind of target it is for. They are
looked up when a kind is asked for that the table does not have, never by importing.
"""

from __future__ import annotations

import functools

from loopwright.errors import EnvironmentFailure


@functools.cache
def plugin(group: str, name: str) -> object | None:
    """What the entry point `name` of `group` refers to; None if no package brings one.

    Raises: EnvironmentFailure if a package does, and it cannot be imported.
    """
    from importlib import metadata  # takes long to import, and is hardly ever needed

    for point in metadata.entry_points(group=group, name=name):
        try:
            return point.load()  # type: ignore[no-any-return]  # whatever the package brings
        except (ImportError, AttributeError) as error:
            raise EnvironmentFailure(
                f"entry point {point.value!r} ({group}: {name}) cannot be loaded: {error}; "
                "mend or uninstall the package that brings it"
            ) from error
    return None


def plugin_names(group: str) -> tuple[str, ...]:
    """The names of the entry points of `group`, sorted."""
    from importlib import metadata

    return tuple(sorted({point.name for point in metadata.entry_points(group=group)}))
