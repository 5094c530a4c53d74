"""Neurons in the order of a number that each has."""

from jaxtyping import Float
from torch import Tensor

from arcee_lab.errors import SettingError
from arcee_lab.neurons.ablation.named import Neuron


def best(values: Float[Tensor, "layer d_mlp"], k: int) -> tuple[Neuron, ...]:
    """The k neurons with the largest values; of equal ones the lower layer, then the lower unit.

    Raises:
        SettingError: k is no whole number from 1 to the number of neurons.
    """
    if not is_whole(k) or not 1 <= k <= values.numel():
        raise SettingError(f"k is {k!r:.80}; expected 1 to {values.numel():,} neurons.")
    order = values.flatten().argsort(descending=True, stable=True)[:k].tolist()
    return tuple(Neuron(*divmod(place, values.shape[1])) for place in order)


def is_whole(value: object) -> bool:
    """Whether a value is a whole number; a bool is none here."""
    return isinstance(value, int) and not isinstance(value, bool)
