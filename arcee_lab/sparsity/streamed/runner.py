"""The pass: every window through the backbone once, every layer shown to every analysis.

Only integers are summed, so batches may be dealt out to ranks and a run may be cut in two: the
numbers stay the same to the last bit, as long as each forward computes the same.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from arcee_lab.errors import ModelError
from arcee_lab.hooks.restore import without_compiled_code
from arcee_lab.hooks.threads import OneThread
from arcee_lab.model.modeling import ArceeForCausalLM
from arcee_lab.model.wrappers.offloaded import device_of
from arcee_lab.runs.interrupt import GracefulInterrupt
from arcee_lab.runs.progress import progress_bar, shown
from arcee_lab.runs.ranks import Ranks
from arcee_lab.sparsity.core import every_token, kept_tokens, window_means
from arcee_lab.sparsity.core.state import CountedTokens, Shape, State, combine
from arcee_lab.sparsity.sampled.mlps import Mlp
from arcee_lab.sparsity.streamed import resume_files
from arcee_lab.sparsity.streamed.analysis import Analysis, LayerBatch
from arcee_lab.sparsity.streamed.schedule import Forward, PassPlan

CORE = "core"
_LOSSES_AT_ONCE = 256  # tokens whose logits exist together
_SAVE_EVERY = 60.0  # seconds between two saved states


@dataclass(eq=False)
class Pass:
    """One pass over a text.

    Attributes:
        model: The model, outside of any wrapper.
        mlps: Its MLPs.
        plan: The forwards.
        shape: What fixes the shapes of the states.
        analyses: By name; the core is always there in addition.
        norms: ‖w_i‖ of every neuron, on the model's device.
        states: What has been counted, by analysis.
        costs: Seconds that the host spent on each analysis, and on the whole in "pass".
        done: How many of this rank's forwards are in the states.
        whole: Whether they are in them as a whole: not while one is being counted.
    """

    model: Any
    mlps: Sequence[Mlp]
    plan: PassPlan
    shape: Shape
    analyses: dict[str, Analysis]
    norms: Float[Tensor, "layer d_mlp"]
    states: dict[str, State] = field(default_factory=dict)
    costs: dict[str, float] = field(default_factory=dict)
    done: int = 0
    whole: bool = True

    def __post_init__(self) -> None:
        self.states = new_states(self.shape, self.analyses, device_of(self.model))
        self.costs = dict.fromkeys(("pass", CORE, *self.analyses), 0.0)
        self._drawn = self.plan.drawn(kept_tokens.rows(self.shape.layers, self.shape.d_mlp))

    def run(
        self, ranks: Ranks, *, resume: Path | None = None, progress: bool | None = None
    ) -> dict[str, State]:
        """Runs this rank's forwards and puts the states of all ranks together.

        Args:
            ranks: This process among those of the job.
            resume: File that the state is saved to now and then and at the end, and continued
                from.
            progress: Whether to show a bar with tokens/s on stderr.

        Returns:
            The states of the whole text, on the CPU, on every rank.

        Raises:
            ValueError: NaN activations, or a resume file that is damaged or of another run.
            KeyboardInterrupt: Ctrl-C, after the forward in which it was pressed; a second one stops
                at once. `done` and `whole` say what is in the states.
        """
        mine = list(ranks.share(range(len(self.plan.batches))))
        run = {} if resume is None else self.identity(ranks)
        self.done = 0 if resume is None else self._continue(resume, run, mine)
        sizes = [sum(len(self.plan.windows[row]) for row in self.plan.batches[i][0]) for i in mine]
        bar = progress_bar(
            total=sum(sizes),
            initial=sum(sizes[: self.done]),
            unit="tok",
            unit_scale=True,
            show=shown(progress) and ranks.first,
        )
        saved = time.perf_counter()
        interrupt = GracefulInterrupt("the current forward")
        with torch.no_grad(), without_compiled_code(), bar, interrupt:
            for forward in self.plan.forwards(mine[self.done :]):
                self._forward(forward)
                self.done += 1
                bar.update(sizes[self.done - 1])
                last = interrupt.requested or self.done == len(mine)
                now = time.perf_counter()
                if last or (resume is not None and now - saved >= _SAVE_EVERY):
                    self._refuse_nan()  # waits for the device
                    self.costs["pass"] += time.perf_counter() - saved
                    if resume is not None:
                        self._save(resume, run)
                    saved = time.perf_counter()
                if interrupt.requested:
                    raise KeyboardInterrupt
        return self._gathered(ranks)

    def so_far(self) -> dict[str, State]:
        """The states of what this rank has counted, on the CPU, as if there were no more."""
        return self._finished(
            {
                name: {key: x.cpu() for key, x in state.items()}
                for name, state in self.states.items()
            }
        )

    def identity(self, ranks: Ranks) -> dict[str, Any]:
        """What makes this pass this pass; see `resume_files`."""
        return resume_files.identity(self.model, self.plan, list(self.analyses), ranks)

    # ------------------------------------------------------------------ one forward

    def _forward(self, forward: Forward) -> None:
        device = device_of(self.model)
        shown = self.analyses if forward.in_sample else {}
        places: dict[torch.device, tuple[Tensor, Tensor, Tensor]] = {}
        active: list[Tensor] = []
        inputs: list[Tensor] = []
        thread = OneThread("a measurement on it")
        kept, slots = self._drawn.rows_and_slots(forward.tokens)
        kept_places = forward.tokens.places[torch.from_numpy(kept)]
        kept_at = window_means.places(slots, device)

        def there(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            # The layers of one model may be on several devices.
            if x.device not in places:
                places[x.device] = (
                    forward.tokens.places.to(x.device, non_blocking=True),
                    forward.first.to(x.device, non_blocking=True),
                    kept_places.to(x.device, non_blocking=True),
                )
            return places[x.device]

        def rows(x: Tensor) -> Tensor:
            return x.reshape(-1, x.shape[-1]).index_select(0, there(x)[0]).to(device)

        def saw_input(mlp: Mlp, module: object, args: tuple[Tensor, ...], out: Tensor) -> None:
            if thread.own():
                inputs.append(rows(args[0]))

        def saw_output(mlp: Mlp, module: object, args: tuple[Tensor, ...], out: Tensor) -> None:
            if not thread.own():
                return
            post = args[0].reshape(-1, args[0].shape[-1])
            counted, first, some = there(post)
            self.whole = False
            with self._timed(CORE):
                active.append(
                    every_token.add_layer(self.states[CORE], mlp.layer, post, counted, first)
                )
                kept_tokens.add_layer(self.states[CORE], mlp.layer, post, some, kept_at)
            if not shown:
                return
            seen = LayerBatch(
                layer=mlp.layer,
                mlp=mlp,
                post=rows(args[0]),
                active=active[-1],
                x=inputs[-1],
                y=rows(out),
                before=inputs[-2] if len(inputs) > 1 else None,
                norms=self.norms[mlp.layer],
                tokens=forward.tokens,
            )
            for name, analysis in shown.items():
                with self._timed(name):
                    analysis.layer(self.states[name], seen)

        with ExitStack() as undo:
            for mlp in self.mlps:
                if shown:
                    undo.callback(mlp.up.register_forward_hook(_bound(saw_input, mlp)).remove)
                undo.callback(mlp.down.register_forward_hook(_bound(saw_output, mlp)).remove)
            # The backbone alone: the head's logits are the largest tensor and rarely needed.
            output = self.model.base_model(
                input_ids=forward.input_ids.to(device),
                attention_mask=forward.attention_mask.to(device),
                use_cache=False,
            )
        assert len(active) == len(self.mlps), "an MLP did not run, or ran twice"
        together = torch.stack(active, 1)
        with self._timed(CORE):
            every_token.add_batch(self.states[CORE], forward.tokens, len(forward.first), together)
            kept_tokens.add_batch(self.states[CORE], forward.tokens, kept, kept_at)
        losses = None
        for name, analysis in shown.items():
            with self._timed(name):
                if name == "losses":
                    losses = self._losses(output[0], forward.tokens)
                analysis.batch(self.states[name], forward.tokens, together, losses)
        self.whole = True

    def _losses(self, hidden: Tensor, tokens: CountedTokens) -> Float[Tensor, " token"] | None:
        if not isinstance(self.model, ArceeForCausalLM):
            return None
        hidden = hidden.reshape(-1, hidden.shape[-1])
        next_ids = window_means.places(tokens.next_ids, hidden.device)
        losses = []
        for places, ids in zip(
            tokens.places.to(hidden.device).split(_LOSSES_AT_ONCE),
            next_ids.split(_LOSSES_AT_ONCE),
            strict=True,
        ):
            logits = self.model.lm_head(hidden.index_select(0, places))
            logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
            loss = F.cross_entropy(logits, ids.clamp(min=0), reduction="none")
            losses.append(torch.where(ids < 0, torch.nan, loss))
        return torch.cat(losses).to(device_of(self.model))

    def _timed(self, name: str) -> "_Clock":
        return _Clock(self.costs, name)

    # ------------------------------------------------------------------ all of it

    def _refuse_nan(self) -> None:
        for layer, nan in enumerate(self.states[CORE]["nan"].tolist()):
            if nan:
                raise ModelError(
                    f"the activations of {self.mlps[layer].name} hold NaN, so nothing counted "
                    "above it is true; load the model in float32, or check its weights."
                )

    def _gathered(self, ranks: Ranks) -> dict[str, State]:
        flat = {
            f"{name}/{key}": x for name, state in self.states.items() for key, x in state.items()
        }
        flat |= {f"seconds/{name}": torch.tensor(cost) for name, cost in self.costs.items()}
        alone = [{name: x.cpu() for name, x in flat.items()}]
        parts = [_nested(part) for part in (ranks.gather(flat) if ranks.size > 1 else alone)]
        seconds = [part.pop("seconds") for part in parts]
        # Ranks work side by side: the pass took as long as the slowest, an analysis all of theirs.
        for name in self.costs:
            spent = [float(each[name]) for each in seconds]
            self.costs[name] = max(spent) if name == "pass" else sum(spent)
        return self._finished({name: combine([part[name] for part in parts]) for name in parts[0]})

    def _finished(self, states: dict[str, State]) -> dict[str, State]:
        return {CORE: every_token.finished(states[CORE])} | {
            name: analysis.finished(states[name]) for name, analysis in self.analyses.items()
        }

    def _save(self, path: Path, run: dict[str, Any]) -> None:
        flat = {
            f"{name}/{key}": x for name, state in self.states.items() for key, x in state.items()
        }
        resume_files.write(path, run, {"done": self.done, "costs": self.costs}, flat)

    def _continue(self, path: Path, run: dict[str, Any], mine: Sequence[int]) -> int:
        """Takes up a saved state; gives how many of this rank's batches are in it."""
        saved = resume_files.read(path, run)
        if saved is None:
            return 0
        about, flat = saved
        done = resume_files.check_done(path, about.get("done"), len(mine))
        costs = resume_files.check_costs(path, about.get("costs"), set(self.costs))
        resume_files.check_states(path, flat, self.states, self.plan.part(mine[:done]))
        for name, tensor in flat.items():
            analysis, key = name.split("/", 1)
            self.states[analysis][key].copy_(tensor)
        self.costs.update(costs)
        return done


def new_states(
    shape: Shape, analyses: dict[str, Analysis], device: torch.device
) -> dict[str, State]:
    """The states before any token; on torch's meta device they tell their size and take none."""
    states = {CORE: every_token.new_state(shape, device)}
    return states | {name: analysis.init(shape, device) for name, analysis in analyses.items()}


class _Clock:
    """Adds the time that a block took to a table. Work that a GPU still has to do is not in it."""

    def __init__(self, costs: dict[str, float], name: str):
        self._costs, self._name = costs, name

    def __enter__(self) -> None:
        self._began = time.perf_counter()

    def __exit__(self, *error: object) -> None:
        self._costs[self._name] += time.perf_counter() - self._began


def _bound(saw: Callable[..., None], mlp: Mlp) -> Callable[..., None]:
    return lambda module, args, out: saw(mlp, module, args, out)


def _nested(flat: dict[str, Tensor]) -> dict[str, State]:
    nested: dict[str, State] = {}
    for path, tensor in flat.items():
        name, key = path.split("/", 1)
        nested.setdefault(name, {})[key] = tensor
    return nested
