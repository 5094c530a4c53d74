"""The untrained demo: what its first layer looks at, and what a softmax cannot see of it."""

import pytest
import torch

from arcee_lab.recording.capturing import capture
from arcee_lab.training import Recipe
from arcee_lab.training.initial_weights import untrained


@pytest.fixture(scope="module")
def tokenizer():
    from arcee_lab.demo.tokenizer import build_tokenizer

    return build_tokenizer()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_one_head_of_each_group_looks_back(tokenizer, seed):
    recipe = Recipe(seed=seed)
    model = untrained(recipe, tokenizer).eval()
    ids = torch.randint(10, len(tokenizer), (8, 24), generator=torch.manual_seed(seed))
    with capture(model, "layers.0.self_attn.hook_pattern") as acts, torch.no_grad():
        model.model(input_ids=ids)
    pattern = acts["layers.0.self_attn.hook_pattern"].mean(0)  # head query key
    for kv_head, distance in enumerate(recipe.back):
        head = kv_head * recipe.heads // recipe.kv_heads
        looks = torch.stack([pattern[head].diagonal(-back)[8:].mean() for back in range(6)])
        assert looks.argmax() == distance
        assert looks[distance] > 1.5 * looks[looks.argsort()[-2]]


def test_more_distances_than_kv_heads():
    with pytest.raises(ValueError, match="kv_heads is 2"):
        Recipe(back=(1, 2, 3))


def test_the_softmax_does_not_see_what_all_embeddings_share(tokenizer):
    model = untrained(Recipe(), tokenizer)
    weight = model.get_parameter("lm_head.weight").detach().double()
    shared = weight.mean(0)
    assert shared.norm() > 5 * (weight - shared).mean(0).norm()
    hidden = torch.randn(5, weight.shape[1], generator=torch.manual_seed(0)).double()
    with_it = torch.log_softmax(hidden @ weight.T, -1)
    without = torch.log_softmax(hidden @ (weight - shared).T, -1)
    torch.testing.assert_close(with_it, without)
