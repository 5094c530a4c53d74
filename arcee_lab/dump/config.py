"""What to dump. `arcee-lab dump` derives its flags from these fields, without loading torch."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from arcee_lab.errors import SettingError, WrongType
from arcee_lab.runs import bounds

NEURON_LAYOUTS = ("neuron", "both", "dense")
OTHER_LAYOUTS = ("dense", "int8")
STORED_DTYPES = ("bfloat16", "float16", "float32")


def _flag(default: Any, text: str, **more: Any) -> Any:
    """A field with its help text; `same_bytes` marks settings that do not change the files."""
    return field(default=default, metadata={"help": text} | more)


@dataclass(frozen=True, kw_only=True)
class DumpConfig:
    """What a dump stores, and how the text is read.

    The texts and these fields determine the batches, and so the bits of every matrix product.

    Attributes:
        sites: Hook points; names, globs and layer ranges as for `al.capture`.
        layout: Layout of neurons: `neuron`, `both` or `dense`; see
            `arcee_lab.dump.format.layouts`.
        others: Layout of every other site: `dense` or `int8`.
        store_dtype: dtype of stored values; by default the one in which the model computes them.
        batch_size: Windows, or packed rows, per forward.
        context: Longest window in tokens; by default 1024, or the model's context if shorter.
        overlap: Tokens of a long document that its next window reads again. They are stored once,
            from the window that reads them first.
        packed: Whether a row holds several windows, which do not attend to each other, instead of
            padding.
        shard_tokens: Most tokens per file, up to 65,536. One shard of all sites is held in memory
            while it is filled; an interrupted run computes that shard again.
        max_tokens: Most tokens to read; None reads all.
        seed: Random seed of texts that are drawn; it is recorded in the store.
        threads: Threads that convert and write.
        queue_mib: Most memory for activations that wait for these threads, in MiB.

    Raises:
        SettingError: A field out of its range.

    Example:
        >>> from arcee_lab.dump import DumpConfig
        >>> DumpConfig(sites=("layers.0:2.mlp.hook_post",), layout="both").batch_size
        8
    """

    sites: tuple[str, ...] = _flag(
        ("layers.*.mlp.hook_post",), "hook points: names, globs, layer ranges", metavar="SITE"
    )
    layout: str = _flag("neuron", "layout of neurons", choices=NEURON_LAYOUTS)
    others: str = _flag("dense", "layout of every other site", choices=OTHER_LAYOUTS)
    store_dtype: str | None = _flag(
        None, "dtype of stored values (default: as computed)", choices=STORED_DTYPES
    )
    batch_size: int = _flag(8, "windows per forward", most=bounds.ROWS)
    context: int | None = _flag(
        None,
        "longest window in tokens (default: 1024, or the model's context if shorter)",
        most=bounds.CONTEXT,
    )
    overlap: int = _flag(
        0, "tokens that a long document's next window reads again", most=bounds.CONTEXT
    )
    packed: bool = _flag(False, "put several windows into a row instead of padding")
    shard_tokens: int = _flag(16_384, "most tokens per file, up to 65536", most=65_536)
    max_tokens: int | None = _flag(None, "stop after this many tokens of text", most=bounds.ANY)
    seed: int = _flag(0, "random seed", most=bounds.SEED)
    threads: int = _flag(1, "threads that convert and write", same_bytes=True, most=bounds.THREADS)
    queue_mib: int = _flag(
        1024, "most MiB of activations that wait for them", same_bytes=True, most=bounds.MIB
    )

    def __post_init__(self) -> None:
        if not isinstance(self.sites, Iterable):
            raise WrongType(f"sites are {self.sites!r}; expected names of hook points.")
        if isinstance(self.sites, str):
            object.__setattr__(self, "sites", (self.sites,))
        object.__setattr__(self, "sites", tuple(self.sites))
        self._check_kinds()
        for name, known in (
            ("layout", NEURON_LAYOUTS),
            ("others", OTHER_LAYOUTS),
            ("store_dtype", (*STORED_DTYPES, None)),
        ):
            if (got := getattr(self, name)) not in known:
                expected = ", ".join(str(word) for word in known)
                raise SettingError(f"{name} is {got!r}; expected one of {expected}.")
        for one in fields(self):
            got, most = getattr(self, one.name), one.metadata.get("most")
            if got is None or most is None:
                continue
            least = 0 if one.default == 0 else 1
            if got < least:
                raise SettingError(f"{one.name} is {got}; expected at least {least}.")
            if got > most:
                raise SettingError(f"{one.name} is {got}; expected at most {most}.")
        if not self.sites:
            raise SettingError("sites is empty; expected names such as 'layers.*.mlp.hook_post'.")

    def settings(self) -> dict[str, Any]:
        """The fields that determine the bytes of a store, as JSON values."""
        fields = self.__dataclass_fields__
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
            if not fields[name].metadata.get("same_bytes")
        }

    def _check_kinds(self) -> None:
        """The settings of a repair come from a manifest, which is not trusted."""
        for one in fields(self):
            got = getattr(self, one.name)
            if "most" in one.metadata and type(got) is not int and not (got is one.default is None):
                raise WrongType(f"{one.name} is {got!r}; expected a whole number.")
        if type(self.packed) is not bool:
            raise WrongType(f"packed is {self.packed!r}; expected True or False.")
        if not all(isinstance(site, str) for site in self.sites):
            raise WrongType(f"sites are {self.sites!r}; expected names of hook points.")
