"""A direction at a site of one model, as a value: applied, saved, loaded."""

import json
import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors.torch
import torch
from jaxtyping import Float
from torch import Tensor, nn

from arcee_lab.errors import FileError, ModelError, SettingError
from arcee_lab.interventions.ablate import Patch
from arcee_lab.interventions.arithmetic import Add, ProjectOut
from arcee_lab.model.fingerprint import model_fingerprint, model_name
from arcee_lab.results import Result, counted
from arcee_lab.runs.storage import as_json, write_atomic

if TYPE_CHECKING:
    import pandas as pd

FORMAT, VERSION = "arcee_lab.direction", 1
SAVED_WORDS = ("site", "method", "concept", "model", "split")
SAVED_COUNTS = ("n", "documents")
_ORTHONORMAL = 1e-4  # fp32 rows from any of the methods are closer to it than this


@dataclass(frozen=True)
class Check:
    """A number measured on documents that nothing was fitted on, with its 95 % interval.

    Attributes:
        name: What was measured, e.g. "AUROC" or "AUROC, shuffled labels".
        value: The number.
        low: Lower end of the interval.
        high: Upper end.
        n: Tokens, or pairs, that it was measured on.
        documents: Documents that they come from; the interval resamples these.
    """

    name: str
    value: float
    low: float
    high: float
    n: int
    documents: int


@dataclass(frozen=True, repr=False, eq=False)
class Direction(Result):
    """One direction, or a subspace, of the activations at a site.

    Made by the functions of `al.directions`; the constructor checks everything again.

    Attributes:
        site: Canonical name of the hook point.
        vectors: fp32 on the CPU, rows of length 1 at right angles to each other.
        scale: What strength 1 adds along each row, in the unit of the site: the distance between
            the means of the two classes, unless the method says otherwise.
        threshold: Of `x · axis`; above it the method says that the concept is there. None if the
            method gives no threshold.
        method: How it was found, e.g. "mean difference".
        concept: What it stands for.
        model: Name of the model.
        fingerprint: Of the model.
        n: Tokens, or pairs, that it was fitted on.
        documents: Documents that they come from.
        split: How documents were divided, in words.
        checks: Measurements on documents that it was not fitted on, and their controls.

    Raises:
        SettingError: Vectors that are not finite, not orthonormal or of another shape.
    """

    site: str
    vectors: Float[Tensor, "..."]
    scale: Float[Tensor, "..."]
    threshold: float | None
    method: str
    concept: str
    model: str
    fingerprint: str
    n: int
    documents: int
    split: str
    checks: tuple[Check, ...] = ()

    def __post_init__(self) -> None:
        vectors, scale = self.vectors, self.scale
        shapes = f"vectors {list(vectors.shape)} and scale {list(scale.shape)}"
        if vectors.ndim != 2 or not 0 < len(vectors) <= vectors.shape[1]:
            raise SettingError(f"A direction has vectors [k, d] and a scale [k]; got {shapes}.")
        if scale.shape != vectors.shape[:1]:
            raise SettingError(f"A direction has vectors [k, d] and a scale [k]; got {shapes}.")
        if (vectors.dtype, scale.dtype) != (torch.float32, torch.float32):
            raise SettingError(
                f"A direction is float32; got {vectors.dtype} vectors and a {scale.dtype} scale."
            )
        if not (bool(vectors.isfinite().all()) and bool(scale.isfinite().all())):
            raise SettingError("A direction holds finite numbers; got NaN or infinite ones.")
        off = (vectors @ vectors.T - torch.eye(len(vectors))).abs().max()
        if float(off) > _ORTHONORMAL:
            raise SettingError(
                "The vectors of a direction have length 1 and are at right angles to each other; "
                f"got products that are off by {float(off):.3g}, so divide them by their lengths."
            )
        if self.threshold is not None and not math.isfinite(self.threshold):
            raise SettingError(f"threshold must be finite or None; got {self.threshold}.")
        object.__setattr__(self, "vectors", vectors.detach().contiguous())
        object.__setattr__(self, "scale", scale.detach().contiguous())

    # ------------------------------------------------------------------ what it is

    @property
    def rank(self) -> int:
        """Dimensions of the subspace; 1 for a single direction."""
        return len(self.vectors)

    @property
    def width(self) -> int:
        """Length of the site's last axis."""
        return self.vectors.shape[1]

    @property
    def layer(self) -> int | None:
        """The layer of the site; None for the embeddings and the final norm."""
        parts = self.site.split(".")
        return int(parts[1]) if parts[0] == "layers" else None

    @property
    def step(self) -> Float[Tensor, " d"]:
        """What strength 1 adds: `scale @ vectors`."""
        return self.scale @ self.vectors

    @property
    def axis(self) -> Float[Tensor, " d"]:
        """The vector of length 1 that scores are taken along: that of `step`.

        Raises:
            SettingError: A subspace whose step is zero has no such vector.
        """
        if self.rank == 1:
            return self.vectors[0]
        length = self.scale.norm()
        if not float(length):
            raise SettingError(
                f"This subspace of rank {self.rank} has no preferred direction, because its step "
                "is zero; use its vectors."
            )
        return self.step / length

    def score(self, x: Float[Tensor, "*any d"]) -> Float[Tensor, "*any"]:
        """`x · axis - threshold` in fp32 or wider; above 0 the concept is said to be there.

        Args:
            x: Activations of the site.
        """
        dtype = torch.promote_types(x.dtype, torch.float32)
        found = x.to(dtype) @ self.axis.to(x.device, dtype)
        return found - (self.threshold or 0.0)

    def require(self, model: nn.Module) -> None:
        """Checks that it was found in this very model.

        The fingerprint reads every weight, which takes a few milliseconds per gigabyte on a GPU and
        some seconds per gigabyte on a CPU.

        Raises:
            ModelError: It was found in another model, or in the same before its weights changed.
        """
        found = model_fingerprint(model)
        if found != self.fingerprint:
            raise ModelError(
                f"This direction of {self.concept!r} was found in {self.model} (fingerprint "
                f"{self.fingerprint[:12]}), and this is {model_name(model)} ({found[:12]}); find "
                "it anew in this model."
            )

    # ------------------------------------------------------------------ what it does

    def add(self, strength: float = 1.0, **where: Any) -> Add:
        """Steers along it: an `al.Add` of `strength * step`.

        The model is not asked for its fingerprint, so a direction may be tried on a fine-tuned
        copy; `require` asks.

        Args:
            strength: 1 is the distance between the means of the classes; negative values steer away
                from the concept.
            where: As for every intervention: `positions`, `tokens`, `mask` ...

        Raises:
            SettingError: Its step is zero, or the strength is not finite.
        """
        if not bool(self.step.any()):
            raise SettingError(
                f"The direction of {self.concept!r} has a step of length 0, so no strength changes "
                "anything; use al.Add(direction.site, vector, alpha) with a length of your own."
            )
        return Add(self.site, self.step, strength, **where)

    def project_out(self, **where: Any) -> ProjectOut:
        """Takes it out of the activations: an `al.ProjectOut` of its vectors.

        Args:
            where: As for every intervention.
        """
        return ProjectOut(self.site, self.vectors, **where)

    def patch(self, source: Any, **where: Any) -> Patch:
        """Replaces the part along it by that of another run: an `al.Patch` within its vectors.

        Args:
            source: As for `al.Patch`: a capture, or a tensor.
            where: As for every intervention.
        """
        return Patch(self.site, source, within=self.vectors, **where)

    def save(self, path: str | Path) -> Path:
        """Writes it as one safetensors file, with everything else as JSON in its header.

        Args:
            path: A name that ends in `.safetensors`.

        Raises:
            FileError: It cannot be written there.
        """
        path = Path(path)
        if path.suffix != ".safetensors":
            raise FileError(f"{path} does not end in .safetensors; give a name that does.")
        described = {
            "format": FORMAT,
            "version": VERSION,
            "threshold": self.threshold,
            "fingerprint": self.fingerprint,
            "checks": [as_json(asdict(check)) for check in self.checks],
            **{name: getattr(self, name) for name in SAVED_WORDS + SAVED_COUNTS},
        }
        text = json.dumps(described, ensure_ascii=False, allow_nan=False)
        tensors = {"vectors": self.vectors, "scale": self.scale}
        return write_atomic(path, safetensors.torch.save(tensors, metadata={FORMAT: text}))

    # ------------------------------------------------------------------ what it says

    @property
    def headline(self) -> str:
        """What was found where, and how well it does on other documents."""
        found = f"{self.method} of {self.concept!r} at {self.site} of {self.model}"
        rank = "" if self.rank == 1 else f", rank {self.rank}"
        fitted = f"fitted on {self.n:,} examples of {counted(self.documents, 'document')}"
        checks = "; ".join(
            f"{c.name} {c.value:.3f} ({c.low:.3f} to {c.high:.3f}, n = {c.n:,})"
            for c in self.checks
        )
        return f"{found}{rank}, {fitted if self.n else 'read from the weights'}: " + (
            checks or "not tried on other documents"
        )

    def frame(self) -> "pd.DataFrame":
        """One row per check: what, value, low, high, n, documents."""
        import pandas as pd

        names = [field.name for field in fields(Check)]
        return pd.DataFrame(
            [[getattr(check, name) for name in names] for check in self.checks], columns=names
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Direction):
            return NotImplemented
        return self._parts() == other._parts()

    def __hash__(self) -> int:
        return hash(self._parts())

    def _parts(self) -> tuple[Any, ...]:
        tensors = ("vectors", "scale")
        values = [getattr(self, f.name) for f in fields(self) if f.name not in tensors]
        numbers = [getattr(self, name).numpy().tobytes() for name in tensors]
        return (repr(values), *numbers, tuple(self.vectors.shape))
