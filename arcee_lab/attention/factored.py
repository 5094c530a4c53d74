"""A large matrix as a product of two thin ones, of which the large one is never made."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from arcee_lab.errors import SettingError


@dataclass(frozen=True, repr=False)
class Factored:
    """`left @ right`, of rank r at most; its numbers come from r x r matrices.

    Attributes:
        left: Columns that it writes.
        right: Rows that it reads.
    """

    left: Float[Tensor, "n_out r"]
    right: Float[Tensor, "_ n_in"]

    def __post_init__(self) -> None:
        if self.left.shape[1] != self.right.shape[0]:
            raise SettingError(
                f"left is {list(self.left.shape)} and right {list(self.right.shape)}; expected as "
                "many columns as rows."
            )

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the product."""
        return self.left.shape[0], self.right.shape[1]

    @property
    def T(self) -> "Factored":
        """The transpose."""
        return Factored(self.right.T, self.left.T)

    def dense(self) -> Float[Tensor, "n_out n_in"]:
        """The product itself, for small ones."""
        return self.left @ self.right

    def __matmul__(self, other: "Factored | Tensor") -> "Factored | Tensor":
        """The product with another: a factored one of the smaller rank, or a tensor."""
        if isinstance(other, Tensor):
            return self.left @ (self.right @ other)
        if self.shape[1] != other.shape[0]:
            raise SettingError(f"{list(self.shape)} cannot be multiplied by {list(other.shape)}.")
        middle = self.right @ other.left
        if middle.shape[0] <= middle.shape[1]:
            return Factored(self.left, middle @ other.right)
        return Factored(self.left @ middle, other.right)

    def norm(self) -> Float[Tensor, ""]:
        """The Frobenius norm, from the two r x r products of each factor with itself."""
        inner, outer = self.left.T @ self.left, self.right @ self.right.T
        return (inner * outer).sum().clamp_min(0).sqrt()  # trace(inner @ outer), both symmetric

    def trace(self) -> Float[Tensor, ""]:
        """The sum of the diagonal.

        Raises:
            SettingError: The product is not square.
        """
        self._require_square("trace")
        return (self.left.T * self.right).sum()

    def eigenvalues(self) -> Tensor:
        """The r eigenvalues that may differ from 0, complex, largest in size first.

        They are those of `right @ left`; all others are 0.

        Raises:
            SettingError: The product is not square.
        """
        self._require_square("eigenvalues")
        found = torch.linalg.eigvals(self.right @ self.left)
        return found[found.abs().argsort(descending=True, stable=True)]

    def svd(
        self,
    ) -> tuple[Float[Tensor, "n_out r"], Float[Tensor, " r"], Float[Tensor, "r n_in"]]:
        """Singular vectors and values: `left @ right = u @ diag(s) @ vh`, largest first.

        Each factor is split into orthonormal columns and an r x r rest, and the two rests together
        have the singular values. Signs of vectors are chosen so that the largest entry of each row
        of `vh` is positive.
        """
        q_left, r_left = torch.linalg.qr(self.left)
        q_right, r_right = torch.linalg.qr(self.right.T)
        u, s, vh = torch.linalg.svd(r_left @ r_right.T, full_matrices=False)
        u, vh = q_left @ u, vh @ q_right.T
        largest = vh.abs().argmax(dim=1, keepdim=True)
        sign = torch.where(vh.gather(1, largest) < 0, -1.0, 1.0).to(vh)
        return u * sign.T, s, vh * sign

    def positive_share(self) -> float:
        """`sum(λ) / sum(|λ|)` over eigenvalues: 1 for a matrix that copies, -1 for one that flips.

        Raises:
            SettingError: The product is not square.
        """
        found = self.eigenvalues()
        return float(found.real.sum() / found.abs().sum())

    def __repr__(self) -> str:
        return f"Factored({self.shape[0]} x {self.shape[1]}, rank <= {self.left.shape[1]})"

    def _require_square(self, what: str) -> None:
        if self.shape[0] != self.shape[1]:
            raise SettingError(f"A {self.shape[0]} x {self.shape[1]} product has no {what}.")
