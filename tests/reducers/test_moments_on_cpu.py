"""Moments on a CPU against NumPy's two passes in fp64, where means are large or values are none."""

import numpy as np
import pytest
import torch

from arcee_lab.reducers import Moments


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("mean", [0.0, 1000.0])
def test_a_large_mean_does_not_cancel(dtype, mean):
    draw = torch.Generator().manual_seed(1)
    reducer, read = Moments(), []
    state = reducer.init((4, 3), torch.device("cpu"))
    for batch, length in ((1, 1), (3, 37), (2, 130)):
        x = (torch.randn(batch, length, 4, 3, generator=draw) + mean).to(dtype)
        mask = torch.rand(batch, length, generator=draw) > 0.3
        mask[0, 0] = True
        read.append(x[mask].double().numpy())
        x[~mask] = torch.nan
        reducer.update(state, x, mask)
    everything, result = np.concatenate(read), reducer.finalize(state)
    assert result.tokens == len(everything)
    # The contract: 1e-12 of the variance plus 1e-15 of the squared mean.
    variance = everything.var(0)
    bound = 1e-12 * variance + 1e-15 * everything.mean(0) ** 2
    assert (np.abs(result.variance.numpy() - variance) <= bound).all()
    # A sum of n rounded numbers is off by less than n of fp64's 1.1e-16, relative to their sizes.
    off = np.abs(result.mean.numpy() - everything.mean(0))
    assert (off <= len(everything) * 2.2e-16 * np.abs(everything).mean(0)).all()
    assert (result.max.numpy() == everything.max(0)).all()


def test_what_is_no_number_shows_and_only_in_its_unit():
    x = torch.ones(1, 5, 3)
    x[0, 0, 0], x[0, 3, 1] = torch.inf, torch.nan
    mask = torch.ones(1, 5, dtype=torch.bool)
    state = Moments().init((3,), torch.device("cpu"))
    Moments().update(state, x, mask)
    result = Moments().finalize(state)
    assert result.mean[0] == torch.inf
    assert result.max[0] == torch.inf
    assert result.mean[1].isnan()
    assert result.max[1].isnan()
    assert result.variance[:2].isnan().all()
    assert (result.mean[2], result.variance[2], result.max[2]) == (1, 0, 1)


def test_a_call_in_which_no_token_counts_changes_nothing():
    state = Moments().init((3,), torch.device("cpu"))
    before = {name: tensor.clone() for name, tensor in state.items()}
    Moments().update(state, torch.full((2, 4, 3), torch.nan), torch.zeros(2, 4, dtype=torch.bool))
    assert all(torch.equal(state[name], before[name]) for name in before)
