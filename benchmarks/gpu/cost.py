"""Captures, reducers and patterns against the plain forward, at AFM-4.5B's full shape."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

import arcee_lab as al
from arcee_lab import reducers
from benchmarks.gpu import lenses, shapes
from benchmarks.gpu.place import Place
from benchmarks.gpu.rows import Found, Row

POST = "layers.*.mlp.hook_post"
# Times the plain forward; a capture writes what the forward writes anyway, or less.
_AIMS = {"capture": 1.05, "FiringRate": 1.10, "reducer": 1.5, "pattern": 2.0, "attribution": 8.0}
_AIMS |= {"steering": 1.05}


class Large:
    """AFM's shape on the card, made once, and the time of its plain forward."""

    def __init__(self, place: Place):
        self.place = place
        self._model: Any = None
        self._plain: dict[tuple[int, int], float] = {}

    @property
    def model(self) -> Any:
        """The model."""
        if self._model is None:
            self._model = shapes.large(self.place)
        return self._model

    def forget(self) -> None:
        """Gives the memory back."""
        self._model = None

    def inputs(self, rows: int, length: int) -> dict[str, Any]:
        """A batch without padding, of which the forward gives the last logits."""
        rows, length = shapes.size(self.place, rows, length)
        # Only the last logits: those of all tokens would take more than the model.
        return shapes.batch(self.model, rows, length) | {"logits_to_keep": 1, "use_cache": False}

    @torch.no_grad()
    def plain(self, rows: int, length: int, found: Found) -> float:
        """Seconds of the plain forward, noted with the least that it could take."""
        inputs = self.inputs(rows, length)
        tokens = inputs["input_ids"].numel()
        parameters = sum(p.numel() for p in self.model.parameters())
        least = 2 * parameters * tokens / self.place.flops
        found.limit = f"forward: {2 * parameters * tokens:.2e} FLOPs, {least * 1e3:.1f} ms at peak"
        if (rows, length) not in self._plain:
            self._plain[rows, length] = self.place.seconds(lambda: self.model(**inputs))
        found.measured["plain forward, s"] = self._plain[rows, length]
        found.measured["tokens"] = tokens
        return self._plain[rows, length]


def _measured(
    large: Large,
    found: Found,
    work: Callable[[], Any],
    *,
    plain: float,
    idle: int | None,
    aim: float,
) -> None:
    """Times a call; transformers itself waits now and then, so that is counted separately."""
    place = large.place
    waits, peak = place.waits(work), place.peak(work)
    seconds = place.seconds(work, repeats=3)
    found.measured |= {"s": seconds, "times the forward": seconds / plain}
    found.measured |= {"host waits": waits, "of the forward itself": idle, "peak bytes": peak}
    found.aim = f"<= {aim} x the forward, and no host wait beyond its own"
    assert (waits or 0) <= (idle or 0), f"the host waited {waits} times, in the forward {idle}"
    found.want(place.dry or seconds <= aim * plain, f"{seconds / plain:.2f} x the forward")


@torch.no_grad()
def _capture(place: Place, found: Found, *, large: Large) -> None:
    """All neurons of all layers, held; the logits are those without it, bit for bit."""
    model, inputs = large.model, large.inputs(4, 1024)
    plain = large.plain(4, 1024, found)
    want = model(**inputs).logits

    def work() -> Any:
        with al.capture(model, POST) as acts:
            logits = model(**inputs).logits
        return acts, logits

    acts, logits = work()
    assert torch.equal(logits, want), "a capture changed the logits"
    layer = model.model.layers[-1].mlp
    name = f"layers.{len(model.model.layers) - 1}.mlp.hook_post"
    seen: list[Any] = []
    handle = layer.down_proj.register_forward_pre_hook(lambda m, args: seen.append(args[0]))
    model(**inputs)
    handle.remove()
    assert torch.equal(acts[name], seen[0]), "what was captured is not what down_proj reads"
    held = sum(x.numel() * x.element_size() for x in acts.values())
    found.measured["captured bytes"] = held
    acts.take(), seen.clear()
    del acts
    idle = place.waits(lambda: model(**inputs))
    _measured(large, found, work, plain=plain, idle=idle, aim=_AIMS["capture"])


@torch.no_grad()
def _capture_to_host(place: Place, found: Found, *, large: Large) -> None:
    """One layer's neurons copied to pinned memory while the forward runs."""
    model, inputs = large.model, large.inputs(4, 1024)
    plain = large.plain(4, 1024, found)

    def work() -> Any:
        with al.capture(model, "layers.0.mlp.hook_post", device="cpu") as acts:
            model(**inputs)
        return acts["layers.0.mlp.hook_post"]

    with al.capture(model, "layers.0.mlp.hook_post") as there:
        model(**inputs)
    assert torch.equal(work(), there["layers.0.mlp.hook_post"].cpu()), "the copy differs"
    seconds = place.seconds(work, repeats=3)
    found.measured |= {"s": seconds, "times the forward": seconds / plain}
    found.aim = "equal to what is on the card"


def _reducers() -> dict[str, tuple[str, reducers.Reducer]]:
    units = list(range(16))
    return {
        "FiringRate": (POST, reducers.FiringRate(first="exclude")),
        "Moments": (POST, reducers.Moments()),
        "ActiveCount": (POST, reducers.ActiveCount()),
        "Histogram": (POST, reducers.Histogram()),
        "Quantile": (POST, reducers.Quantile()),
        "TopK": (POST, reducers.TopK(10)),
        "CoActivation": (POST, reducers.CoActivation(units)),
        "Grouped": (POST, reducers.Grouped(reducers.FiringRate(), 4)),
        "MeanCovariance": ("layers.*.hook_resid_post", reducers.MeanCovariance()),
    }


@torch.no_grad()
def _reduce(place: Place, found: Found, *, large: Large, name: str) -> None:
    """On the card with no host wait; one layer against the same update on captured values."""
    site, reducer = _reducers()[name]
    model, inputs = large.model, large.inputs(4, 1024)
    plain = large.plain(4, 1024, found)
    labels = inputs["input_ids"] % 4

    def work() -> Any:
        with al.capture(model, {site: reducer}) as stats:
            if isinstance(reducer, reducers.Grouped):
                stats.set_labels(labels)
            model(**inputs)
        return stats

    one = site.replace("*", "0")
    with al.capture(model, one) as acts:
        stats = work()
        model(**inputs)
    mask = inputs["attention_mask"].bool()
    if reducer.first == "exclude":
        mask = mask & (mask.cumsum(1) > 1)
    given = {"positions": inputs["attention_mask"].cumsum(1) - 1, "seen": 0, "labels": labels}
    values = acts[one][0] if isinstance(acts[one], list) else acts[one]
    again = reducer.init(tuple(values.shape[2:]), values.device)
    reducer.update(again, values, mask, **{what: given[what] for what in reducer.asks})
    for what, tensor in stats.states[one][0].items():
        torch.testing.assert_close(tensor, again[what], rtol=1e-10, atol=1e-12)
    del acts, values, again, stats
    aim = _AIMS["FiringRate" if name == "FiringRate" else "reducer"]
    idle = place.waits(lambda: model(**inputs))
    _measured(large, found, work, plain=plain, idle=idle, aim=aim)
    read = _bytes_read(model, inputs, site)
    found.limit += f"; values read once more: {read / large.place.bandwidth * 1e3:.1f} ms"


def _bytes_read(model: nn.Module, inputs: dict[str, Any], site: str) -> int:
    rows, length = inputs["input_ids"].shape
    return al.plan(model, site, batch=rows, length=length).bytes


@torch.no_grad()
def _pattern(place: Place, found: Found, *, large: Large) -> None:
    """All heads of all layers next to the fast kernel; rows add up to 1."""
    model, inputs = large.model, large.inputs(1, 1024)
    plain = large.plain(1, 1024, found)

    def work() -> Any:
        with al.capture(model, "*hook_pattern") as acts:
            logits = model(**inputs).logits
        return acts, logits

    acts, logits = work()
    assert torch.equal(logits, model(**inputs).logits), "reading patterns changed the logits"
    sums = acts["layers.0.self_attn.hook_pattern"].float().sum(-1)
    # In bf16 each weight is off by 2^-9 of itself, and so is their sum; twice that for safety.
    assert float((sums - 1).abs().max()) <= 2**-8, "rows of a pattern do not add up to 1"
    del acts, logits
    idle = place.waits(lambda: model(**inputs))
    _measured(large, found, work, plain=plain, idle=idle, aim=_AIMS["pattern"])


def _attribution(place: Place, found: Found, *, large: Large) -> None:
    """Two forwards and a backward, for every neuron at once."""
    model = large.model
    inputs = {k: v for k, v in large.inputs(1, 256).items() if isinstance(v, torch.Tensor)}
    other = inputs | {"input_ids": inputs["input_ids"].roll(1, dims=1)}
    plain = large.plain(1, 256, found)
    metric = al.patching.LogitDifference(3, 4)

    def work() -> Any:
        return al.patch_attribution(model, inputs, other, metric, POST, over="units")

    effects = work()
    assert bool(effects.effects.isfinite().all()), "effects are not finite"
    seconds = place.seconds(work, repeats=3)
    found.measured |= {"s": seconds, "times the forward": seconds / plain}
    found.measured |= {"host waits": place.waits(work), "peak bytes": place.peak(work)}
    aim = _AIMS["attribution"]
    found.aim = f"<= {aim} x the forward"
    found.want(place.dry or seconds <= aim * plain, f"{seconds / plain:.2f} x the forward")


@torch.no_grad()
def _steering(place: Place, found: Found, *, large: Large) -> None:
    """A direction added at every token of one layer, next to the plain forward."""
    model, inputs = large.model, large.inputs(1, 1024)
    plain = large.plain(1, 1024, found)
    direction = al.directions.neuron(model, 1, 3)
    edit = direction.add(2.0)

    def work() -> Any:
        with al.capture(model, direction.site) as acts, al.intervene(model, edit):
            model(**inputs)
        return acts

    with al.capture(model, direction.site) as before:
        model(**inputs)
    step = (2.0 * direction.step).to(before[direction.site])
    assert torch.equal(work()[direction.site], before[direction.site] + step), "another step"
    idle = place.waits(lambda: model(**inputs))
    _measured(large, found, work, plain=plain, idle=idle, aim=_AIMS["steering"])


@torch.no_grad()
def trace(large: Large, path: Any) -> None:
    """A profiler trace of one forward with a capture and a reducer in it."""
    from torch.profiler import ProfilerActivity, profile

    model, inputs = large.model, large.inputs(1, 1024)
    kinds = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (not large.place.dry)
    rates = {POST: reducers.FiringRate()}
    with profile(activities=kinds) as found, al.capture(model, rates), al.capture(model, POST):
        model(**inputs)
    found.export_chrome_trace(str(path))


def rows(large: Large) -> list[Row]:
    """Captures and reducers are core."""
    return [
        Row("capture of all neurons", partial(_capture, large=large), core=True),
        *(
            Row(f"reducer {name}", partial(_reduce, large=large, name=name), core=True)
            for name in _reducers()
        ),
        Row("capture onto the host", partial(_capture_to_host, large=large)),
        Row("pattern of all heads", partial(_pattern, large=large)),
        Row("patch_attribution", partial(_attribution, large=large), packages=("pandas",)),
        Row("steering by a direction", partial(_steering, large=large)),
        *lenses.rows(large),
    ]
