"""Two processes: statistics of a model that they share, and of texts that they divided."""

from launch import torchrun


def test_tensor_parallel_and_gathered_statistics(tmp_path):
    torchrun(
        """
import logging
from tiny_calls import batch_of
from transformers.distributed.configuration_utils import DistributedConfig
import arcee_lab as al
from arcee_lab.runs import ranks
from arcee_lab.model import ArceeConfig, ArceeForCausalLM
from arcee_lab.reducers import FiringRate, MeanCovariance, Moments, TopK

logging.getLogger("transformers").setLevel(logging.ERROR)
ASKED = {"layers.*.mlp.hook_post": [FiringRate(), Moments(first="exclude"), TopK(2)],
         "layers.*.self_attn.hook_z": FiringRate(), "layers.1.hook_resid_post": MeanCovariance()}

def reduced(model, batches):
    with torch.no_grad(), al.capture(model, ASKED) as stats:
        for batch in batches:
            model(**batch)
    return stats

def near(got, expected, few):
    for site in expected:
        for mine, theirs in zip(got.states[site], expected.states[site], strict=True):
            for name in theirs:
                if few and name == "fired":
                    # Sums in another order may put a value on the other side of 0.
                    assert (mine[name] != theirs[name]).float().mean() < 0.02, (site, name)
                elif few and name in ("rows", "positions"):
                    pass  # equal tokens have equal values but for rounding: either may be first
                elif theirs[name].is_floating_point():
                    torch.testing.assert_close(mine[name], theirs[name], rtol=1e-4, atol=1e-5)
                else:
                    assert torch.equal(mine[name], theirs[name]), (site, name)

with ranks.joined() as here:
    torch.manual_seed(0)
    # 73 neurons: the second rank has one less than the first.
    whole = ArceeForCausalLM(ArceeConfig(
        vocab_size=50, hidden_size=32, intermediate_size=73, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64,
        initializer_range=0.1, pad_token_id=0, bos_token_id=1, eos_token_id=2)).eval()
    batches = [batch_of(padding=padding, seed=seed)
               for seed, padding in enumerate(("left", "right", None, "left", "right"))]
    expected = reduced(whole, batches)

    mine = reduced(whole, here.share(batches))
    total = mine.gather(here)
    order = [*batches[::2], *batches[1::2]]  # in the order of the ranks
    near(total, reduced(whole, order), few=False)
    assert total["layers.0.mlp.hook_post"][0].tokens == 5 * 18 - 4 * 3
    if here.first:
        total.save(sys.argv[0] + ".statistics")
    here.barrier()
    near(al.reducers.load(sys.argv[0] + ".statistics"), total, few=False)

    folder = sys.argv[0] + ".model"
    if here.first:
        whole.save_pretrained(folder)
    here.barrier()
    shared = ArceeForCausalLM.from_pretrained(
        folder, distributed_config=DistributedConfig(tp_size=2), attn_implementation="sdpa").eval()
    assert shared.model.layers[0].mlp.up_proj.weight.to_local().shape[0] in (37, 36)
    stats = reduced(shared, batches)
    near(stats, expected, few=True)
    try:
        stats.gather(here)
    except ValueError as error:
        assert "would count every token again" in str(error)
    else:
        raise AssertionError("gathered the whole twice")
    assert stats.merge(expected)["layers.0.mlp.hook_post"][0].tokens == 2 * 78
    here.barrier()
""",
        tmp_path,
    )
