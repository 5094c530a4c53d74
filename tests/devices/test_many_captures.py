"""Five hundred blocks in a loop: memory does not grow, and no hook is left."""

from pathlib import Path

RECORDING = Path(__file__).parent.parent / "recording"


def test_memory_does_not_grow_and_no_hook_is_left(run_clean):
    """Without the shape checks of conftest.py, which keep memory of their own."""
    run_clean(
        f"""
        import gc, sys, tracemalloc
        from pathlib import Path
        sys.path.append({str(RECORDING)!r})
        import torch
        from capture_cases import EVERYTHING, batch_of, hooks_of, modes_of
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

        def resident():
            "Bytes of memory this process has, as the kernel counts them."
            return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

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
        kept, python, rss = tensors(), tracemalloc.get_traced_memory()[0], resident()
        blocks(500)
        grown = tracemalloc.get_traced_memory()[0] - python
        tracemalloc.stop()
        assert tensors() == kept, f"{{tensors() - kept}} tensors"
        assert grown < 2**16, f"{{grown}} bytes of Python objects"
        assert resident() - rss < 2**20, f"{{resident() - rss}} bytes"  # a site kept is 1.5 MiB
        assert hooks_of(model) == hooks and set(modes_of(model)) == {{"off"}}
        assert not any(module.readers for module in model.modules() if hasattr(module, "readers"))
        assert torch.equal(model(**batch).logits, logits)
        """
    )
