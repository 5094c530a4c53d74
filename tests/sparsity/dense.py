"""Models with known weights, and dense activations of transformers' own Arcee to count by hand."""

import numpy as np
import torch


def is_real(key):
    """Whether a tensor of a state holds sums of real numbers, as whole parts and fractions."""
    return key.endswith(("_s", "_ss", "_sn", "loss"))


class Letters:
    """A tokenizer of letters: a = 3, b = 4, ...; BOS is 1, padding 0."""

    pad_token_id = 0

    def __init__(self, bos=True):
        self.bos_token_id = 1 if bos else None

    def __call__(self, texts, verbose=True):
        many = [texts] if isinstance(texts, str) else texts
        prefix = [] if self.bos_token_id is None else [1]
        ids = [prefix + [3 + ord(c) - ord("a") for c in text] for text in many]
        return {"input_ids": ids[0] if isinstance(texts, str) else ids}

    def decode(self, ids):
        return "".join("<>"[i] if i < 2 else chr(ord("a") + i - 3) for i in ids)


def fill(parameters, *, std, seed):
    """Draws weights that are equal to the last bit on every processor.

    torch's normal_ is vectorised: AVX2, AVX-512 and plain code differ in its last bits, and numbers
    that rest on the weights differ with them. These are whole numbers over a power of two.
    """
    rng = np.random.default_rng(seed)
    for parameter in parameters:
        drawn = rng.integers(-(2**20), 2**20, tuple(parameter.shape)) / 2**20
        parameter.data.copy_(torch.from_numpy(drawn * std * 3**0.5))


def pair(*, layers=2, d_mlp=24, kv_heads=1, bias=False, seed=0, dtype=torch.float64, cls=None):
    """Our model and transformers' reference with the same random weights."""
    from transformers import ArceeConfig as ReferenceConfig
    from transformers import ArceeForCausalLM as Reference

    from arcee_lab.model import ArceeConfig, ArceeForCausalLM

    shape = {
        "vocab_size": 40,
        "hidden_size": 16,
        "intermediate_size": d_mlp,
        "num_hidden_layers": layers,
        "num_attention_heads": 2,
        "num_key_value_heads": kv_heads,
        "mlp_bias": bias,
        "max_position_embeddings": 64,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    reference = Reference(ReferenceConfig(**shape)).to(dtype).eval()
    named = dict(reference.named_parameters())
    fill([x for x in named.values() if x.dim() > 1], std=0.02, seed=seed)
    fill([x for name, x in named.items() if name.endswith("bias")], std=0.5, seed=seed + 1)
    ours = (cls or ArceeForCausalLM)(ArceeConfig(**shape)).to(dtype).eval()
    ours.load_state_dict(reference.state_dict(), strict=cls is None)
    return ours, reference


def plant(ours, reference, *, seed=0):
    """Gives each neuron a rate of its own: biases from far below zero to above it."""
    rng = np.random.default_rng(seed)
    for mine, theirs in zip(ours.model.layers, reference.model.layers, strict=True):
        bias = torch.from_numpy(rng.uniform(-0.2, 0.08, tuple(mine.mlp.up_proj.bias.shape)))
        for block in (mine, theirs):
            block.mlp.up_proj.bias.data.copy_(bias)
    return ours, reference


def activations(reference, ids):
    """relu(u)² of every layer of the reference, squared in its own dtype, without padding."""
    return read(reference, ids)["post"]


def read(reference, ids):
    """Dense arrays of one window: x, post and y of every layer, `[layer, pos, ...]`, and losses."""
    x, post, y = [], [], []
    handles = []

    def up(module, args, out):
        x.append(args[0][0])
        post.append(out[0].clamp(min=0) ** 2)

    def down(module, args, out):
        y.append(out[0])

    for block in reference.model.layers:
        handles.append(block.mlp.up_proj.register_forward_hook(up))
        handles.append(block.mlp.down_proj.register_forward_hook(down))
    ids = torch.as_tensor(np.asarray(ids), dtype=torch.long)[None]
    with torch.no_grad():
        logits = reference(ids).logits[0].double()
    for handle in handles:
        handle.remove()
    losses = -logits.log_softmax(-1)[:-1].gather(1, ids[0, 1:, None])[:, 0]
    return {
        "x": torch.stack(x).double().numpy(),
        "post": torch.stack(post).double().numpy(),
        "y": torch.stack(y).double().numpy(),
        "losses": losses.numpy(),
    }


def windows_of(documents, context):
    """Documents cut by hand, each window behind its document's BOS."""
    found = []
    for ids in documents:
        prefix, body = (ids[:1], ids[1:]) if ids[0] == 1 else ([], ids)
        step = context - len(prefix)
        found += [prefix + body[at : at + step] for at in range(0, max(len(body), 1), step)]
    return found


def brute_force(reference, documents, *, context):
    """Fired counts by plain arithmetic: one unpadded window and token at a time."""
    layers = reference.config.num_hidden_layers
    d_mlp = reference.config.intermediate_size
    fired = np.zeros((layers, d_mlp), np.int64)
    first = np.zeros((layers, d_mlp), np.int64)
    active = np.zeros((layers, d_mlp + 1), np.int64)
    n_tokens = n_first = 0
    for window in windows_of(documents, context):
        posts = activations(reference, window)
        n_tokens += len(window) - 1
        n_first += 1
        for layer, post in enumerate(posts):
            for place, row in enumerate(post):
                hits = row != 0
                if place == 0:
                    first[layer] += hits
                else:
                    fired[layer] += hits
                    active[layer, hits.sum()] += 1
    return fired, first, active, n_tokens, n_first
