"""`ArceeLab`, the model that lm-eval calls: packed log-likelihoods, and documents of heads."""

import logging
import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Any, cast

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.utils import simple_parse_args_string
from torch import nn
from transformers import PreTrainedTokenizerBase

from arcee_lab.errors import SettingError, TaskError, TextError
from arcee_lab.evals.head_routing import MODEL_ARGUMENTS, HeadRouter, Source, head_of, heads_needed
from arcee_lab.evals.intervened import InterventionsLike, eval_interventions, read_interventions
from arcee_lab.evals.loading import Loader, require_reads, require_sizes
from arcee_lab.evals.options.answer_cache import require_own_cache
from arcee_lab.evals.options.chat_templates import ChatTemplates
from arcee_lab.evals.options.lm_eval_call import require_usable
from arcee_lab.evals.progress import AdvancingCacheHook, advancing
from arcee_lab.evals.scoring.packable_documents import packable
from arcee_lab.evals.scoring.rolling_windows import rolling_windows
from arcee_lab.evals.scoring.scorer import Cost, Scorer
from arcee_lab.evals.scoring.tokenization import Encoder
from arcee_lab.evals.scoring.unscorable import Unscorable, unscorable
from arcee_lab.evals.tasks.find import quiet_lm_eval
from arcee_lab.heads.batches import Advance
from arcee_lab.model.fingerprint import model_fingerprint, model_name, tokenizer_fingerprint
from arcee_lab.runs.arguments import checked

_log = logging.getLogger("arcee_lab")
BUDGET = {"cpu": 1024}  # tokens per batch, by kind of device
BUDGET_ELSEWHERE = 16384

_Base = cast(Any, HFLM)  # registering it makes lm-eval declare it a bare LM


class ArceeLab(ChatTemplates):
    """An Arcee model for lm-eval: the scores of its `hf` model in fp32, for fewer tokens.

    Log-likelihoods are within 1e-4 of those of `hf`, with two exceptions in which `hf` is wrong;
    see docs/how-to/evals.md, "Packed scoring". Choices of a document are scored as branches of one
    row, a few-shot prefix that documents share is computed once, and log-softmax is in fp32; see
    `arcee_lab.evals.scoring.scorer`. Documents with a `head` column go to that classification head;
    see `arcee_lab.evals.head_routing`.

    Args:
        pretrained: "demo", a folder, a Hub id, or a model in memory.
        tokenizer: For a model in memory; by default the checkpoint's own.
        head: The main head: "causal", "sequence", "token" or "qa"; "auto" reads the checkpoint's
            architecture.
        heads: Checkpoints or models of heads that `pretrained` lacks, as `{"sequence": ...,
            "token": ..., "qa": ...}`. In lm-eval's `model_args` these are `seqcls=`, `tokcls=` and
            `qa=`.
        intervention: Interventions, or a file that `al.interventions.to_json` wrote. They act on
            the LM and on every head.
        exact: Use lm-eval's own arithmetic and batches for the LM's log-likelihoods.
        batch_tokens: Tokens per batch of log-likelihoods, padding included; by default it depends
            on the device.
        batch_size: Sequences per batch of generation, of `exact`, and of heads (at least 8 there).
        dtype: Of the weights; by default the checkpoint's own.
        device: By default CUDA if it is available, else the CPU.
        attn: Attention kernel.
        revision: Revision of a Hub id.
        max_length: Longest input in tokens; by default the model's context.
        add_bos_token: Whether texts get a BOS token; by default as the tokenizer does.
        max_batch_size: Largest size that batch_size="auto" tries; lm-eval's own default.

    Raises:
        ArceeLabError: A checkpoint, a head, an argument or an intervention does not fit.
    """

    # Set or computed by lm-eval.
    model: Any
    tokenizer: PreTrainedTokenizerBase
    device: torch.device
    revision: str
    rank: int
    max_length: int
    max_gen_toks: int
    prefix_token_id: int | None
    add_bos_token: bool | None
    cache_hook: Any

    @checked
    def __init__(
        self,
        pretrained: str | os.PathLike | nn.Module,
        tokenizer: PreTrainedTokenizerBase | None = None,
        *,
        head: str = "auto",
        heads: Mapping[str, Source] | None = None,
        intervention: InterventionsLike = None,
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
                "pretrained, head, heads (seqcls, tokcls, qa on a command line), intervention, "
                "exact, batch_tokens, batch_size, dtype, device, attn, revision, max_length, "
                "add_bos_token."
            )
        require_sizes(max_length=max_length, batch_tokens=batch_tokens, batch_size=batch_size)
        if exact and batch_tokens is not None:
            raise SettingError(
                f"batch_tokens={batch_tokens} has no effect with exact=True, where a batch is "
                "batch_size sequences; leave one of the two out."
            )
        loader = Loader(dtype=dtype, device=device, attn=attn, revision=revision)
        loaded = loader.resolve(pretrained, tokenizer, head=head, heads=heads or {})
        if max_length is not None:
            require_reads(loaded.model, max_length)
        with quiet_lm_eval():  # it would warn that the model is in memory
            super().__init__(
                pretrained=loaded.model,
                tokenizer=loaded.tokenizer,
                batch_size=batch_size,
                max_batch_size=max_batch_size,
                max_length=max_length,
                add_bos_token=add_bos_token,
            )
        self.main = loaded.head
        self.exact = bool(exact)
        self.name = model_name(loaded.model)
        self.bar: Callable[[int], Advance] | None = None
        self.marks_unscorable = False  # or ends with an error, as lm-eval's own command needs it
        self._budget = batch_tokens or BUDGET.get(self.device.type, BUDGET_ELSEWHERE)
        texts = int(batch_size) if str(batch_size).isdecimal() else 8
        self._heads = HeadRouter(
            loaded.sources, loader.load, self.tokenizer, batch_size=max(texts, 8)
        )
        self._fingerprints: dict[str, str] = {}
        self.intervene(intervention)

    @classmethod
    def create_from_arg_obj(cls, arg_dict: dict, additional_config: dict | None = None) -> Any:
        """As lm-eval constructs it; its default device, cuda:0, means the CPU without CUDA.

        Args:
            arg_dict: The `model_args`.
            additional_config: Other settings of the command line.

        Raises:
            ArceeLabError: As `require_usable` says.
        """
        require_usable(arg_dict)
        more = {k: v for k, v in (additional_config or {}).items() if v is not None}
        if more.get("device") == "cuda:0" and not torch.cuda.is_available():
            _log.info("lm-eval's default device cuda:0 is not available; using the CPU")
            del more["device"]
        own = {k: v for k, v in arg_dict.items() if k not in MODEL_ARGUMENTS.values()}
        given = ((head, arg_dict.get(flag)) for head, flag in MODEL_ARGUMENTS.items())
        heads = {head: source for head, source in given if source is not None}
        return cls(**own, heads=heads, **more)

    @classmethod
    def create_from_arg_string(cls, arg_string: str, additional_config: dict | None = None) -> Any:
        """The same from `key=value,key=value`."""
        return cls.create_from_arg_obj(simple_parse_args_string(arg_string), additional_config)

    # ------------------------------------------------------------------ interventions and facts

    def intervene(self, intervention: InterventionsLike) -> None:
        """Sets the interventions of all following requests; the model and its heads stay loaded.

        Args:
            intervention: Interventions, a file of them, or None.

        Raises:
            SiteError: They do not fit the model.
            SettingError: They cannot act in an evaluation.
        """
        values = read_interventions(intervention)
        if values and self.exact:
            raise SettingError(
                "exact=True keeps lm-eval's padding, and interventions would act on padding too; "
                "leave one of the two out."
            )
        cost = Cost()
        if self.main == "causal":
            self._scorer = Scorer(
                self.model, eval_interventions(values, self.model), self._budget, cost
            )
        self.interventions = values
        self._heads.interventions = values
        self._heads.loaded = {
            head: one._replace(interventions=eval_interventions(values, one.model))
            for head, one in self._heads.loaded.items()
        }

    def require_heads(self, tasks: Iterable[Any]) -> None:
        """Checks that the model has the heads that tasks need, before any document is read.

        Args:
            tasks: Loaded tasks.

        Raises:
            TaskError: It lacks one; the task is named.
        """
        for task, head in heads_needed(tasks):
            if head is None:
                self._require_lm(task)
            else:
                self._heads.require(head, task)

    def models_for(self, tasks: Iterable[Any]) -> list[nn.Module]:
        """The models that answer the documents of tasks; heads are loaded if necessary."""
        found: dict[int, nn.Module] = {}
        for task, head in heads_needed(tasks):
            model = self.model if head is None else self._heads.model(head, task)
            found[id(model)] = model
        return list(found.values())

    @property
    def cost(self) -> Cost:
        """The cost of the LM's log-likelihoods since interventions were set."""
        return self._scorer.cost if self.main == "causal" else Cost()

    def identity(self) -> dict[str, Any]:
        """What decides the scores, as JSON values: fingerprints, interventions, settings."""
        parts = {"model": self.model, "tokenizer": self.tokenizer}
        for name, part in parts.items():
            if name not in self._fingerprints:
                fingerprint = model_fingerprint if name == "model" else tokenizer_fingerprint
                self._fingerprints[name] = fingerprint(part)
        return {
            "model_fingerprint": self._fingerprints["model"],
            "tokenizer_fingerprint": self._fingerprints["tokenizer"],
            "model_dtype": str(self.model.dtype),
            "heads": {
                head: model_name(source) if isinstance(source, nn.Module) else os.fspath(source)
                for head, source in self._heads.sources.items()
            },
            "interventions": eval_interventions(self.interventions, self.model).spec()
            if self.interventions
            else [],
            "exact": self.exact,
            "max_length": self.max_length,
            "add_bos_token": self.add_bos_token,
        }

    def get_model_info(self) -> dict[str, Any]:
        """What lm-eval writes into its results, without network access."""
        cost = self.cost
        return self.identity() | {
            "model_num_parameters": self.model.num_parameters(),
            "model_revision": self.revision,
            "heads_used": {
                head: model_fingerprint(one.model) for head, one in self._heads.loaded.items()
            },
            "packed": self.main == "causal" and not self.exact and self._scorer.branch,
            "unpacked_reason": self.unpacked_reason,
            "requests_truncated": cost.truncated,
            "requests_by_lm_eval": cost.exact,
            "tokens_fed": cost.fed,
        }

    @property
    def unpacked_reason(self) -> str:
        """Why documents are not packed; "" if they are packed."""
        if self.main != "causal" or self._scorer.branch:
            return ""
        if self._scorer.interventions.unpacked_reason:
            return self._scorer.interventions.unpacked_reason
        return f"the attention kernel {self.model.config._attn_implementation} takes no 4-D mask"

    def set_cache_hook(self, cache_hook: Any) -> None:
        """Uses lm-eval's cache if it holds this model's answers under these interventions.

        Args:
            cache_hook: lm-eval's cache.

        Raises:
            OtherRun: It holds other answers.
        """
        answers = getattr(cache_hook, "dbdict", None)
        if answers is not None:
            require_own_cache(answers, self.identity())
        super().set_cache_hook(cache_hook)

    # ------------------------------------------------------------------ requests of lm-eval

    def loglikelihood(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """Log-likelihoods of continuations, from the LM or from the sequence head."""
        with self._advancing(len(requests), "log-likelihoods", disable_tqdm) as advance:
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
        encoder = self._encoder()
        texts = encoder.texts(asked)
        windows = rolling_windows(
            [texts[text] for text in asked],
            prefix=encoder.start(),
            longest=self.max_length,
        )
        count = sum(map(len, windows))
        share = len(requests) / max(count, 1)  # documents per window
        with self._advancing(len(requests), "whole texts", disable_tqdm) as advance:
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
        with self._advancing(len(requests), "texts", disable_tqdm) as advance:
            return self._split(
                requests,
                lambda mine: self._generated(mine, advance),
                lambda theirs: self._heads.generate(theirs, advance),
            )

    # ------------------------------------------------------------------ how they are answered

    def _split(
        self,
        requests: list[Instance],
        ask_lm: Callable[[list[Instance]], list],
        ask_heads: Callable[[list[Instance]], list],
    ) -> list:
        routed = [head_of(request) is not None for request in requests]
        if any(routed) and getattr(self.cache_hook, "dbdict", None) is not None:
            raise SettingError(
                "use_cache identifies requests only by their text and would mix the answers of "
                "heads with the LM's; leave it out for tasks of heads."
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
            raise TaskError(
                f"Task {task!r} needs an LM head, and the model has the "
                f"{self.main} head; give a causal checkpoint as the model."
            )

    def _choices(self, requests: list[Instance], advance: Advance) -> list[Any]:
        asked = [cast(tuple[str, str], request.args) for request in requests]
        pairs = self._encoder().pairs(asked)
        reasons = unscorable(asked, pairs, longest=self.max_length)
        for index, reason in reasons.items():
            if not self.marks_unscorable:
                one = requests[index]
                raise TextError(
                    f"Task {one.task_name!r}, document {one.doc_id}: {reason}; expected a "
                    "continuation with tokens of its own that the model can read. Leave the "
                    "document out, which strict=False does."
                )
        numbers = [index for index in range(len(requests)) if index not in reasons]
        mine = [requests[index] for index in numbers]
        if self.exact:
            self.cost.exact += len(mine)
            answers = _Base.loglikelihood(self, mine, disable_tqdm=True) if mine else []
            advance(len(mine))
        else:
            answers = self._packed(mine, [pairs[index] for index in numbers], advance)
            for request, answer in zip(mine, answers, strict=True):
                self.cache_hook.add_partial("loglikelihood", request.args, answer)
        advance(len(reasons))
        found = dict(zip(numbers, answers, strict=True))
        return [
            found[index] if index in found else Unscorable(reasons[index])
            for index in range(len(requests))
        ]

    def _packed(
        self, requests: list[Instance], pairs: list[Any], advance: Advance
    ) -> list[tuple[float, bool]]:
        if not requests:
            return []
        documents, truncated = packable(requests, pairs, longest=self.max_length)
        self.cost.truncated += truncated
        answers = self._scorer.score(documents, count=len(requests), advance=advance)
        if truncated:
            _log.warning(
                "%d of %d requests did not fit the %d tokens that the model reads; their contexts "
                "were cut from the left, as lm-eval does",
                truncated,
                len(requests),
                self.max_length,
            )
        return answers

    def _generated(self, requests: list[Instance], advance: Advance) -> list[str]:
        for request in requests:
            given = cast(tuple[str, dict[str, Any]], request.args)[1]
            settings = cast(dict[str, Any], normalize_gen_kwargs(given, self.max_gen_toks))
            new = settings["max_gen_toks"]
            if new >= self.max_length:
                raise SettingError(
                    f"Task {request.task_name!r} generates up to {new} tokens, and the context "
                    f"window has {self.max_length}, prompt included; set max_gen_toks lower, e.g. "
                    f"--gen_kwargs max_gen_toks={self.max_length // 2}."
                )
        own = self.cache_hook
        self.cache_hook = AdvancingCacheHook(own, advance)
        try:
            with self._scorer.interventions.around(self.model):
                return super().generate_until(requests, disable_tqdm=True)
        finally:
            self.cache_hook = own

    def _encoder(self) -> Encoder:
        return Encoder(self.tokenizer, self.prefix_token_id, self.add_bos_token)

    def _advancing(self, total: int, what: str, disable: bool) -> AbstractContextManager[Advance]:
        show = False if disable or self.rank != 0 else None
        return advancing(self.bar, total, what=what, show=show)
