"""Every public call, once on each device; `device_run.py` runs and compares them."""

import copy
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from device_lab import TEXTS, Lab, Read
from torch import Tensor, nn
from transformers import StaticCache

import arcee_lab as al
from arcee_lab.attention import Distance, Entropy, FirstMass, Offset, TopKeys
from arcee_lab.dump import DumpConfig
from arcee_lab.reducers import (
    ActiveCount,
    CoActivation,
    FiringRate,
    Grouped,
    Histogram,
    MeanCovariance,
    Moments,
    Quantile,
    Reducer,
    TopK,
)

CLEAN = ["The dogs near the door", "The kings behind the clock"]
CORRUPT = ["The dog near the door", "The king behind the clock"]
EVERYTHING = ["*", "*scores", "*pattern"]
POST = "layers.*.mlp.hook_post"
TASKS = ["arcee_demo_agreement_1", "arcee_demo_text_news"]
HEAD_TASKS = ["arcee_demo_sentiment", "arcee_demo_ner", "arcee_demo_qa"]


CALLS: dict[str, Callable[[Lab], Read]] = {}


def call(work: Callable[[Lab], Read]) -> Callable[[Lab], Read]:
    CALLS[work.__name__.replace("_", " ")] = work
    return work


# -------------------------------------------------------------------------------- models


@call
def forward(lab: Lab) -> Read:
    with torch.no_grad():
        output = lab.model()(**lab.batch(), output_hidden_states=True, output_attentions=True)
    return lambda: [output.logits, output.hidden_states, output.attentions]


@call
def forward_under_sdpa(lab: Lab) -> Read:
    with torch.no_grad():
        output = lab.model(attn="sdpa")(**lab.batch())
    return lambda: output.logits


@call
def forward_of_every_head(lab: Lab) -> Read:
    with torch.no_grad():
        outputs = [lab.model(head)(**lab.batch()) for head in ("sequence", "token", "qa", "base")]
    return lambda: [[x for x in output.values() if isinstance(x, Tensor)] for output in outputs]


@call
def losses_and_gradients(lab: Lab) -> Read:
    model, batch = lab.model(), lab.batch()
    loss = model(**batch, labels=batch["input_ids"]).loss
    names = ("model.embed_tokens.weight", "model.layers.0.mlp.up_proj.weight")
    grads = torch.autograd.grad(loss, [model.get_parameter(name) for name in names])
    return lambda: [loss, *grads]


@call
def generate(lab: Lab) -> Read:
    ids = lab.model().generate(**lab.batch(), max_new_tokens=6, do_sample=False)
    return lambda: ids


@call
def generate_with_a_static_cache(lab: Lab) -> Read:
    ids = lab.model().generate(
        **lab.batch(),
        max_new_tokens=6,
        do_sample=False,
        cache_implementation="static",
        disable_compile=True,
    )
    return lambda: ids


@call
def generate_under_sdpa(lab: Lab) -> Read:
    ids = lab.model(attn="sdpa").generate(**lab.batch(), max_new_tokens=6, do_sample=False)
    return lambda: ids


# -------------------------------------------------------------------------------- looking


@call
def capture_all_sites(lab: Lab) -> Read:
    with torch.no_grad(), al.capture(lab.model(), EVERYTHING) as acts:
        lab.model()(**lab.batch())
    return lambda: dict(acts)


@call
def capture_under_sdpa(lab: Lab) -> Read:
    model, batch = lab.model(attn="sdpa"), lab.batch(TEXTS[:1])
    del batch["attention_mask"]  # with one transformers itself looks whether anything is padded
    with torch.no_grad(), al.capture(model, EVERYTHING) as acts:
        model(**batch)
    return lambda: dict(acts)


@call
def capture_cuts(lab: Lab) -> Read:
    model = lab.model()
    with (
        torch.no_grad(),
        al.capture(model, [POST, "*hook_z"], positions=[0, -1], units=[3, 0]) as acts,
        al.capture(model, ["*pattern", "*hook_z"], positions=-1, heads=[1]) as heads,
    ):
        model(**lab.batch())
    with (
        torch.no_grad(),
        al.capture(model, "layers.0:3.*hook_post", dtype=torch.bfloat16, stop_at=2) as half,
    ):
        model(**lab.batch())
    return lambda: [dict(acts), dict(heads), dict(half)]


@call
def capture_onto_the_cpu(lab: Lab) -> Read:
    with torch.no_grad(), al.capture(lab.model(), POST, device="cpu") as acts:
        lab.model()(**lab.batch())
    return lambda: dict(acts)


@call
def capture_gradients(lab: Lab) -> Read:
    with al.capture(lab.model(), "*", grad=True) as acts:
        lab.model()(**lab.batch()).logits.square().mean().backward()
    lab.model().zero_grad()
    return lambda: {name: acts.grad(name) for name in acts}


@call
def capture_steps_with_a_cache(lab: Lab) -> Read:
    model, batch = lab.model(), lab.batch()
    with torch.no_grad(), al.capture(model, EVERYTHING, positions=-1) as acts:
        cache = model(**batch, use_cache=True).cache
        mask = torch.cat([batch["attention_mask"], batch["attention_mask"][:, -1:]], dim=1)
        model(batch["input_ids"][:, :1], attention_mask=mask, cache=cache)
    return lambda: dict(acts)


@call
def compiled_recorder_run_eagerly(lab: Lab) -> Read:
    """Inside a capture it runs eagerly: no compiler is needed, and the buffers are the same."""
    model, batch = lab.model(), lab.batch()
    rows, columns = batch["input_ids"].shape
    record = al.capture_compiled(
        model, [POST, "*pattern"], batch=rows, length=columns, cache_length=24, positions=-1
    )
    rates = al.capture_compiled(
        model, {POST: FiringRate()}, batch=rows, length=columns, cache_length=24
    )
    mask = torch.zeros(rows, 24, dtype=torch.long, device=lab.device)
    mask[:, :columns] = batch["attention_mask"]
    with torch.no_grad(), al.capture(model, "hook_embed"):
        for recorder in (record, rates):
            cache = StaticCache(model.config, max_cache_len=24)
            recorder(batch["input_ids"], attention_mask=mask, cache=cache)
    return lambda: [dict(record), dict(rates)]


REDUCERS: dict[str, Reducer] = {
    "FiringRate": FiringRate(first="exclude"),
    "Moments": Moments(),
    "ActiveCount": ActiveCount(keep=3),
    "Histogram": Histogram(),
    "Quantile": Quantile(),
    "TopK": TopK(3),
    "CoActivation": CoActivation([3, 17, 4]),
    "MeanCovariance": MeanCovariance(),
    "Grouped": Grouped(FiringRate(), 2),
}


def _reduces(reducer: Reducer) -> Callable[[Lab], Read]:
    def work(lab: Lab) -> Read:
        batch = lab.batch()
        with torch.no_grad(), al.capture(lab.model(), {POST: reducer}) as stats:
            if isinstance(reducer, Grouped):
                stats.set_labels(batch["input_ids"] % 3)
            lab.model()(**batch)
            lab.model()(**batch)
        return lambda: [stats[site] for site in stats]

    return work


CALLS |= {f"reduce with {name}": _reduces(reducer) for name, reducer in REDUCERS.items()}


@call
def reduce_while_generating(lab: Lab) -> Read:
    with al.capture(lab.model(), {POST: [TopK(2), FiringRate(first="exclude")]}) as stats:
        lab.model().generate(**lab.batch(), max_new_tokens=4, do_sample=False)
    return lambda: [stats[site] for site in stats]


@call
def statistics_saved_and_loaded(lab: Lab) -> Read:
    with torch.no_grad(), al.capture(lab.model(), {POST: FiringRate()}) as stats:
        lab.model()(**lab.batch())
    stats.save(lab.folder / "stats")
    again = al.reducers.load(lab.folder / "stats")
    both = stats.merge(again)
    return lambda: [both[site] for site in both]


@call
def head_statistics(lab: Lab) -> Read:
    asked = [Entropy(), FirstMass(), Offset(1), TopKeys(3), Distance()]
    with torch.no_grad(), al.attention.heads(lab.model(), asked) as stats:
        lab.model()(**lab.batch())
    return lambda: [stats.frame(), stats["top_3"].keys(layer=0)]


# -------------------------------------------------------------------------------- changing


@call
def intervene(lab: Lab) -> Read:
    model, batch = lab.model(), lab.batch()
    resid, post = "layers.2.hook_resid_post", "layers.1.mlp.hook_post"
    width = model.config.hidden_size
    direction = torch.linspace(-1, 1, width)
    with torch.no_grad():
        with al.capture(model, resid) as source:
            model(**batch)
        edits = [
            al.Ablate(post, units=[17], positions=[0, -1]),
            al.Ablate("layers.0.mlp.hook_post", "mean", 0.5, units=[1]),
            al.Ablate("layers.0.hook_mlp_out", "resample", seed=1),
            al.Scale("layers.0.self_attn.hook_z", 0.5, heads=[0]),
            al.Scale("layers.3.self_attn.hook_pattern", 0.9, heads=[1]),
            al.Clamp("layers.0.hook_resid_mid", -2.0, 2.0),
            al.Add("layers.1.hook_resid_pre", direction, alpha=0.1),
            al.ProjectOut("layers.1.hook_resid_mid", direction),
            al.TopK("layers.2.mlp.hook_post", 20),
            al.Threshold("layers.3.mlp.hook_post", 0.01),
            al.Cett("layers.1.mlp.hook_post", 0.01),
            al.Patch(resid, source, positions=2),
            al.Replace("layers.3.hook_resid_post", lambda x: x * 1.5),
        ]
        with al.intervene(model, edits):
            logits = model(**batch).logits
    return lambda: logits


@call
def intervene_with_tags_and_a_mask(lab: Lab) -> Read:
    model, batch = lab.model(), lab.batch()
    tags = batch["input_ids"] % 2
    edits = [al.Scale(POST, 2.0, tags=1), al.Scale("layers.0.hook_attn_out", 0.0, mask=tags == 0)]
    with torch.no_grad(), al.intervene(model, edits) as block:
        block.set_tags(tags)
        logits = model(**batch).logits
    return lambda: logits


def _difference(lab: Lab) -> Any:
    right, wrong = lab.tokenizer.convert_tokens_to_ids(["Ġsleep", "Ġsleeps"])
    return al.patching.LogitDifference(right, wrong)


@call
def patch_sweep(lab: Lab) -> Read:
    clean, corrupt = lab.batch(CLEAN), lab.batch(CORRUPT)
    found = [
        al.patch_sweep(lab.model(), corrupt, clean, _difference(lab), sites, over=over)
        for sites, over in (
            ("layers.*.hook_resid_post", "positions"),
            ("layers.*.self_attn.hook_z", "heads"),
        )
    ]
    return lambda: [[one.effects, one.base, one.source] for one in found]


@call
def patch_attribution(lab: Lab) -> Read:
    clean, corrupt = lab.batch(CLEAN), lab.batch(CORRUPT)
    found = [
        al.patch_attribution(lab.model(), corrupt, clean, _difference(lab), sites, over=over)
        for sites, over in (
            (POST, "units"),
            ("layers.*.hook_resid_post", "positions"),
            ("layers.*.self_attn.hook_pattern", ("positions", "heads")),
        )
    ]
    return lambda: [[one.effects, one.base, one.source] for one in found]


SITE = "layers.1.hook_resid_post"


def _labels() -> Any:
    return al.neurons.labels.demo("review", n=12)


@call
def detect_a_concept(lab: Lab) -> Read:
    found = al.directions.detect(
        lab.model(),
        lab.tokenizer,
        _labels(),
        "negated",
        sites=["hook_embed", SITE],
        shuffles=2,
        progress=False,
    )
    return lambda: [found.frame(), [one.vectors for one in found.directions]]


@call
def steer_and_save_a_direction(lab: Lab) -> Read:
    model = lab.model()
    found = al.directions.mean_difference(
        model, lab.tokenizer, _labels(), "negated", site=SITE, shuffles=2, progress=False
    )
    again = al.directions.load(found.save(lab.folder / "d.safetensors"), model)
    curve = al.directions.steer(
        model,
        lab.tokenizer,
        again,
        CORRUPT,
        target="sleep",
        versus="sleeps",
        sources=CLEAN,
        neutral=TEXTS,
        strengths=[1.0],
        progress=False,
    )
    return lambda: [found.vectors, found.scale, curve.frame(), curve.whole]


@call
def other_ways_to_find_directions(lab: Lab) -> Read:
    model, words = lab.model(), ("dog", "cat", "bird", "goat")
    base, other = [f"The {w}" for w in words], [f"The {w}s" for w in words]
    more = {"site": SITE, "progress": False}
    pairs = al.directions.contrast_pca(model, lab.tokenizer, other, base, shuffles=2, **more)
    trained = al.directions.distributed_alignment(
        model, lab.tokenizer, base, other, target="sleep", versus="sleeps", steps=2, **more
    )
    parts = [al.directions.neuron(model, 1, 7, part=part) for part in ("writes", "reads")]
    return lambda: [[one.vectors, one.scale] for one in (pairs, trained, *parts)]


@call
def labels_that_heads_predict(lab: Lab) -> Read:
    found = [
        al.directions.predicted_labels(lab.model(head), lab.tokenizer, TEXTS)
        for head in ("sequence", "token", "qa")
    ]
    return lambda: [dict(one.spans) for one in found]


@call
def head_ablation_and_patching(lab: Lab) -> Read:
    model, clean, corrupt = lab.model(), lab.batch(CLEAN), lab.batch(CORRUPT)
    found = [
        al.attention.ablate_heads(model, clean, _difference(lab), value="mean"),
        al.attention.patch_heads(
            model, corrupt, clean, _difference(lab), layers=[1], by_position=True
        ),
    ]
    return lambda: [[one.effects, one.base, one.source] for one in found]


# -------------------------------------------------------------------------------- lenses and heads


@call
def detected_heads(lab: Lab) -> Read:
    found = al.attention.detect(lab.model(), lab.tokenizer, TEXTS, repeats=2, period=9)
    return lambda: found.frame()


@call
def circuits_of_heads(lab: Lab) -> Read:
    model = lab.model()
    ov, qk = al.attention.ov(model, 1, 2, tokens=True), al.attention.qk(model, 2, 0)
    found = [ov.norm(), ov.trace(), qk.norm(), qk.dense(), (ov @ ov).norm()]
    scores = [al.attention.composition(model, kind).scores for kind in ("q", "k", "v")]
    return lambda: [found, scores]


@call
def logit_lens(lab: Lab) -> Read:
    found = al.lens.logit_lens(lab.model(), lab.tokenizer, lab.batch(), answers=[" sleep", " dog"])
    some = al.lens.logit_lens(
        lab.model("token"), lab.tokenizer, TEXTS, positions=-1, sites="layers.*.hook_resid_post"
    )
    return lambda: [[one.ranks, one.ties, one.logits, one.top_ids] for one in (found, some)]


@call
def logit_attribution(lab: Lab) -> Read:
    found = al.lens.attribute(
        lab.model(), lab.tokenizer, lab.batch(), " sleep", positions=[0, -1], by="neuron"
    )
    return lambda: [found.parts, found.heads, found.neurons, found.logit, found.scale]


@call
def decomposed_stream(lab: Lab) -> Read:
    found = al.lens.decompose(lab.model(), lab.tokenizer, TEXTS, by="head", positions=None)
    return lambda: [found.parts, found.stream, found.scale]


@call
def tuned_lens(lab: Lab) -> Read:
    model = lab.model()
    site = "layers.1.hook_resid_post"
    lens = al.lens.tune(model, lab.tokenizer, TEXTS, sites=site, steps=2, seed=1)
    lens.save(lab.folder / "lens")
    again = al.lens.TunedLens.load(lab.folder / "lens", model)
    found = al.lens.logit_lens(model, lab.tokenizer, TEXTS, sites=site, lens=again)
    return lambda: [lens.maps, lens.shifts, again.frame(), found.logits]


@call
def jacobian_lens(lab: Lab) -> Read:
    model = lab.model()
    site = "layers.1.hook_resid_post"
    lens = al.lens.fit_jacobian(model, lab.tokenizer, TEXTS, sites=site, skip=1, seed=1)
    found = al.lens.logit_lens(model, lab.tokenizer, TEXTS, sites=site, lens=lens)
    return lambda: [lens.maps, lens.frame(), found.logits]


@call
def sparse_decode_is_refused(lab: Lab) -> Read:
    """It finds the active rows with the host; on a device that would wait at every layer."""
    said = ""
    try:
        with al.sparse_decode(lab.model()):
            pass
    except ValueError as error:
        said = str(error)
    assert bool(said) == (lab.device != "cpu"), said
    return lambda: None


# -------------------------------------------------------------------------------- measuring


@call
def sparsity_in_the_pass(lab: Lab) -> Read:
    report = al.sparsity.measure(
        lab.model(), lab.tokenizer, _passages(), analyses=["all", "low_rank"], context=32
    )
    return lambda: [report.headline, *(report.frames[name] for name in _tables(report))]


@call
def sparsity_after_the_pass(lab: Lab) -> Read:
    report = al.sparsity.measure(
        lab.model(), lab.tokenizer, _passages()[:2], analyses=["further"], context=32
    )
    return lambda: [report.frames[name] for name in ("cett", "cett_ppl", "truncation")]


@call
def exemplars_of_all_neurons(lab: Lab) -> Read:
    model = lab.model()
    run = al.neurons.exemplars(model, lab.tokenizer, _passages(), context=32, batch_size=4)
    units = range(0, run.d_mlp, 7)
    best = [run.top(1, unit) for unit in units]
    return lambda: [
        run.headline,
        [[one.window for one in several] for several in best],
        [run.histogram(0, unit)[1] for unit in units],
        [run.negatives(1, unit) for unit in units],
        run.rates(1),
        run.maxima(0),
        run.values(model, 1, 7, [0, 3]),
    ]


def _passages() -> list[str]:
    from arcee_lab.demo import stream

    source = stream(None, seed=0, split="test")
    return [next(source).text for _ in range(6)]


def _tables(report: Any) -> list[str]:
    return ["layers", "neurons", "tokens", "thresholds", *report.results]


@call
def dump_and_resume(lab: Lab) -> Read:
    config = DumpConfig(sites=(POST, "hook_embed"), shard_tokens=32, context=16, batch_size=2)
    model, texts = lab.model(), _passages()[:3]
    seen = []

    def fail(module: nn.Module, args: Any, output: Any) -> None:
        seen.append(1)
        if len(seen) == 3:
            # Two shards are with the writers: how many are kept must not depend on their speed.
            until = time.monotonic() + 60
            while len(list(lab.folder.glob("store/progress/*.json"))) < 2:
                assert time.monotonic() < until
                time.sleep(0.01)
            raise MemoryError("stopped by the test")

    handle = model.model.layers[0].register_forward_hook(fail)
    try:
        al.dump.write(model, lab.tokenizer, texts, lab.folder / "store", config)
        raise AssertionError("nothing stopped it")
    except MemoryError:
        pass
    handle.remove()
    al.dump.write(model, lab.tokenizer, texts, lab.folder / "store", config)
    kept = sorted(Path(lab.folder / "store").rglob("*.safetensors"))
    assert kept
    return lambda: [[file.name, file.read_bytes()] for file in kept]


@call
def evaluate_the_language_model(lab: Lab) -> Read:
    return _evaluated(lab, TASKS)


@call
def evaluate_exactly(lab: Lab) -> Read:
    return _evaluated(lab, TASKS[:1], exact=True)


@call
def evaluate_three_heads(lab: Lab) -> Read:
    heads = {head: lab.model(head) for head in ("sequence", "token", "qa")}
    return _evaluated(lab, HEAD_TASKS, heads=heads)


def _evaluated(lab: Lab, tasks: list[str], **options: Any) -> Read:
    result = al.evals.run(
        lab.model(), lab.tokenizer, tasks=tasks, limit=3, draws=20, progress=False, **options
    )
    return lambda: result.frame()


@call
def answer(lab: Lab) -> Read:
    context = "The dogs near the barn sleep . The lamp above the doors finds the red king ."
    found = al.answer(lab.model("qa"), lab.tokenizer, "Who sleeps ?", context, top_k=3)
    return lambda: [[one.text, one.start, one.end, one.score] for one in found]


# -------------------------------------------------------------------------------- neurons


@call
def effects_of_neurons(lab: Lab) -> Read:
    found = al.neurons.effects(lab.model(), layers=-1, top=3)
    return lambda: [found.promoted_by, found.suppressed_by, found.read_by, found.variance]


@call
def attribute_logits_to_neurons(lab: Lab) -> Read:
    found = al.neurons.logit_attribution(lab.model(), lab.batch(), layers=[1, 3])
    return lambda: found.values


@call
def attribute_a_direction_to_neurons(lab: Lab) -> Read:
    model = lab.model()
    with al.capture(model, "layers.1.mlp.hook_post") as acts, torch.no_grad():
        model(**lab.batch())
    down = model.model.layers[1].mlp.down_proj.weight.detach()
    found = al.neurons.attribute_neurons(acts["layers.1.mlp.hook_post"], down, down[:, 0])
    return lambda: found


@call
def find_units(lab: Lab) -> Read:
    labels = al.neurons.labels.demo("news", n=12)
    settings = {"names": "person", "shuffles": 2, "untrained": False, "progress": False}
    found = al.neurons.find(lab.model(), lab.tokenizer, labels, **settings)
    return lambda: found["person"].best.f1


@call
def ablate_neurons(lab: Lab) -> Read:
    units = [(0, 3), (3, 594), [(0, 5), (1, 7)]]
    found = [
        al.neurons.ablate(lab.model(), lab.tokenizer, units, TEXTS, how=how, progress=False)
        for how in ("zero", "mean", "resample")
    ]
    return lambda: [[one.nll, one.kl, one.base] for one in found]


@call
def ablate_neurons_for_a_class(lab: Lab) -> Read:
    model, units = lab.model("sequence"), [(0, 3), (3, 594)]
    found = al.neurons.ablate_target(model, lab.tokenizer, units, TEXTS, "good", progress=False)
    return lambda: [found.base, found.values]


@call
def estimate_ablations(lab: Lab) -> Read:
    found = al.neurons.ablation_estimate(lab.model(), lab.tokenizer, TEXTS, how="mean")
    return lambda: found.change


def _moved(lab: Lab) -> tuple[Any, Any]:
    """A model, and a copy whose last MLP writes more."""
    base, tuned = (copy.deepcopy(lab.model()) for _ in range(2))  # others run the model too
    with torch.no_grad():
        tuned.model.layers[3].mlp.down_proj.weight *= 1.5
    return base, tuned


@call
def compare_neurons(lab: Lab) -> Read:
    found = al.neurons.diff(*_moved(lab), lab.tokenizer, TEXTS, top=3, progress=False)
    return lambda: [found.written, found.reads, found.writes, found.effects, found.gained]


@call
def transplant_neurons(lab: Lab) -> Read:
    base, tuned = _moved(lab)
    batch, metric = lab.batch(), _difference(lab)
    with al.neurons.transplant(base, tuned, [(3, 618)]), torch.no_grad():
        logits = base(**batch).logits
    patches = al.neurons.transplant_activations(tuned, batch, [(3, 618)])
    with al.intervene(base, patches), torch.no_grad():
        patched = base(**batch).logits
    found = al.neurons.transplant_attribution(base, tuned, batch, metric)
    curve = al.neurons.transplant_curve(base, tuned, batch, metric, [(3, 618)], progress=False)
    return lambda: [logits, patched, found.effects, curve.values]


@call
def trace_with_nnsight(lab: Lab) -> Read:
    """Last: nnsight replaces Tensor.backward for good."""
    wrapped = al.to_nnsight(lab.model(), lab.tokenizer)
    with torch.no_grad(), wrapped.trace(lab.batch()):
        post = wrapped.model.layers[1].mlp.hook_post.output.save()
        logits = wrapped.hook_logits.output.save()
    return lambda: [post, logits]


# -------------------------------------------------------------------------------- loading


def load_two_heads(lab: Lab) -> Read:
    """With the self-check, and before anything is wrapped."""
    models = [al.load("demo", head=head, device=lab.device)[0] for head in ("causal", "qa")]
    states = [dict(model.state_dict()) for model in models]
    return lambda: [[model.model.rotary_emb.inv_freq for model in models], states]


@call
def explore(lab: Lab) -> Read:
    """What the explorer sends to a browser; it is on the host whatever the device is."""
    explorer = al.explore(lab.model(), lab.tokenizer, selection=["L2/N681"])
    sent: list[Any] = []
    explorer.send = lambda content, buffers=None: sent.append((content, buffers or []))
    text = {"text": "The dogs near the door"}
    for number, (kind, fields) in enumerate(
        {
            "text": {**text, "names": ["L2/N681", "L1/H3"], "at": -1},
            "next": {**text, "names": ["L2/N681", "L0/H1"], "factor": 0.5},
            "attention": text,
            "lens": text,
            "made": {**text, "at": 3},
        }.items()
    ):
        explorer._on_message(None, {"id": f"a-{number}", "kind": kind, **fields}, [])
    values = torch.frombuffer(bytearray(sent[0][1][0]), dtype=torch.float32)
    rows = torch.tensor([row[1:] for row in sent[1][0]["rows"]])
    weights = torch.frombuffer(bytearray(sent[2][1][0]), dtype=torch.uint8).float() / 255
    ranks = torch.frombuffer(bytearray(sent[3][1][0]), dtype=torch.int32)
    logit = torch.tensor(sent[4][0]["logit"])
    return lambda: [values, rows, weights, ranks, logit]
