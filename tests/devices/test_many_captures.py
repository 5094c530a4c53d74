"""Five hundred blocks in a loop: memory does not grow, and no hook is left."""

import platform
from pathlib import Path

import pytest

TESTS = Path(__file__).parent.parent


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="asks glibc what is allocated")
def test_memory_does_not_grow_and_no_hook_is_left(run_clean):
    """Without the shape checks of conftest.py, which keep memory of their own."""
    run_clean(
        f"""
        import ctypes, gc, sys, tracemalloc
        sys.path.append({str(TESTS)!r})
        import torch
        from tiny_calls import EVERYTHING, batch_of, hooks_of, modes_of
        import arcee_lab as al
        from arcee_lab.model import ArceeConfig, ArceeForCausalLM

        torch.set_num_threads(1)
        torch.manual_seed(0)
        model = ArceeForCausalLM(ArceeConfig(
            vocab_size=50, hidden_size=32, intermediate_size=72, num_hidden_layers=1,
            num_attention_heads=4, num_key_value_heads=2, pad_token_id=0)).eval()
        batch = batch_of(padding="left", length=6)
        changes = [al.Ablate("*.hook_post", units=[3]), al.Scale("*hook_z", 0.5, positions=-1)]
        hooks, logits = hooks_of(model), model(**batch).logits

        malloc_info = ctypes.CDLL(None).mallinfo2
        fields = [(str(field), ctypes.c_size_t) for field in range(10)]
        malloc_info.restype = type("Info", (ctypes.Structure,), {{"_fields_": fields}})

        def allocated():
            "Bytes in use outside Python's own pools; what the process holds also tells of gaps."
            info = malloc_info()
            return getattr(info, "4") + getattr(info, "7")  # mapped one by one, and in the heap

        def tensors():
            return sum(isinstance(one, torch.Tensor) for one in gc.get_objects())

        def blocks(count):
            for turn in range(count):
                grad = turn % 50 == 0
                with torch.set_grad_enabled(grad), al.intervene(model, changes):
                    cuts = {{"grad": True}} if grad else {{"positions": [0, -1]}}
                    with al.capture(model, EVERYTHING, **cuts) as acts:
                        output = model(**batch)
                        if grad:
                            output.logits.sum().backward()
                            acts.grad("hook_embed")
                    with al.attention.heads(model, al.attention.TopKeys(2)) as stats:
                        model(**batch)
                    assert len(stats["top_2"].mean) == 1
            model.zero_grad()
            gc.collect()

        blocks(60)  # warm up: caches, allocator
        tracemalloc.start()
        blocks(60)
        kept, python, native = tensors(), tracemalloc.get_traced_memory()[0], allocated()
        blocks(500)
        grown = tracemalloc.get_traced_memory()[0] - python
        assert tensors() == kept, f"{{tensors() - kept}} tensors"
        assert grown < 2**16, f"{{grown}} bytes of Python objects"
        native = allocated() - native
        assert native < 2**18, f"{{native}} bytes"  # a site kept is 1.5 MiB
        assert hooks_of(model) == hooks and set(modes_of(model)) == {{"off"}}
        assert not any(module.readers for module in model.modules() if hasattr(module, "readers"))
        assert torch.equal(model(**batch).logits, logits)
        """
    )
