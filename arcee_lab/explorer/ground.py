"""What the explorer stands on: a model, its tokenizer, and what was found about its neurons."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from arcee_lab.data.tokenization import token_ids
from arcee_lab.errors import SettingError, TextError, WrongType
from arcee_lab.explorer.neuron_table import NeuronTable
from arcee_lab.explorer.units import Sizes, Unit, read_units
from arcee_lab.interventions import Ablate, Scale, intervene
from arcee_lab.interventions.base import Intervention
from arcee_lab.model.wrappers.adapters import effective_weight
from arcee_lab.neurons.pages.token_text import TokenText
from arcee_lab.neurons.reading.values import require_same
from arcee_lab.neurons.weights.projection import causal_anatomy

if TYPE_CHECKING:
    from arcee_lab.neurons.reading.result import Exemplars
    from arcee_lab.neurons.search.found import Found
    from arcee_lab.neurons.weights.result import Effects

MOST_TOKENS = 64  # of a typed text that are read
_SMALL = 1e11  # products of all neurons with all tokens: about a second
_FEW = 10**8  # parameters of a model that one thread runs fast enough


class Ground:
    """A model and what is known of it.

    Args:
        model: A language model of ours.
        tokenizer: Its tokenizer.
        run: What `al.neurons.exemplars` found, or None.
        effects: What `al.neurons.effects` found, or None; of a small model it is computed.
        found: What `al.neurons.find` found, or None.

    Raises:
        ModelError: No language model of ours.
        OtherRun: The run is of another model.
        SettingError: One of the three is something else.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        run: "Exemplars | None",
        effects: "Effects | None",
        found: "Found | None",
    ):
        self.anatomy = causal_anatomy(model, what="al.explore")
        if not callable(tokenizer) or not hasattr(tokenizer, "decode"):
            raise WrongType(
                f"tokenizer is {type(tokenizer).__name__}; expected the tokenizer that al.load "
                "gives."
            )
        self.model, self.tokenizer = model, tokenizer
        self.sizes = Sizes.of(self.anatomy)
        self.words = TokenText(tokenizer)
        self.run, self.found = run, found
        _check_kinds(run, effects, found)
        self._effects = effects
        if run is not None:
            require_same(self.anatomy.model, run.fingerprint)

    # ------------------------------------------------------------------ what is known

    @property
    def is_small(self) -> bool:
        """Whether weights of all neurons against all tokens take about a second at most."""
        layers, d_mlp, _ = self.sizes
        width, vocab = self.anatomy.size("d_model"), self.anatomy.size("vocab")
        return layers * d_mlp * width * vocab <= _SMALL

    @cached_property
    def effects(self) -> "Effects | None":
        """What the weights of neurons do; None where it was not given and takes long."""
        if self._effects is None and self.is_small:
            from arcee_lab.neurons.weights._effects import effects

            return effects(self.model, self.tokenizer, top=8)
        return self._effects

    @cached_property
    def table(self) -> NeuronTable:
        """All neurons, to sort and to search."""
        return NeuronTable(self.sizes, self.words, self.run, self.effects, self.found)

    @property
    def missing(self) -> list[str]:
        """What cannot be shown, and how to get it; one sentence each."""
        lines = []
        if self.run is None:
            lines.append(
                "No run was given, so there are no firing rates and no exemplars: pass "
                "run=al.neurons.exemplars(model, tokenizer, texts)."
            )
        if self.effects is None:
            lines.append(
                "No effects were given, and for a model of this size they take minutes: pass "
                "effects=al.neurons.effects(model, tokenizer)."
            )
        if self.found is None:
            lines.append(
                "No labels were given: pass found=al.neurons.find(model, tokenizer, labels)."
            )
        return lines

    # ------------------------------------------------------------------ typed text

    def ids(self, text: str) -> Int[Tensor, "1 pos"]:
        """The token ids of a text, at most `MOST_TOKENS`.

        Raises:
            TextError: It has none.
        """
        ids = token_ids(self.tokenizer, [text])[0] if text.strip() else []
        if not ids:
            raise TextError("The text is empty; type a few words.")
        room = min(MOST_TOKENS, self.model.config.max_position_embeddings)
        vocab = self.anatomy.size("vocab")
        if max(ids) >= vocab:
            raise TextError(
                f"The tokenizer gives the id {max(ids):,}, and the model has {vocab:,} tokens; use "
                "the model's own tokenizer."
            )
        return torch.tensor([ids[:room]], device=self.model.device)

    def shown(self, ids: Sequence[int]) -> list[str]:
        """The text of each token, as a reader sees it: no token is empty."""
        return [piece or "·" for piece in self.words(ids)]

    def units(self, names: Sequence[str]) -> tuple[Unit, ...]:
        """Units by their names."""
        return read_units(names, self.sizes)

    def logits(
        self, ids: Int[Tensor, "1 pos"], edits: Sequence[Intervention] = ()
    ) -> Float[Tensor, " vocab"]:
        """The logits behind the last token, in fp32 and on the CPU."""
        with intervene(self.model, edits):
            found = self.model(input_ids=ids, use_cache=False).logits[0, -1]
        return found.float().cpu()

    @cached_property
    def written_lengths(self) -> Float[Tensor, "layer d_mlp"]:
        """How long the column of `down_proj` of each neuron is, on the CPU."""
        layers = range(self.sizes.layers)
        mlps: list[Any] = [self.anatomy.module(f"layers.{layer}.mlp") for layer in layers]
        columns = [effective_weight(mlp.down_proj).detach().float().norm(dim=0) for mlp in mlps]
        return torch.stack([column.cpu() for column in columns])

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """No gradients; and one thread where that is enough, which answers faster.

        Waiting threads of OpenMP take longer than a small model's forward on a busy machine.
        """
        before = torch.get_num_threads()
        few = self.model.device.type == "cpu" and self._parameters <= _FEW
        try:
            if few and before > 1:
                torch.set_num_threads(1)
            with torch.no_grad():
                yield
        finally:
            if few and before > 1:
                torch.set_num_threads(before)

    @cached_property
    def _parameters(self) -> int:
        return sum(x.numel() for x in self.model.parameters())


def scaled(units: Sequence[Unit], factor: float) -> list[Intervention]:
    """Interventions that multiply units by a factor; 0 switches them off."""
    by_site: dict[tuple[str, bool], list[int]] = {}
    for unit in units:
        by_site.setdefault((unit.site, unit.is_head), []).append(unit.number)
    edits: list[Intervention] = []
    for (site, is_head), indices in by_site.items():
        part: dict[str, Any] = {"heads" if is_head else "units": sorted(indices)}
        edits.append(Scale(site, factor, **part) if factor else Ablate(site, **part))
    return edits


def _check_kinds(run: Any, effects: Any, found: Any) -> None:
    from arcee_lab.neurons.reading.result import Exemplars
    from arcee_lab.neurons.search.found import Found
    from arcee_lab.neurons.weights.result import Effects

    kinds: Mapping[str, tuple[Any, type]] = {
        "run": (run, Exemplars),
        "effects": (effects, Effects),
        "found": (found, Found),
    }
    for name, (given, kind) in kinds.items():
        if given is not None and not isinstance(given, kind):
            call = {"run": "exemplars", "effects": "effects", "found": "find"}[name]
            raise SettingError(
                f"{name} is a {type(given).__name__}; expected what al.neurons.{call} returns."
            )
