"""Reads the fields of JSON objects from outside one by one, with each fault as one clear error."""

from typing import Any

from arcee_lab.errors import StoreDamaged

MOST = 2**62  # the largest number that any field may be


class Fields:
    """An object of the manifest, read field by field; a field that was not read is an error."""

    def __init__(self, value: Any, where: str):
        if not isinstance(value, dict):
            raise StoreDamaged(f"{where} is {type(value).__name__}; expected an object.")
        self.value, self.where, self.read = value, where, set()

    def get(self, name: str, kind: type) -> Any:
        """A value of a kind."""
        self.read.add(name)
        got = self.value.get(name)
        if not isinstance(got, kind) or isinstance(got, bool):
            raise StoreDamaged(f"{self.where}: {name} is {short(got)}; expected {kind.__name__}.")
        return got

    def text(self, name: str) -> str:
        """A text."""
        return self.get(name, str)

    def list(self, name: str) -> list[Any]:
        """A list."""
        return self.get(name, list)

    def number(self, name: str, most: int = MOST) -> int:
        """A whole number from 0 to `most`."""
        got = self.get(name, int)
        if not 0 <= got <= most:
            raise StoreDamaged(f"{self.where}: {name} is {short(got)}; expected 0 to {most}.")
        return got

    def table(self, name: str, *texts: str) -> dict[str, Any]:
        """An object, in which the named fields are texts."""
        got = self.get(name, dict)
        for text in texts:
            Fields(got, f"{self.where}: {name}").text(text)
        return got

    def done(self) -> None:
        """Refuses fields that were not read."""
        if more := sorted(set(self.value) - self.read):
            raise StoreDamaged(f"{self.where} has unknown fields {short(more)}.")


def short(value: Any) -> str:
    """A value for an error, at most 80 characters."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
