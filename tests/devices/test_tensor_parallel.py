"""Two processes share a model by transformers' plan; every rank sees what one process sees."""

from launch import torchrun

SHARED = """
import logging
from tiny_calls import EVERYTHING, batch_of
from transformers.distributed.configuration_utils import DistributedConfig
import arcee_lab as al
from arcee_lab.runs import ranks
from arcee_lab.model import ArceeConfig
from arcee_lab.model.anatomy import HEADS, anatomy_of
from arcee_lab.hooks.tensor_parallel import shards_of

logging.getLogger("transformers").setLevel(logging.ERROR)
# 73 neurons: the second rank has one less than the first.
SHAPE = dict(vocab_size=50, hidden_size=32, intermediate_size=73, num_hidden_layers=2,
             num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64,
             initializer_range=0.1, pad_token_id=0, bos_token_id=1, eos_token_id=2, num_labels=3)

def pair(head="causal", attn="sdpa", **overrides):
    "The model of one process, and the same one shared by two."
    torch.manual_seed(0)
    whole = HEADS[head](ArceeConfig(**SHAPE | overrides, attn_implementation=attn)).eval()
    folder = f"{sys.argv[0]}.{head}.{attn}.{len(overrides)}"
    if here.first:
        whole.save_pretrained(folder)
    here.barrier()
    shared = HEADS[head].from_pretrained(
        folder, distributed_config=DistributedConfig(tp_size=2), attn_implementation=attn
    ).eval()
    assert shared.model.layers[0].mlp.up_proj.weight.to_local().shape[0] in (37, 36)
    return whole, shared

def near(got, expected, what):
    assert got.shape == expected.shape, (what, got.shape, expected.shape)
    bound = 1e-5 * max(1.0, expected.abs().max().item())
    difference = (got - expected).abs().max().item()
    assert difference <= bound, f"{what}: {difference} > {bound}"
"""


def test_sites_come_back_whole_and_in_order_on_every_rank(tmp_path):
    torchrun(
        SHARED
        + """
def same(whole, shared, sites, call, **cuts):
    with al.capture(whole, sites, **cuts) as wanted:
        call(whole)
    with al.capture(shared, sites, **cuts) as acts:
        call(shared)
    assert list(acts) == list(wanted)
    for site in acts:
        for got, expected in zip(many(acts[site]), many(wanted[site]), strict=True):
            near(got, expected, site)
    return wanted, acts

def many(x):
    return x if isinstance(x, list) else [x]

with ranks.joined() as here:
    torch.manual_seed(0)
    for padding, attn in (("left", "sdpa"), ("right", "eager")):
        batch = batch_of(padding=padding)
        whole, shared = pair(attn=attn)
        call = lambda model: model(**batch)
        for mode in (torch.no_grad(), torch.enable_grad()):  # two code paths of the plan
            with mode:
                same(whole, shared, EVERYTHING, call)
    same(whole, shared, "*.mlp.hook_*", call, units=[72, 0, 36, 37], positions=[0, -1])
    same(whole, shared, "*hook_z", call, heads=[3, 0], dtype=torch.float64, stop_at=True)

    asked = [al.attention.Entropy(), al.attention.Offset(1), al.attention.TopKeys(2)]
    with torch.no_grad(), al.attention.heads(whole, asked) as wanted:
        call(whole)
    with torch.no_grad(), al.attention.heads(shared, asked) as stats:
        call(shared)
    for name in stats:
        near(stats[name].mean, wanted[name].mean, name)
        assert torch.equal(stats[name].n, wanted[name].n)
        near(stats[name].values(1).nan_to_num(9), wanted[name].values(1).nan_to_num(9), name)

    step = dict(max_new_tokens=4, do_sample=False, eos_token_id=None)
    ids = []
    same(whole, shared, EVERYTHING, lambda model: ids.append(model.generate(**batch, **step)))
    assert torch.equal(*ids) and ids[0].shape == (2, 13)

    def backward(model):
        model(**batch, labels=batch["input_ids"]).loss.backward()
    kinds = ["*.mlp.hook_*", "*hook_z", "*hook_q", "*hook_v", "*resid*", "hook_logits"]
    wanted, acts = same(whole, shared, kinds, backward, grad=True)
    for site in acts:
        near(acts.grad(site), wanted.grad(site), f"gradient at {site}")

    for head in ("base", "sequence", "qa"):
        whole, shared = (model for model in pair(head))if head != "base" else pair("causal")
        if head == "base":
            whole, shared = whole.model, shared.model
        same(whole, shared, ["*"], call)
    here.barrier()
""",
        tmp_path,
    )


def test_interventions_reach_the_rank_that_owns_the_unit(tmp_path):
    """Units, heads and directions mean those of the whole site, also where tokens are chosen."""
    torchrun(
        SHARED
        + """
def loss_of(model, interventions, batch):
    with al.intervene(model, interventions), al.capture(model, "*.hook_post", grad=True) as acts:
        loss = model(**batch, labels=batch["input_ids"]).loss
        loss.backward()
    return loss, acts

with ranks.joined() as here:
    whole, shared = pair()
    batch = batch_of(padding="left")
    post, z = "layers.0.mlp.hook_post", "layers.1.self_attn.hook_z"
    with torch.no_grad(), al.capture(whole, [post, z]) as source:
        whole(input_ids=batch["input_ids"].flip(0))
    direction = torch.randn(73)
    cases = [
        al.Ablate(post, units=[0, 36, 37, 72]),
        al.Scale("*hook_z", 0.5, heads=[3, 0], positions=-1),
        al.TopK("*hook_post", 7),
        al.Cett("*hook_relu", 0.05),
        al.ProjectOut(post, direction),
        al.Add(post, direction, units=None, positions=[0, 2]),
        al.Patch(post, source, units=[72, 3]),
        al.Patch(z, source, heads=[1, 2]),
        al.Scale("layers.0.self_attn.hook_pattern", 2.0, heads=[1, 2]),
        al.Ablate("layers.0.hook_resid_mid", positions=1),
    ]
    plain = whole(**batch).logits
    for case in cases:
        with torch.no_grad():
            with al.intervene(whole, case), al.capture(whole, EVERYTHING) as wanted:
                expected = whole(**batch).logits
            with al.intervene(shared, case), al.capture(shared, EVERYTHING) as acts:
                near(shared(**batch).logits, expected, case)
        assert (expected - plain).abs().max() > 1e-3, case
        for site in wanted:
            near(acts[site], wanted[site], f"{site} under {case}")

    for case in (cases[0], cases[4], cases[8]):
        loss, wanted = loss_of(whole, case, batch)
        got, acts = loss_of(shared, case, batch)
        near(got, loss, case)
        for site in wanted:
            near(acts.grad(site), wanted.grad(site), f"gradient at {site} under {case}")
    step = dict(max_new_tokens=4, do_sample=False, eos_token_id=None)
    with al.intervene(whole, cases[:2]):
        expected = whole.generate(**batch, **step)
    with al.intervene(shared, cases[:2]):
        assert torch.equal(shared.generate(**batch, **step), expected)
    here.barrier()
""",
        tmp_path,
    )
