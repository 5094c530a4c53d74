"""FSDP2 with 4-bit weights of bitsandbytes is refused; a class of its name stands in for them."""

import pytest
import torch
from transformers import BitsAndBytesConfig
from transformers.distributed.configuration_utils import DistributedConfig

import arcee_lab as al
from arcee_lab.model.checks.fsdp import refuse_request_in_4_bit

REFUSED = r"4-bit weights of bitsandbytes under FSDP2 .* issue 1945.*device_map="
FOUR = BitsAndBytesConfig(load_in_4bit=True)
SPLIT = DistributedConfig(fsdp_size=2)


def test_it_is_refused_before_weights_are_read():
    with pytest.raises(ValueError, match=REFUSED):
        al.load("demo", quantization_config=FOUR, distributed_config=SPLIT)


def test_a_checkpoint_may_say_it_too_and_each_alone_is_fine():
    class Stored:
        quantization_config = {"quant_method": "bitsandbytes", "load_in_4bit": True}  # noqa: RUF012

    with pytest.raises(ValueError, match=REFUSED):
        refuse_request_in_4_bit(Stored(), {"distributed_config": SPLIT})
    refuse_request_in_4_bit(Stored(), {})
    refuse_request_in_4_bit(Stored(), {"distributed_config": DistributedConfig(tp_size=2)})
    refuse_request_in_4_bit(object(), {"distributed_config": SPLIT})
    eight = BitsAndBytesConfig(load_in_8bit=True)
    refuse_request_in_4_bit(object(), {"quantization_config": eight, "distributed_config": SPLIT})


def test_a_model_that_was_split_is_refused(tiny):
    """Split by hand, as trainers do; blocks of every kind ask."""
    from torch import distributed
    from torch.distributed.fsdp import fully_shard

    class Linear4bit(torch.nn.Linear):
        pass

    store = distributed.HashStore()
    distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        plain, packed = tiny(), tiny()
        packed.model.layers[1].mlp.up_proj = Linear4bit(32, 72, bias=False)
        mesh = distributed.init_device_mesh("cpu", (1,))
        al.capture(packed, "*hook_post")  # not split yet
        for model in (plain, packed):
            fully_shard(model.model.layers[1], mesh=mesh)
        al.capture(plain, "*hook_post")
        post = "layers.0.mlp.hook_post"
        for block in (
            lambda: al.capture(packed, post),
            lambda: al.capture(packed, {post: al.reducers.FiringRate()}),
            lambda: al.intervene(packed, al.Ablate(post)),
            lambda: al.capture_compiled(packed, post, batch=1, length=1),
        ):
            with pytest.raises(ValueError, match=REFUSED):
                block()
    finally:
        distributed.destroy_process_group()
