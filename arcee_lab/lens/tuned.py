"""A fitted lens, tuned or Jacobian: its maps, how far it is from the model, and its files."""

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import safetensors.torch
import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from arcee_lab.errors import FileError, OtherRun, SavedDamaged, SettingError
from arcee_lab.model.anatomy import anatomy_of
from arcee_lab.model.fingerprint import model_fingerprint
from arcee_lab.results import Result
from arcee_lab.runs.json_text import read_json, reason
from arcee_lab.runs.storage import make_folder, sha256, write_atomic, write_json
from arcee_lab.sites import site_label

if TYPE_CHECKING:
    from arcee_lab.views.figures.figure import Figure

FILE = "tuned_lens.json"
_WEIGHTS = re.compile(r"tuned_lens-[0-9a-f]{16}\.safetensors")
FORMAT, VERSION = "arcee_lab.tuned_lens", 1
TUNED, JACOBIAN = "tuned lens", "Jacobian lens"
# What fits each kind.
_CALLS = {TUNED: "al.lens.tune(...)", JACOBIAN: "al.lens.fit_jacobian(...)"}


@dataclass(frozen=True, repr=False, eq=False)
class TunedLens(Result):
    """One affine map per residual site, for one model.

    Attributes:
        kind: "tuned lens" or "Jacobian lens": how the maps were found.
        sites: Canonical names; the last site of the model needs no map.
        maps: Of each site the matrix A of `x + A x + b`.
        shifts: And b.
        fingerprint: Of the model.
        model: Its name.
        plain_kl: KL divergence of the plain lens from the model at each site, in nats per token, on
            held-out documents.
        tuned_kl: The same of this lens.
        tokens: Held-out tokens.
        settings: Of the fit.
    """

    kind: str
    sites: tuple[str, ...]
    maps: tuple[Float[Tensor, "d_model d_model"], ...]
    shifts: tuple[Float[Tensor, " d_model"], ...]
    fingerprint: str
    model: str
    plain_kl: tuple[float, ...]
    tuned_kl: tuple[float, ...]
    tokens: int
    settings: Mapping[str, Any]

    def translate(self, site: str, x: Float[Tensor, "*any d_model"]) -> Tensor:
        """What the lens makes of a stream before the final norm; itself where there is no map."""
        if site not in self.sites:
            return x
        number = self.sites.index(site)
        return translated(x, self.maps[number].to(x.device), self.shifts[number].to(x.device))

    def sites_of(self, model: nn.Module, names: Sequence[str]) -> list[str]:
        """The sites, after a check that this lens is of that model and has maps for them.

        Raises:
            OtherRun: The lens was fitted for another model.
            SettingError: It has no map for a site.
        """
        self.require(model)
        last = f"layers.{len(anatomy_of(model).backbone.layers) - 1}.hook_resid_post"
        lacking = [name for name in names if name not in (*self.sites, last)]
        if lacking:
            raise SettingError(
                f"The {self.kind} has no map for {lacking[0]}; expected some of "
                f"{', '.join(self.sites[:4])}, ..., {last}. Name these sites, or fit it there."
            )
        return list(names)

    def require(self, model: nn.Module) -> None:
        """Checks that the lens was fitted for this model.

        Raises:
            OtherRun: It was fitted for another, or for other weights.
        """
        if model_fingerprint(model) != self.fingerprint:
            raise OtherRun(
                f"The {self.kind} was fitted for the model {self.model!r} with other weights or "
                f"adapters; fit one for this model with {_CALLS[self.kind]}."
            )

    def frame(self) -> pd.DataFrame:
        """One row per site: KL divergence of both lenses in nats per token, and N."""
        return pd.DataFrame(
            {
                "site": list(self.sites),
                "plain_kl": list(self.plain_kl),
                "tuned_kl": list(self.tuned_kl),
                "n": self.tokens,
            }
        )

    def figure(self, *, dark: bool = False) -> "Figure":
        """KL divergence of both lenses by site.

        Args:
            dark: For a dark page.
        """
        from arcee_lab.views.figures.lens import lens_divergence

        plain, tuned = (f"{mean:.2f}" for mean in self._means)
        than = "as close to the model as"
        if tuned != plain:
            than = f"{'closer' if float(tuned) < float(plain) else 'no closer'} to the model than"
        return lens_divergence(
            {"logit lens": list(self.plain_kl), self.kind: list(self.tuned_kl)},
            [site_label(name) for name in self.sites],
            title=f"The {self.kind} is {than} the logit lens: KL {tuned} and {plain} nats, mean "
            f"over sites (N = {self.tokens:,} held-out tokens)",
            dark=dark,
        )

    @property
    def headline(self) -> str:
        """The mean divergence of both lenses over sites, with N."""
        plain, tuned = self._means
        return (
            f"{self.kind} of {self.model} at {len(self.sites)} sites: KL {tuned:.3f} nats per "
            f"token, plain lens {plain:.3f} (mean over sites, N = {self.tokens:,} held-out tokens)"
        )

    @property
    def _means(self) -> tuple[float, float]:
        """The mean divergence over sites, of the plain lens and of the tuned one."""
        n = len(self.sites)
        return sum(self.plain_kl) / n, sum(self.tuned_kl) / n

    def save(self, folder: str | Path) -> Path:
        """Writes the lens into a folder: `tuned_lens.json`, and the safetensors that it names.

        Raises:
            FileError: The folder is a file, holds other files, or cannot be written.
        """
        folder = Path(folder)
        if folder.exists() and not folder.is_dir():
            raise FileError(f"output folder {folder} is a file; choose another name.")
        there = [path.name for path in folder.iterdir()] if folder.exists() else []
        if not all(name == FILE or _WEIGHTS.fullmatch(name) for name in there):
            raise FileError(f"output folder {folder} holds other files; choose a new one.")
        tensors = {}
        for site, matrix, shift in zip(self.sites, self.maps, self.shifts, strict=True):
            tensors |= {f"{site}/map": matrix.contiguous(), f"{site}/shift": shift.contiguous()}
        content = safetensors.torch.save(tensors)
        digest = hashlib.sha256(content).hexdigest()
        make_folder(folder)
        # The JSON names its weights, so that a crash leaves the former pair or this one.
        weights = write_atomic(folder / f"tuned_lens-{digest[:16]}.safetensors", content)
        path = write_json(
            folder / FILE,
            {
                "format": FORMAT,
                "version": VERSION,
                "kind": self.kind,
                "model": {"fingerprint": self.fingerprint, "name": self.model},
                "d_model": len(self.shifts[0]),
                "sites": list(self.sites),
                "plain_kl": list(self.plain_kl),
                "tuned_kl": list(self.tuned_kl),
                "tokens": self.tokens,
                "settings": dict(self.settings),
                "weights": {"path": weights.name, "bytes": len(content), "sha256": digest},
            },
        )
        for other in folder.glob("tuned_lens-*.safetensors"):
            if other.name != weights.name:
                other.unlink()
        return path

    @classmethod
    def load(cls, folder: str | Path, model: nn.Module) -> "TunedLens":
        """Reads a lens and checks it: its files, its shapes, and that it is of this model.

        Args:
            folder: What `save` wrote.
            model: The model that it is for.

        Raises:
            SavedDamaged: The files are missing, damaged or changed.
            OtherRun: It was fitted for another model.
        """
        folder = Path(folder)
        where = folder / FILE
        if not where.is_file():
            raise SavedDamaged(f"{folder} holds no tuned lens: {FILE} is missing; check the path.")
        try:
            lens = _read(cls, folder, read_json(where), model)
        except OtherRun:
            raise
        except (ValueError, TypeError, KeyError, AttributeError, OSError, SafetensorError) as error:
            said = f"{type(error).__name__} {reason(error)}"
            raise SavedDamaged(f"{where} cannot be used: {said}; fit the lens anew.") from None
        lens.require(model)
        return lens


def translated(x: Tensor, matrix: Tensor, shift: Tensor) -> Tensor:
    """`x + A x + b` in fp32 at least, in the dtype of x."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    return (wide + wide @ matrix.to(wide.dtype).T + shift.to(wide.dtype)).to(x.dtype)


def _read(
    cls: type[TunedLens], folder: Path, described: Mapping[str, Any], model: nn.Module
) -> TunedLens:
    anatomy = anatomy_of(model)
    if described["format"] != FORMAT or described["version"] != VERSION:
        raise SavedDamaged(f"it is {described['format']!r} version {described['version']!r}")
    kind = described["kind"]
    if kind not in _CALLS:
        raise SavedDamaged(f"it is of the kind {kind!r}")
    sites, known = described["sites"], anatomy.legend.sites()
    if (
        not sites
        or not all(isinstance(site, str) for site in sites)
        or len(set(sites)) < len(sites)
    ):
        raise SavedDamaged("its sites are no list of names")
    fingerprint, name = described["model"]["fingerprint"], described["model"]["name"]
    if not isinstance(fingerprint, str) or not isinstance(name, str):
        raise SavedDamaged("its model has no fingerprint and name")
    width = anatomy.size("d_model")
    if described["d_model"] != width or not set(sites) <= set(known):
        raise OtherRun(
            f"The {kind} was fitted for the model {name!r} of another shape; fit one for this "
            f"model with {_CALLS[kind]}."
        )
    numbers = [described[what] for what in ("plain_kl", "tuned_kl")]
    for column in numbers:
        if len(column) != len(sites) or not all(math.isfinite(float(x)) for x in column):
            raise SavedDamaged("it has no divergence for each site")
    weights = described["weights"]
    if not _WEIGHTS.fullmatch(weights["path"]):
        raise SavedDamaged("its weights have another name")
    path = folder / weights["path"]
    if path.stat().st_size != weights["bytes"] or sha256(path) != weights["sha256"]:
        raise SavedDamaged(f"{path.name} was changed")
    with safe_open(path, framework="pt") as file:  # type: ignore[no-untyped-call]
        wanted = {f"{site}/map": [width, width] for site in sites}
        wanted |= {f"{site}/shift": [width] for site in sites}
        if set(file.keys()) != set(wanted):
            raise SavedDamaged(f"{path.name} holds other tensors")
        for key, shape in wanted.items():
            view = file.get_slice(key)
            if list(view.get_shape()) != shape or view.get_dtype() != "F32":
                raise SavedDamaged(f"{key} is not fp32 {shape}")
        tensors = {key: file.get_tensor(key) for key in wanted}
    if not all(bool(x.isfinite().all()) for x in tensors.values()):
        raise SavedDamaged(f"{path.name} holds numbers that are not finite")
    tokens, settings = described["tokens"], described["settings"]
    if not isinstance(tokens, int) or not isinstance(settings, dict):
        raise SavedDamaged("its tokens or settings are missing")
    return cls(
        kind=kind,
        sites=tuple(sites),
        maps=tuple(tensors[f"{site}/map"] for site in sites),
        shifts=tuple(tensors[f"{site}/shift"] for site in sites),
        fingerprint=fingerprint,
        model=name,
        plain_kl=tuple(float(x) for x in numbers[0]),
        tuned_kl=tuple(float(x) for x in numbers[1]),
        tokens=tokens,
        settings=settings,
    )
