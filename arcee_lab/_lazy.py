"""Public names that load their module at first use, so that `import arcee_lab` stays light."""

from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from typing import Any


def lazy_exports(
    package: str, homes: Mapping[str, Iterable[str]], *, packages: Iterable[str] = ()
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """The `__getattr__` and `__dir__` of a package whose public names live in its modules.

    The package lists the same names in `__all__` and, for type checkers and editors, in a block
    under `TYPE_CHECKING`; tests compare the three.

    Args:
        package: Its dotted name, `__name__`.
        homes: Module, as a dotted name inside the package -> the public names that live in it.
        packages: Public sub-packages.

    Example:
        >>> load, names = lazy_exports("arcee_lab.patching", {"metrics": ["LogitDifference"]})
        >>> names()
        ['LogitDifference']
    """
    home_of = {name: f"{package}.{home}" for home, names in homes.items() for name in names}
    inner = tuple(packages)

    def load(name: str) -> Any:
        if name in home_of:
            return getattr(import_module(home_of[name]), name)
        if name in inner:
            return import_module(f"{package}.{name}")
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    def names() -> list[str]:
        return sorted([*home_of, *inner])

    return load, names
