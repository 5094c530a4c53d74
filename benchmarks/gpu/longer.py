"""Dumps, evaluations, decoding, compiled graphs and 4-bit weights."""

import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch

import arcee_lab as al
from arcee_lab.neurons.reading import hashing
from arcee_lab.neurons.reading.state import Rows, add, new_state
from benchmarks.gpu import shapes
from benchmarks.gpu.cost import POST, Large
from benchmarks.gpu.place import Place
from benchmarks.gpu.rows import Found, Row, Skipped

_TASKS = ["arcee_demo_facts", "arcee_demo_text_news"]
_NEW = 32


class _Numbers:
    """A tokenizer of words that are numbers: the vocabulary of a model with random weights."""

    bos_token_id, pad_token_id = 1, 0
    name_or_path = "numbers"
    special_tokens_map = {"bos_token": "1"}  # noqa: RUF012
    init_kwargs = {}  # noqa: RUF012

    def __call__(self, texts: Any, verbose: bool = True) -> dict[str, Any]:
        return {"input_ids": [[1, *map(int, text.split())] for text in texts]}

    def get_vocab(self) -> dict[str, int]:
        return {str(number): number for number in range(64)}

    def decode(self, ids: Any) -> str:
        return " ".join(map(str, ids))


@torch.no_grad()
def _dump(place: Place, found: Found, *, large: Large) -> None:
    """Neurons of four layers, written sparse; read again, one token is what a forward gives."""
    model = large.model
    length, count = (16, 4) if place.dry else (512, 8)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, 60, (count, length - 1), generator=generator)
    texts = [" ".join(map(str, row.tolist())) for row in ids]
    layers = min(4, model.config.num_hidden_layers)
    sites = (f"layers.0:{layers}.mlp.hook_post",)
    config = al.dump.DumpConfig(sites=sites, context=length, batch_size=count)
    inputs = shapes.batch(model, count, length) | {"logits_to_keep": 1, "use_cache": False}
    plain = place.seconds(lambda: model(**inputs))
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        al.dump.write(model, _Numbers(), texts, Path(folder) / "store", config)
        seconds = time.perf_counter() - began
        files = [file for file in Path(folder).rglob("*") if file.is_file()]
        written = sum(file.stat().st_size for file in files)
    tokens = count * length
    held = layers * model.config.intermediate_size * tokens * model.dtype.itemsize
    found.measured |= {
        "s": seconds,
        "times the forward": seconds / plain,
        "bytes written": written,
        "GB/s of activations": held / seconds / 1e9,
        "GB/s written": written / seconds / 1e9,
    }
    found.limit = "the disk, and the copy to the host"
    found.aim = ">= 1 GB/s of activations"
    found.want(place.dry or held / seconds >= 1e9, f"{held / seconds / 1e9:.2f} GB/s")


def _demo(place: Place) -> tuple[Any, Any]:
    """The demo; `device=` would need accelerate."""
    model, tokenizer = al.load("demo")
    return model.to(place.device), tokenizer


def _packed(place: Place, found: Found) -> None:
    """Our packed batches against lm-eval's own: the same answers, in less time."""
    model, tokenizer = _demo(place)
    limit = 4 if place.dry else 200
    seconds, scores = {}, {}
    from arcee_lab.evals.tasks.find import find_tasks

    loaded = find_tasks(_TASKS)
    for exact in (True, False, True, False):  # the first two warm up
        began = time.perf_counter()
        result = al.evals.run(
            model, tokenizer, tasks=loaded, limit=limit, exact=exact, draws=1, progress=False
        )
        seconds[exact] = time.perf_counter() - began
        scores[exact] = {(s.task, s.metric): s.value for s in result.scores}
    found.measured |= {"s packed": seconds[False], "s as lm-eval": seconds[True]}
    found.measured["times faster"] = seconds[True] / seconds[False]
    found.aim = "lm-eval's scores, but for one near-tie per task, and faster"
    gaps = [abs(scores[True][key] - value) for key, value in scores[False].items()]
    found.measured["largest difference of a score"] = max(gaps)
    assert max(gaps) <= 1.001 / limit, f"scores differ by {max(gaps)}"
    found.want(place.dry or seconds[False] < seconds[True], "packing is not faster")


def _sparse_decode(place: Place, found: Found) -> None:
    """For the CPU alone: on a card finding the active rows would wait at every layer."""
    model, tokenizer = _demo(place)
    prompt = tokenizer("The horses behind the old boat", return_tensors="pt").to(place.device)
    found.aim = "greedy ids of the dense model on the CPU; refused on a card"
    if not place.dry:
        try:
            with al.sparse_decode(model):
                raise AssertionError("sparse_decode did not refuse a card")
        except ValueError as error:
            found.measured["refused"] = str(error)
        return
    options: dict[str, Any] = {"max_new_tokens": 4, "do_sample": False}
    dense = model.generate(**prompt, **options)
    with al.sparse_decode(model):
        assert torch.equal(model.generate(**prompt, **options), dense), "ids differ"


def _layers(place: Place) -> int:
    """A slice of the model at its full width: a compiler takes minutes over all layers."""
    return 2 if place.dry else 8


@torch.no_grad()
def _compiled_generate(place: Place, found: Found) -> None:
    """`generate` with a static cache, compiled against eager: seconds per new token."""
    model = shapes.large(place, num_hidden_layers=_layers(place))
    found.measured["layers"] = model.config.num_hidden_layers
    inputs = shapes.batch(model, 1, 16)
    new = 4 if place.dry else _NEW
    backend = "eager" if place.dry else "inductor"
    options: dict[str, Any] = {"max_new_tokens": new, "min_new_tokens": new, "do_sample": False}
    options |= {"cache_implementation": "static"}
    eager = place.seconds(
        lambda: model.generate(**inputs, **options, disable_compile=True), repeats=2
    )
    plain, model.forward = model.forward, torch.compile(model.forward, backend=backend)
    try:
        quick = place.seconds(
            lambda: model.generate(**inputs, **options, disable_compile=True), repeats=2
        )
    finally:
        model.forward = plain
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    least = weights / place.bandwidth
    found.limit = f"reading the weights of these layers: {least * 1e3:.2f} ms per token"
    found.measured |= {"s per token, eager": eager / new, "s per token, compiled": quick / new}
    found.aim = "faster than eager"
    found.want(place.dry or quick < eager, "compiled is not faster")


@torch.no_grad()
def _recorder(place: Place, found: Found) -> None:
    """A compiled recorder against the compiled model alone, in a decoding step and in a forward."""
    from transformers import StaticCache

    model = shapes.large(place, num_hidden_layers=_layers(place))
    found.measured["layers"] = model.config.num_hidden_layers
    rows, length = shapes.size(place, 1, 512)
    backend = "eager" if place.dry else "inductor"
    ids = shapes.batch(model, rows, length)["input_ids"]
    record = al.capture_compiled(model, POST, batch=rows, length=length, backend=backend)
    bare = torch.compile(model, fullgraph=True, dynamic=False, backend=backend)
    record(ids, use_cache=False)
    with al.capture(model, POST) as acts:
        model(ids, use_cache=False)
    gaps = [shapes.away(record[site], acts[site]) for site in acts]
    depth = 6 * model.config.num_hidden_layers
    bound = 0 if place.dry else depth * 2**-8  # bf16, each of the sums rounded
    found.measured["largest relative difference"] = max(gaps)
    assert max(gaps) <= bound, f"values differ by {max(gaps):.1e}; the bound is {bound:.1e}"
    del acts
    with_it = place.seconds(lambda: record(ids, use_cache=False), repeats=3)
    without = place.seconds(lambda: bare(ids, use_cache=False), repeats=3)
    found.measured |= {"s": with_it, "s without": without, "times": with_it / without}
    size = 4 * length
    step = al.capture_compiled(
        model, POST, batch=rows, length=1, cache_length=size, backend=backend
    )
    cache = StaticCache(model.config, max_cache_len=size)
    model(ids, cache=cache)
    one = ids[:, -1:]
    found.measured["s per decoding step"] = place.seconds(lambda: step(one, cache=cache), repeats=3)
    flops = 2 * sum(p.numel() for p in model.parameters()) * ids.numel()
    found.limit = f"forward: {flops:.2e} FLOPs, {flops / place.flops * 1e3:.2f} ms at peak"
    found.aim = "<= 1.1 x the compiled forward"
    found.want(place.dry or with_it <= 1.1 * without, f"{with_it / without:.2f} x the forward")


@torch.no_grad()
def _four_bits(place: Place, found: Found) -> None:
    """4-bit weights through bitsandbytes: hook points fire, and a capture changes nothing."""
    if place.dry:
        raise Skipped("4-bit kernels are those of a card")
    from transformers import BitsAndBytesConfig

    full, tokenizer = _demo(place)
    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=torch.float32)
    small, _ = al.load("demo", device=place.device, quantization_config=config)
    inputs = tokenizer("The horses behind the old boat", return_tensors="pt").to(place.device)
    plain, want = small(**inputs).logits, full(**inputs).logits
    with al.capture(small, POST) as acts:
        assert torch.equal(small(**inputs).logits, plain), "a capture changed the logits"
    assert len(acts) == full.config.num_hidden_layers, "sites are missing"
    found.measured["relative norm from fp32"] = gap = shapes.away(plain, want)
    found.aim = "within 0.5 of the fp32 logits' norm"  # 4 bits round a weight by up to 1/14
    assert gap < 0.5, f"logits are {gap:.2f} away"


@torch.no_grad()
def _exemplars(place: Place, found: Found, *, large: Large) -> None:
    """Exemplars of all neurons; the sums on the card are those of the same values on the CPU."""
    model = large.model
    length, count = (16, 4) if place.dry else (128, 64)
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(3, 60, (count, length - 1), generator=draw)
    texts = [" ".join(map(str, row.tolist())) for row in ids]
    inputs = shapes.batch(model, count, length) | {"logits_to_keep": 1, "use_cache": False}
    plain = place.seconds(lambda: model(**inputs))
    began = time.perf_counter()
    run = al.neurons.exemplars(model, _Numbers(), texts, context=length, batch_size=count)
    seconds = time.perf_counter() - began
    kept = sum(x.nbytes for one in run.states.values() for x in one.values())
    found.measured |= {"plain_s": plain, "run_s": seconds, "tokens": run.n_tokens, "bytes": kept}
    layer, width = run.layers[0], run.d_mlp
    places = run.facts.places
    post = torch.randn(8, length, width, generator=draw).relu().square().to(model.dtype)
    counted = torch.ones(8, length, dtype=torch.bool)
    neurons = torch.from_numpy(hashing.neuron_keys(layer, width, 0))
    states = []
    for device in (torch.device("cpu"), model.device):
        state = new_state(places, width, device)
        rows = Rows(torch.arange(8).to(device), counted.to(device), counted.numel(), (1,), (0,))
        add(state, places, post.to(device), rows, neurons.to(device))
        states.append({name: x.cpu() for name, x in state.items()})
    for name, x in states[0].items():
        assert torch.equal(x, states[1][name]), f"{name} differs between the card and the CPU"
    found.aim = "equal sums on both devices"


def rows(large: Large) -> list[Row]:
    """Those of the large model; none is core."""
    return [
        Row("dump", partial(_dump, large=large), packages=("pandas",)),
        Row("exemplars", partial(_exemplars, large=large), packages=("pandas",)),
    ]


def smaller_rows() -> list[Row]:
    """The others; none is core."""
    evals = ("lm_eval", "pandas", "datasets")
    return [
        Row("packed evaluation", _packed, packages=evals, newer=True),
        Row("sparse_decode", _sparse_decode, newer=True),
        Row("compiled generate", _compiled_generate, newer=True),
        Row("compiled recorder", _recorder, newer=True),
        Row("4-bit weights", _four_bits, packages=("bitsandbytes", "accelerate"), newer=True),
    ]
