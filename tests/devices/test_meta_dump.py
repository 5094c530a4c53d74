"""A dump reads from the device once per site, by the copy that the host waits for elsewhere."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from arcee_lab.dump.format.stored_site import StoredSite
from arcee_lab.dump.writing.recorder import Recorder
from arcee_lab.model.anatomy import anatomy_of

NEURONS, RESID = "layers.0.mlp.hook_relu", "layers.1.hook_resid_post"


class Copies(TorchDispatchMode):
    """Lets copies from `meta` to the CPU pass, which raise like any other read, and counts them."""

    def __init__(self):
        super().__init__()
        self.shapes = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.copy_.default and args[1].is_meta and not args[0].is_meta:
            self.shapes.append(tuple(args[1].shape))
            return args[0]
        return func(*args, **(kwargs or {}))


@pytest.fixture
def watched(tiny):
    """A model on `meta`, and a recorder of a sparse and a dense site of it."""
    model = tiny(attn="sdpa").to("meta")
    width, d_model = model.config.intermediate_size, model.config.hidden_size
    sites = [
        StoredSite(NEURONS, (width,), "float32", "neuron"),
        StoredSite(RESID, (d_model,), "float32", "dense"),
    ]
    known = {site.name: site for site in sites}
    return model, Recorder(anatomy_of(model), known, stop=False, cast=False), width, d_model


def forward(model):
    ids = torch.zeros(2, 9, dtype=torch.long, device="meta")
    model(input_ids=ids)


def test_a_dump_reads_by_its_copies_alone(watched):
    model, recorder, width, d_model = watched
    handed = {}
    recorder.deliver = lambda name, size, batch: handed.__setitem__(name, (size, batch.x))
    with Copies() as copies, recorder:
        forward(model)
    assert copies.shapes == [(width, 18), (18, d_model)], "neurons are transposed on the device"
    assert list(handed) == [NEURONS, RESID]
    for name, size in ((NEURONS, width), (RESID, d_model)):
        assert handed[name][0] == 4 * 18 * size
        assert handed[name][1].shape == (18, size)
        assert handed[name][1].device.type == "cpu"


def test_a_copy_that_nobody_lets_pass_raises(watched):
    """What the test above relies on."""
    model, recorder, *_ = watched
    with pytest.raises(NotImplementedError, match="meta"), recorder:
        forward(model)
