"""The scorecard of a demo: skills, losses next to entropies, zeros next to the untrained model."""

from dataclasses import replace

import torch
from transformers import PreTrainedTokenizerBase

from arcee_lab.demo import documents
from arcee_lab.demo.tokenizer import PAD_ID
from arcee_lab.model import ArceeForCausalLM
from arcee_lab.recording.capturing import capture
from arcee_lab.training.baselines import any_spot, bag_of_words, commonest_type
from arcee_lab.training.batches import encode
from arcee_lab.training.initial_weights import untrained
from arcee_lab.training.joint_loss import DemoHeads
from arcee_lab.training.recipe import Recipe
from arcee_lab.training.scores import LayerZeros, Scorecard
from arcee_lab.training.skills import TIMES, measure_skills

RARE = 1e-3  # share of tokens below which a neuron that fires is called rare


def score_demo(
    model: ArceeForCausalLM,
    heads: DemoHeads,
    tokenizer: PreTrainedTokenizerBase,
    *,
    n: int = 1500,
    seed: int = 0,
    split: str = "test",
) -> Scorecard:
    """Measures everything that the model card reports.

    Args:
        model: The demo's LM.
        heads: Its other heads.
        tokenizer: Its tokenizer.
        n: Documents of each kind; four times as many reviews.
        seed: Random seed of the documents.
        split: Their split.

    Example:
        >>> from arcee_lab.training import quick, train
        >>> run = train(quick(), "out/quick")  # doctest: +SKIP
        >>> card = score_demo(run.model, run.heads, run.tokenizer, n=50)  # doctest: +SKIP
        >>> card["copy"].share  # doctest: +SKIP
    """
    scores, losses = measure_skills(model, heads, tokenizer, n=n, seed=seed, split=split)
    reviews = documents("review", n=n * TIMES["review"], seed=seed, split=split)
    simple = {
        "sequence head": (bag_of_words(reviews, longest=3), "3-gram bag of words"),
        "token head": (
            commonest_type(documents("news", n=n, seed=seed, split=split)),
            "commonest type of the word",
        ),
        "qa head": (
            any_spot(documents("passage", n=n, seed=seed, split=split)),
            "a spot of the passage at random",
        ),
    }
    simple["answer certain"] = simple["qa head"]
    simple["verdict"] = simple["sequence head"]
    scores = tuple(
        replace(score, baseline=simple[score.skill][0], baseline_name=simple[score.skill][1])
        if score.skill in simple
        else score
        for score in scores
    )
    config = model.config
    shape = Recipe(
        d_model=config.hidden_size,
        d_mlp=config.intermediate_size,
        layers=config.num_hidden_layers,
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads or config.num_attention_heads,
    )
    before = count_zeros(untrained(shape, tokenizer), tokenizer, n=n // 4, seed=seed, split=split)
    after = count_zeros(model, tokenizer, n=n, seed=seed, split=split)
    zeros = tuple(
        replace(layer, untrained=start.zeros) for layer, start in zip(after, before, strict=True)
    )
    return Scorecard(scores, losses, zeros, seed, split)


@torch.no_grad()
def count_zeros(
    model: ArceeForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    *,
    n: int,
    seed: int = 0,
    split: str = "test",
    batch_size: int = 64,
) -> tuple[LayerZeros, ...]:
    """Exact zeros of relu² and neurons that never fire, on documents of all kinds.

    Padding and `<bos>` are not counted, and `untrained` is None.
    """
    found = documents(None, n=n, seed=seed, split=split)
    fired = [torch.zeros(()) for _ in range(model.config.num_hidden_layers)]
    tokens = 0
    for start in range(0, n, batch_size):
        items = [item.ids for item in encode(tokenizer, found[start : start + batch_size])]
        longest = max(map(len, items))
        ids = torch.tensor([item + [PAD_ID] * (longest - len(item)) for item in items])
        mask = ids != PAD_ID
        with capture(model, "layers.*.mlp.hook_post") as acts:
            model.model(input_ids=ids, attention_mask=mask.long())
        real = mask.clone()
        real[:, 0] = False
        tokens += int(real.sum())
        for layer, post in enumerate(acts.values()):
            fired[layer] = fired[layer] + (post[real] != 0).sum(0)
    return tuple(
        LayerZeros(
            layer=layer,
            zeros=1 - counts.double().sum().item() / (tokens * counts.numel()),
            untrained=None,
            dead=int((counts == 0).sum()),
            rare=int(((counts > 0) & (counts < RARE * tokens)).sum()),
            neurons=counts.numel(),
            tokens=tokens,
        )
        for layer, counts in enumerate(fired)
    )
