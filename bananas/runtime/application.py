"""Finds the user's application by `module:attribute`, in a child, after the fork."""

from __future__ import annotations

import importlib
import os
import sys
from typing import TYPE_CHECKING

from bananas.errors import UsageError

if TYPE_CHECKING:
    from bananas.app import Bananas


class ApplicationError(UsageError):
    """`module:attribute` does not lead to an application."""

    def __init__(self, target: str, why: str) -> None:
        """Keep the target and the reason."""
        self.target = target
        self.why = why
        super().__init__(f'application "{target}": {why}')


def load(target: str) -> Bananas:
    """Import an application; the working directory is on the path.

    Args:
        target: `module:attribute`, or `module` for its attribute `app`.

    Raises:
        ApplicationError: No such module or attribute, or it is not an application.
    """
    from bananas.app import Bananas  # noqa: PLC0415 - the class is not needed to name a target

    module_name, _, attribute = target.partition(":")
    attribute = attribute or "app"
    here = os.getcwd()  # noqa: PTH109 - a string, for sys.path
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and (module_name == error.name or module_name.startswith(f"{error.name}.")):
            raise ApplicationError(
                target, f'no module "{error.name}" here or on the path'
            ) from None
        raise
    except ValueError:
        raise ApplicationError(target, "must be written module:attribute") from None
    found: object = module
    for name in attribute.split("."):
        try:
            found = getattr(found, name)
        except AttributeError:
            raise ApplicationError(target, f'module "{module_name}" has no "{attribute}"') from None
    if not isinstance(found, Bananas):
        raise ApplicationError(target, f"is a {type(found).__name__}, not a Bananas application")
    return found
