"""`arcee-lab`, the model that lm-eval calls: the LM head packed, documents of heads routed."""

import copy
import logging
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.utils import simple_parse_args_string
from torch import nn
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from arcee_lab.data.limits import require_context
from arcee_lab.errors import SettingError
from arcee_lab.evals.arguments import require_arguments, require_loading, require_sizes
from arcee_lab.evals.head_routing import ARGUMENTS, Heads, Source, head_of, heads_asked, heads_in
from arcee_lab.evals.intervened import Values, changes_of, values_of
from arcee_lab.evals.request_cache import require_own_cache
from arcee_lab.evals.scoring.rolling_windows import windows_of
from arcee_lab.evals.scoring.scorer import Cost, Scorer
from arcee_lab.evals.scoring.token_trie import Wanted
from arcee_lab.evals.scoring.tokenization import Encoder
from arcee_lab.evals.tasks.find import quiet_lm_eval
from arcee_lab.heads.batches import Advance
from arcee_lab.model.anatomy import anatomy_of
from arcee_lab.model.fingerprint import model_fingerprint, model_name, tokenizer_fingerprint
from arcee_lab.model.loading import load

_log = logging.getLogger("arcee_lab")
BUDGET = {"cpu": 1024}  # tokens a batch, by kind of device
BUDGET_ELSEWHERE = 16384

_Base = cast(Any, HFLM)  # registering it makes lm-eval declare it a bare LM


class ArceeLab(_Base):
    """An Arcee model for lm-eval: numbers of its `hf` in fp32, for a fraction of the tokens.

    Within 1e-4, with two exceptions in which `hf` is wrong; see docs/evals.md, "Packed scoring".

    Choices of a document are scored as branches of one row, a few-shot prefix that documents share
    is computed once, and log-softmax is in fp32; see `arcee_lab.evals.scoring.scorer`. Documents
    with a `head` column go to that classification head; see `arcee_lab.evals.head_routing`.

    Args:
        pretrained: "demo", a folder, a Hub id, or a model in memory.
        tokenizer: For a model in memory; else the checkpoint's own.
        head: "auto" reads the checkpoint's architecture; or "causal", "sequence", "token", "qa".
        seqcls: Where the sequence head is, if not in the checkpoint: like `pretrained`.
        tokcls: The same for the token head.
        qa: The same for the QA head.
        intervention: A file that `al.interventions.to_json` wrote, or values. They act on the LM
            and on every head.
        exact: Keep lm-eval's own arithmetic and batches for the LM's log-likelihoods.
        batch_tokens: Tokens a batch, padding included; by default what suits the device.
        batch_size: Sequences per batch where that is lm-eval's affair: generation, `exact`, and
            heads, which read at least 8 at a time.
        dtype: Of the weights; by default the checkpoint's own.
        device: By default CUDA where it is, else the CPU.
        attn: Attention kernel.
        revision: Of a Hub id.
        max_length: Longest input in tokens; by default what the model can read.
        add_bos_token: Whether a text gets BOS; by default what the tokenizer does.
        max_batch_size: Where batch_size="auto" begins to look; lm-eval's own number.

    Raises:
        ValueError: For a checkpoint, a head or an intervention that does not fit.
    """

    # What lm-eval sets or computes, and is used here.
    model: Any
    tokenizer: PreTrainedTokenizerBase
    device: torch.device
    revision: str
    rank: int
    max_length: int
    max_gen_toks: int
    prefix_token_id: int
    add_bos_token: bool | None
    cache_hook: Any

    def __init__(
        self,
        pretrained: str | os.PathLike | nn.Module,
        tokenizer: PreTrainedTokenizerBase | None = None,
        *,
        head: str = "auto",
        seqcls: Source | None = None,
        tokcls: Source | None = None,
        qa: Source | None = None,
        intervention: Values = None,
        exact: bool = False,
        batch_tokens: int | None = None,
        batch_size: int | str = 1,
        dtype: str | torch.dtype | None = None,
        device: str | None = None,
        attn: str | None = None,
        revision: str | None = None,
        max_length: int | None = None,
        add_bos_token: bool | None = None,
        max_batch_size: int = 64,
        **unknown: Any,
    ):
        if unknown:
            raise SettingError(
                f"arcee-lab has no model argument {', '.join(unknown)}; expected some of "
                "pretrained, head, seqcls, tokcls, qa, intervention, exact, batch_tokens, "
                "batch_size, dtype, device, attn, revision, max_length, add_bos_token."
            )
        where = device or ("cuda" if torch.cuda.is_available() else "cpu")

        def loaded(source: Any, head: str) -> Any:
            return load(source, head=head, dtype=dtype, device=where, attn=attn, revision=revision)

        require_sizes(max_length=max_length, batch_tokens=batch_tokens, batch_size=batch_size)
        placed = {"dtype": dtype, "device": device, "attn": attn, "revision": revision}
        if isinstance(pretrained, nn.Module):
            require_loading(placed, (seqcls, tokcls, qa))
        if exact and batch_tokens is not None:
            raise SettingError(
                f"batch_tokens={batch_tokens} has no effect with exact=True, where a batch is "
                "batch_size sequences; leave one of the two out."
            )
        given = {"sequence": seqcls, "token": tokcls, "qa": qa}
        sources: dict[str, Source] = {k: v for k, v in given.items() if v is not None}
        if isinstance(pretrained, nn.Module):
            model: Any = anatomy_of(pretrained).model
            if tokenizer is None:
                raise SettingError("A model in memory needs its tokenizer; give tokenizer= too.")
            tokenizer = copy.deepcopy(tokenizer)  # lm-eval may give it a pad token
            main = anatomy_of(model).legend.head
            if head not in ("auto", main):
                raise SettingError(f"head={head!r}, but the model in memory has the {main} head.")
        else:
            inside = heads_in(pretrained, revision)
            main = inside[0] if head == "auto" else head
            if main not in inside:
                raise SettingError(
                    f"head={head!r}, but {os.fspath(pretrained)!r} has only {', '.join(inside)}."
                )
            sources = {one: pretrained for one in inside if one in ARGUMENTS} | sources
            model, own = loaded(pretrained, main)
            tokenizer = own if tokenizer is None else tokenizer
        reads = anatomy_of(model).backbone.config.max_position_embeddings
        if max_length is not None and max_length > reads:
            raise SettingError(
                f"max_length={max_length}, but the model reads {reads} tokens at most; give "
                f"{reads} or fewer, or leave it out."
            )
        if main in ARGUMENTS:
            sources[main] = given[main] or model
        if max_length is not None:
            require_context(model, max_length, "max_length")
        with quiet_lm_eval():  # it warns of a model in memory, which it always is here
            super().__init__(
                pretrained=model,
                tokenizer=tokenizer,
                batch_size=batch_size,
                max_batch_size=max_batch_size,
                max_length=max_length,
                add_bos_token=add_bos_token,
            )
        self.main = main
        self.exact = bool(exact)
        self.name = model_name(model)
        self.bar: Callable[[int], Advance] | None = None
        self._budget = batch_tokens or BUDGET.get(self.device.type, BUDGET_ELSEWHERE)
        texts = int(batch_size) if str(batch_size).isdecimal() else 8
        self._heads = Heads(sources, loaded, self.tokenizer, batch_size=max(texts, 8))
        self._fingerprints: dict[str, str] = {}
        self.intervene(intervention)

    @classmethod
    def create_from_arg_obj(cls, arg_dict: dict, additional_config: dict | None = None) -> Any:
        """As lm-eval makes it; its default device, cuda:0, means the CPU where there is no CUDA.

        Raises:
            ValueError: An argument is not what it has to be; words of a command line can be
                anything.
        """
        require_arguments(arg_dict)
        more = {k: v for k, v in (additional_config or {}).items() if v is not None}
        if more.get("device") == "cuda:0" and not torch.cuda.is_available():
            _log.info("lm-eval's default device cuda:0 is not here; using the CPU")
            del more["device"]
        return cls(**arg_dict, **more)

    @classmethod
    def create_from_arg_string(cls, arg_string: str, additional_config: dict | None = None) -> Any:
        """The same from `key=value,key=value`."""
        return cls.create_from_arg_obj(simple_parse_args_string(arg_string), additional_config)

    # ------------------------------------------------------------------ what acts and what is told

    def intervene(self, intervention: Values) -> None:
        """Sets the interventions of all that follows; the model and its heads stay loaded.

        Raises:
            ValueError: If they do not fit the model, or cannot act in an evaluation.
        """
        values = values_of(intervention)
        if values and self.exact:
            raise SettingError(
                "exact=True keeps lm-eval's padding, which interventions would take for tokens; "
                "leave one of the two out."
            )
        cost = Cost()
        if self.main == "causal":
            self._scorer = Scorer(self.model, changes_of(values, self.model), self._budget, cost)
        self.interventions = values
        self._heads.interventions = values
        self._heads.ready = {
            head: one._replace(changes=changes_of(values, one.model))
            for head, one in self._heads.ready.items()
        }

    def require_heads(self, tasks: Iterable[Any]) -> None:
        """Checks that the model has the heads that tasks ask for, before any document is read.

        Raises:
            ValueError: It lacks one; the task is named.
        """
        for task, head in heads_asked(tasks):
            if head is None:
                self._require_lm(task)
            else:
                self._heads.require(head, task)

    def models_for(self, tasks: Iterable[Any]) -> list[nn.Module]:
        """The models that answer the documents of tasks; heads are loaded."""
        found: dict[int, nn.Module] = {}
        for task, head in heads_asked(tasks):
            model = self.model if head is None else self._heads.model(head, task)
            found[id(model)] = model
        return list(found.values())

    @property
    def cost(self) -> Cost:
        """What the LM's log-likelihoods took since interventions were set."""
        return self._scorer.cost if self.main == "causal" else Cost()

    def identity(self) -> dict[str, Any]:
        """All that decides the numbers, as JSON values: fingerprints, interventions, settings."""
        parts = {"model": self.model, "tokenizer": self.tokenizer}
        for name, part in parts.items():
            if name not in self._fingerprints:
                taken = model_fingerprint if name == "model" else tokenizer_fingerprint
                self._fingerprints[name] = taken(part)
        return {
            "model_fingerprint": self._fingerprints["model"],
            "tokenizer_fingerprint": self._fingerprints["tokenizer"],
            "model_dtype": str(self.model.dtype),
            "heads": {
                head: model_name(source) if isinstance(source, nn.Module) else os.fspath(source)
                for head, source in self._heads.sources.items()
            },
            "interventions": changes_of(self.interventions, self.model).spec()
            if self.interventions
            else [],
            "exact": self.exact,
            "max_length": self.max_length,
            "add_bos_token": self.add_bos_token,
        }

    def get_model_info(self) -> dict[str, Any]:
        """What lm-eval writes into its results; asks no network."""
        cost = self.cost
        return self.identity() | {
            "model_num_parameters": self.model.num_parameters(),
            "model_revision": self.revision,
            "heads_used": {
                head: model_fingerprint(one.model) for head, one in self._heads.ready.items()
            },
            "packed": self.main == "causal" and not self.exact and self._scorer.branch,
            "unpacked_because": self.unpacked_because,
            "requests_truncated": cost.truncated,
            "requests_by_lm_eval": cost.exact,
            "tokens_fed": cost.fed,
        }

    @property
    def unpacked_because(self) -> str:
        """Why documents are not packed; "" if they are."""
        if self.main != "causal" or self._scorer.branch:
            return ""
        if self._scorer.changes.alone:
            return self._scorer.changes.alone
        return f"the attention kernel {self.model.config._attn_implementation} takes no 4-D mask"

    def set_cache_hook(self, cache_hook: Any) -> None:
        """Takes lm-eval's cache, if it holds this model's answers under these interventions.

        Raises:
            ValueError: If it holds others.
        """
        answers = getattr(cache_hook, "dbdict", None)
        if answers is not None:
            require_own_cache(answers, self.identity())
        super().set_cache_hook(cache_hook)

    # ------------------------------------------------------------------ what lm-eval asks

    def loglikelihood(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """Log-likelihoods of continuations, from the LM or from the sequence head."""
        with self._advance(len(requests), "log-likelihoods", disable_tqdm) as advance:
            return self._split(
                requests,
                lambda mine: self._choices(mine, advance),
                lambda theirs: self._heads.loglikelihood(theirs, advance),
            )

    def loglikelihood_rolling(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[float]:
        """Log-likelihoods of whole texts."""
        if requests:
            self._require_lm(requests[0].task_name)
        if self.exact:
            self.cost.exact += len(requests)
            return super().loglikelihood_rolling(requests, disable_tqdm=True)
        asked = [cast(tuple[str], request.args)[0] for request in requests]
        texts = self._encoder().texts(asked)
        windows = windows_of(
            [texts[text] for text in asked],
            prefix=self.prefix_token_id,
            longest=self.max_length,
        )
        count = sum(map(len, windows))
        share = len(requests) / max(count, 1)  # of a document, that a window is
        with self._advance(len(requests), "whole texts", disable_tqdm) as advance:
            found = self._scorer.score(
                [[window] for mine in windows for window in mine],
                count=count,
                greedy=False,
                together=True,
                advance=lambda done: advance(done * share),
            )
        totals = [sum(found[window.number][0] for window in mine) for mine in windows]
        for request, total in zip(requests, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return totals

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Texts that the LM generates, or that the token and QA heads answer."""
        with self._advance(len(requests), "texts", disable_tqdm) as advance:
            return self._split(
                requests,
                lambda mine: self._generated(mine, advance),
                lambda theirs: self._heads.generate(theirs, advance),
            )

    # ------------------------------------------------------------------ how it is answered

    def _split(
        self,
        requests: list[Instance],
        ask_lm: Callable[[list[Instance]], list],
        ask_heads: Callable[[list[Instance]], list],
    ) -> list:
        routed = [head_of(request) is not None for request in requests]
        if any(routed) and getattr(self.cache_hook, "dbdict", None) is not None:
            raise SettingError(
                "use_cache knows requests by their text alone and would mix the answers of heads "
                "with the LM's; leave it out for tasks of heads."
            )
        theirs = [request for request, is_head in zip(requests, routed, strict=True) if is_head]
        mine = [request for request, is_head in zip(requests, routed, strict=True) if not is_head]
        from_heads = iter(ask_heads(theirs) if theirs else ())
        if mine:
            self._require_lm(mine[0].task_name)
        from_lm = iter(ask_lm(mine) if mine else ())
        return [next(from_heads if is_head else from_lm) for is_head in routed]

    def _require_lm(self, task: str | None) -> None:
        if self.main != "causal":
            raise SettingError(
                f"Task {task!r} needs an LM head, and the model has the "
                f"{self.main} head; give pretrained= a causal checkpoint."
            )

    def _choices(self, requests: list[Instance], advance: Advance) -> list[tuple[float, bool]]:
        if self.exact:
            self.cost.exact += len(requests)
            answers = _Base.loglikelihood(self, requests, disable_tqdm=True)
            advance(len(requests))
            return answers

        def name(index: int) -> str:
            one = requests[index]
            return f"Task {one.task_name!r}, document {one.doc_id}"

        asked = [cast(tuple[str, str], request.args) for request in requests]
        pairs = self._encoder().pairs(asked, name=name)
        documents: dict[Any, list[Wanted]] = defaultdict(list)
        room = self.max_length + 1  # the last token is scored and not read
        before_this = self.cost.truncated
        for number, (request, (before, after)) in enumerate(zip(requests, pairs, strict=True)):
            if len(after) > self.max_length:
                raise SettingError(
                    f"{name(number)}: a continuation of {len(after)} tokens does not fit the "
                    f"context window of {self.max_length}; take a model that reads more, or leave "
                    "the task out."
                )
            tokens = before + after
            cut = len(tokens) - room
            self.cost.truncated += cut > 0
            # A context that was cut begins elsewhere for each choice: no branch of the others.
            key = (request.task_name, request.doc_id, number if cut > 0 else -1)
            tokens = tokens[max(cut, 0) :]
            wanted = Wanted(number, tokens[:-1], len(tokens) - len(after) - 1, after)
            documents[key].append(wanted)
        answers = self._scorer.score(documents.values(), count=len(requests), advance=advance)
        truncated = self.cost.truncated - before_this
        if truncated:
            _log.warning(
                "%d of %d requests did not fit the %d tokens that the model reads; their contexts "
                "were cut from the left, as lm-eval does",
                truncated,
                len(requests),
                self.max_length,
            )
        for request, answer in zip(requests, answers, strict=True):
            self.cache_hook.add_partial("loglikelihood", request.args, answer)
        return answers

    def _generated(self, requests: list[Instance], advance: Advance) -> list[str]:
        for request in requests:
            given = cast(tuple[str, dict[str, Any]], request.args)[1]
            told = cast(dict[str, Any], normalize_gen_kwargs(given, self.max_gen_toks))
            new = told["max_gen_toks"]
            if new >= self.max_length:
                raise SettingError(
                    f"Task {request.task_name!r} generates up to {new} tokens, and the context "
                    f"window has {self.max_length}, prompt included; set max_gen_toks lower, e.g. "
                    f"--gen_kwargs max_gen_toks={self.max_length // 2}."
                )
        own = self.cache_hook
        self.cache_hook = _Telling(own, advance)
        try:
            with self._scorer.changes.around(self.model):
                return super().generate_until(requests, disable_tqdm=True)
        finally:
            self.cache_hook = own

    def _encoder(self) -> Encoder:
        return Encoder(self.tokenizer, self.prefix_token_id, self.add_bos_token)

    @contextmanager
    def _advance(self, total: int, what: str, disable: bool) -> Iterator[Advance]:
        """The run's own progress bar, or one for this call."""
        if self.bar is not None:
            yield self.bar(total)
            return
        done = 0.0
        with tqdm(total=total, desc=what, disable=disable or self.rank != 0) as bar:

            def advance(more: float | int) -> None:
                nonlocal done
                done += more
                bar.update(round(done) - bar.n)

            yield advance


class _Telling(NamedTuple):
    """A cache hook, which lm-eval calls as soon as it has a text, that moves a bar too."""

    own: Any
    advance: Advance

    def add_partial(self, *answer: Any) -> None:
        self.own.add_partial(*answer)
        self.advance(1)
