"""A run of exemplars in two steps: plan it, see what it will take, run it."""

import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from arcee_lab.errors import FileError, Interrupted, OtherRun, SettingError
from arcee_lab.model.anatomy import anatomy_of
from arcee_lab.model.fingerprint import model_fingerprint, model_name, tokenizer_fingerprint
from arcee_lab.neurons.reading import files, negatives
from arcee_lab.neurons.reading.domains import Texts, corpus_of
from arcee_lab.neurons.reading.facts import Facts
from arcee_lab.neurons.reading.result import Exemplars
from arcee_lab.neurons.reading.runner import Pass
from arcee_lab.neurons.reading.state import BINS, State
from arcee_lab.results import counted
from arcee_lab.runs import bounds, storage
from arcee_lab.runs.ranks import Ranks

_STATISTICS = 1.15  # a pass takes about that factor of its forwards
# What a run that has not ended leaves.
_OURS = re.compile(r"run\.json|windows\.safetensors|(resume|layer)-\d+\.safetensors|\..+\.part")
_TOKENS = 1024  # of the forward that is timed, at the most


@dataclass(frozen=True)
class Estimate:
    """Size and time of a run.

    Attributes:
        windows: Windows to read.
        tokens: Their tokens, first positions included.
        forwards: Forward passes of this rank.
        state_bytes: What is kept on the model's device, for any length of text.
        seconds: About how long this rank takes; from the time of one forward.
    """

    windows: int
    tokens: int
    forwards: int
    state_bytes: int
    seconds: float

    def __str__(self) -> str:
        passes = counted(self.forwards, "forward pass", "forward passes")
        about = self.seconds
        time_said = f"{about:.0f} s" if about < 120 else f"{about / 60:.0f} min"
        return (
            f"{self.tokens:,} tokens in {counted(self.windows, 'window')}, {passes}; what is kept "
            f"takes {self.state_bytes / 1e6:,.1f} MB; about {time_said}"
        )


class ExemplarsJob:
    """A run whose texts are read and whose forward passes are planned.

    Args:
        model: As for `arcee_lab.neurons.exemplars`, like all others.
        tokenizer: Its tokenizer.
        texts: Documents, windows, or documents by domain.
        layers: Numbers of layers.
        context: Longest window in tokens.
        batch_size: Windows per forward.
        max_tokens: Tokens to read.
        top: Windows with the largest maxima.
        strata: Octaves that windows are drawn from.
        per_stratum: Windows of each.
        negatives: Windows without the neuron.
        role: Whose tokens of conversations count.
        seed: Of what is drawn.

    Attributes:
        planned: The pass, not started yet.
        facts: What is run.

    Raises:
        ArceeLabError: As `exemplars`.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        texts: Texts,
        *,
        layers: int | Iterable[int] | None = None,
        context: int | None = None,
        batch_size: int = 8,
        max_tokens: int | None = None,
        top: int = 20,
        strata: int = 10,
        per_stratum: int = 5,
        negatives: int = 20,
        role: str | None = None,
        seed: int = 0,
    ):
        anatomy = anatomy_of(model)
        chosen = chosen_layers(layers, anatomy.backbone.config.num_hidden_layers)
        whole = {"top": top, "per_stratum": per_stratum, "batch_size": batch_size}
        for name, value in whole.items():
            _require_whole(name, value, least=1, most=bounds.ANY)
        _require_whole("strata", strata, least=1, most=BINS)
        _require_whole("negatives", negatives, least=0, most=bounds.ANY)
        _require_whole("seed", seed, least=0, most=bounds.SEED)
        inner = anatomy.model
        corpus = corpus_of(
            inner, tokenizer, texts, context=context, max_tokens=max_tokens, role=role
        )
        windows = corpus.windows
        lengths = np.diff(windows.bounds)
        drawn = _pool(lengths, corpus.domains, seed, negatives)
        self.facts = Facts(
            model=model_name(inner),
            fingerprint=model_fingerprint(inner),
            tokenizer=tokenizer_fingerprint(tokenizer),
            dtype=str(inner.dtype).removeprefix("torch."),
            layers=chosen,
            d_mlp=anatomy.size("d_mlp"),
            context=int(lengths.max()),
            n_tokens=0,
            n_windows=0,
            # More places than windows would stay empty.
            top=min(top, len(windows)),
            strata=strata,
            per_stratum=min(per_stratum, len(windows)),
            n_negatives=min(negatives, len(windows)),
            pool=len(drawn),
            role=role,
            seed=seed,
        )
        self.planned = Pass(anatomy, corpus, chosen, self.facts.places, drawn, seed, batch_size)
        self._started = False

    def estimate(self, *, processes: int = 1) -> Estimate:
        """What the run will take; runs one forward twice, on a batch of middling length or less.

        Args:
            processes: Ranks that share the work.
        """
        run = self.planned
        windows, device = run.corpus.windows, run.anatomy.model.device
        (forward,) = run.forwards([len(run.batches) // 2])
        rows = slice(max(1, _TOKENS // forward.input_ids.shape[1]))
        ids, mask = forward.input_ids[rows].to(device), forward.attention_mask[rows].to(device)
        seconds = 0.0
        for _ in range(2):  # the first one warms up
            began = time.perf_counter()
            with torch.no_grad():
                out = run.anatomy.backbone(input_ids=ids, attention_mask=mask, use_cache=False)
            float(out[0][0, 0, 0])  # waits for the device
            seconds = time.perf_counter() - began
        token = seconds / int(forward.attention_mask[rows].sum()) * _STATISTICS
        return Estimate(
            windows=len(windows),
            tokens=windows.n_tokens,
            forwards=-(-len(run.batches) // processes),
            state_bytes=run.state_bytes(),
            seconds=token * windows.n_tokens / processes,
        )

    def run(
        self,
        *,
        ranks: Ranks | None = None,
        out: str | Path | None = None,
        progress: bool | None = None,
    ) -> Exemplars:
        """Runs, once; the arguments are those of `arcee_lab.neurons.exemplars`.

        Raises:
            ArceeLabError: As `exemplars`, or the job was run before.
            Interrupted: As `exemplars`.
        """
        if self._started:
            raise SettingError("This job was run before; make another one to run again.")
        self._started = True
        run = self.planned
        ranks = ranks or Ranks(0, 1, 0, run.anatomy.model.device)
        folder = None if out is None else Path(out)
        resume = None
        if folder is not None:
            if ranks.first:
                storage.make_folder(folder)
            ranks.barrier()
            if (finished := self._finished(folder)) is not None:
                ranks.barrier()
                return finished
            resume = folder / f"resume-{ranks.rank}.safetensors"
        try:
            states = run.run(ranks, resume=resume, progress=progress)
        except KeyboardInterrupt:
            raise self._interrupted(ranks, resume) from None
        found = self._result(states)
        if folder is not None and resume is not None:
            if ranks.first:
                found.save(folder)
            ranks.barrier()  # until all is written, an interrupted run may need what was saved
            resume.unlink(missing_ok=True)
        return found

    def _finished(self, folder: Path) -> Exemplars | None:
        """What an earlier call with the same settings and texts has written to its end."""
        if not (folder / files.FILE).is_file():
            strange = [one.name for one in folder.iterdir() if not _OURS.fullmatch(one.name)]
            if strange:
                raise FileError(
                    f"output folder {folder} holds other files, e.g. {min(strange)}; choose a new "
                    "one."
                )
            return None
        saved, run = Exemplars.load(folder), self.planned
        n_tokens, n_windows = int(run.counted.sum()), len(run.corpus.windows)
        ours = self.facts.over(n_tokens=n_tokens, n_windows=n_windows)
        storage.check_same_run(folder, saved.facts.as_json(), ours.as_json())
        texts = [
            (
                counts,
                corpus.windows.ids,
                corpus.windows.bounds,
                corpus.windows.documents,
                corpus.domains,
            )
            for counts, corpus in ((saved.counts, saved.corpus), (run.counted, run.corpus))
        ]
        same = all(np.array_equal(a, b) for a, b in zip(*texts, strict=True))
        if not same or saved.corpus.names != run.corpus.names:
            raise OtherRun(
                f"output folder {folder} holds a run over other texts; choose a new folder, or "
                "remove this one."
            )
        return saved

    def _result(self, states: dict[int, State]) -> Exemplars:
        one = states[self.facts.layers[0]]
        facts = self.facts.over(n_tokens=int(one["tokens"]), n_windows=int(one["windows"]))
        run = self.planned
        return Exemplars(facts, run.corpus, run.counted, run.pool, states)

    def _interrupted(self, ranks: Ranks, resume: Path | None) -> Interrupted:
        run, partial = self.planned, None
        if run.whole and run.done and ranks.size == 1:
            partial = self._result(run.so_far())
        kept = "none, since no forward was read as a whole" if partial is None else "their result"
        total = len(ranks.share(range(len(run.batches))))
        go_on = (
            "Give out=DIR, and the same call resumes where it was interrupted."
            if resume is None
            else f"The same call resumes from what {resume} holds."
            if resume.is_file()
            else f"Nothing was saved to {resume} yet, so the same call starts anew."
        )
        return Interrupted(
            f"stopped after {run.done} of {total} forward passes; .partial is {kept}. {go_on}",
            partial=partial,
        )


def chosen_layers(layers: int | Iterable[int] | None, n_layers: int) -> tuple[int, ...]:
    """Checked numbers of layers, rising; all where None.

    Raises:
        SettingError: One is out of range or no whole number, or there is none.
    """
    if layers is None:
        return tuple(range(n_layers))
    wanted: list[Any]  # what is no whole number is refused below
    try:
        wanted = [layers] if isinstance(layers, int) else list(layers)
    except TypeError:
        wanted = [layers]
    wrong = [x for x in wanted if type(x) is not int or not 0 <= x < n_layers]
    if wrong or not wanted:
        got = f"layer {wrong[0]!r}" if wrong else "layers is empty"
        raise SettingError(
            f"{got}; expected whole numbers from 0 to {n_layers - 1}, or None for all layers."
        )
    return tuple(sorted(set(wanted)))


def _require_whole(name: str, value: object, *, least: int, most: int) -> None:
    if type(value) is not int or not least <= value <= most:
        raise SettingError(f"{name} is {value!r}; expected a whole number from {least} to {most}.")


def _pool(lengths: np.ndarray, domains: np.ndarray, seed: int, wanted: int) -> np.ndarray:
    if not wanted:
        return np.zeros(0, np.int64)
    return negatives.pool(lengths, domains, seed=seed, most=max(negatives.POOL, wanted))
