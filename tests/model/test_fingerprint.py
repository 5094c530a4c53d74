"""A fingerprint changes with everything that matters, and with nothing else."""

import numpy as np
import pytest
import torch

from arcee_lab.model.fingerprint import data_fingerprint, model_fingerprint, tokenizer_fingerprint


def test_a_model_keeps_its_fingerprint(tiny):
    torch.manual_seed(3)
    model = tiny()
    first = model_fingerprint(model)
    twin = tiny()
    twin.load_state_dict(model.state_dict())
    twin.config._name_or_path = "elsewhere"
    assert model_fingerprint(twin) == first
    assert model_fingerprint(tiny()) != first


def test_every_tensor_counts_to_its_last_bit(tiny):
    model = tiny()
    seen = {model_fingerprint(model)}
    for parameter in model.parameters():
        with torch.no_grad():
            last = parameter.view(-1)[-1:]
            last.copy_(torch.nextafter(last, last + 1))
        seen.add(model_fingerprint(model))
    assert len(seen) == 1 + len(list(model.parameters()))


@pytest.mark.parametrize("size", [2**20 + 3, 8])
def test_places_count(size):
    x = torch.zeros(size)
    x[1], x[-2] = 1.0, 2.0
    module = torch.nn.Module()
    module.weight = torch.nn.Parameter(x.clone())
    first = model_fingerprint(module)
    with torch.no_grad():
        module.weight[1], module.weight[-2] = 2.0, 1.0
    assert model_fingerprint(module) != first
    with torch.no_grad():
        module.weight.copy_(x)
    assert model_fingerprint(module) == first


def test_dtype_config_and_names_count(tiny):
    torch.manual_seed(0)
    model = tiny()
    first = model_fingerprint(model)
    assert model_fingerprint(model.bfloat16()) != first
    torch.manual_seed(0)
    assert model_fingerprint(tiny(rms_norm_eps=1e-3)) != first
    one, two = torch.nn.Module(), torch.nn.Module()
    one.a = two.b = torch.nn.Parameter(torch.ones(3))
    assert model_fingerprint(one) != model_fingerprint(two)


def test_all_dtypes_have_one():
    module = torch.nn.Module()
    seen = set()
    for dtype in (torch.float64, torch.float16, torch.bool, torch.uint8, torch.complex64):
        module.register_buffer("x", torch.ones(5, dtype=dtype))
        seen.add(model_fingerprint(module))
    module.register_buffer("x", torch.ones((), dtype=torch.int64))
    seen.add(model_fingerprint(module))
    module.register_buffer("x", torch.ones(0))
    seen.add(model_fingerprint(module))
    assert len(seen) == 7


def test_offloaded_weights_are_brought_in(tiny, tmp_path):
    from accelerate import cpu_offload

    model = tiny()
    first = model_fingerprint(model)
    cpu_offload(model, execution_device="cpu")
    assert any(p.device.type == "meta" for p in model.parameters())
    assert model_fingerprint(model) == first


def test_a_model_without_weights_is_refused(tiny):
    with pytest.raises(ValueError, match=r"embed_tokens\.weight is on the meta device"):
        model_fingerprint(tiny().to("meta"))


def test_a_tokenizer_is_its_rules_and_not_its_last_call(demo):
    _, tokenizer = demo
    first = tokenizer_fingerprint(tokenizer)
    tokenizer(["The dogs sleep.", "Yes."], padding=True, truncation=True, max_length=3)
    assert tokenizer_fingerprint(tokenizer) == first

    import copy

    other = copy.deepcopy(tokenizer)
    other.add_tokens(["quux"])
    assert tokenizer_fingerprint(other) != first
    other = copy.deepcopy(tokenizer)
    other.pad_token = other.eos_token
    assert tokenizer_fingerprint(other) != first


def test_a_pad_token_that_is_another_token_does_not_count(tmp_path):
    """It decides no id: `al.load` gives one to a tokenizer that names none."""
    from notebook_runs import foreign_checkpoint
    from transformers import AutoTokenizer

    import arcee_lab as al

    folder = foreign_checkpoint(tmp_path, num_hidden_layers=1)
    bare = AutoTokenizer.from_pretrained(folder)
    first = tokenizer_fingerprint(bare)
    _, loaded = al.load(folder)
    assert (bare.pad_token, loaded.pad_token) == (None, "</s>")
    assert tokenizer_fingerprint(loaded) == first
    loaded.save_pretrained(tmp_path / "saved")
    assert tokenizer_fingerprint(AutoTokenizer.from_pretrained(tmp_path / "saved")) == first
    word = bare.convert_ids_to_tokens(7)
    bare.pad_token = word  # where there is no special token, `al.load` takes a plain one
    assert tokenizer_fingerprint(bare) == first
    bare.add_special_tokens({"pad_token": "<pad>"})  # one of its own stands for itself in texts
    assert tokenizer_fingerprint(bare) != first


def test_data_is_its_items_in_order():
    a = data_fingerprint(["one", "two"])
    assert data_fingerprint(iter(["one", "two"])) == a
    assert data_fingerprint(["two", "one"]) != a
    assert data_fingerprint(["onetwo"]) != a
    x = np.arange(6)
    assert data_fingerprint([x]) != data_fingerprint([x.reshape(2, 3)])
    assert data_fingerprint([x]) != data_fingerprint([x.astype(np.int32)])
    assert data_fingerprint([x[::2]]) == data_fingerprint([x[::2].copy()])
