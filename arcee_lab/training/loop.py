"""The training loop of the demo: short, exact, and resumable after an interrupt at any point.

A plain loop rather than transformers' Trainer: documents are packed with a mask of their own, four
losses share one pass, a step's batch is a function of its number, and a resumed run must repeat the
interrupted one bit for bit. The state is one safetensors file, written atomically.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from arcee_lab.demo.tokenizer import build_tokenizer
from arcee_lab.errors import Interrupted, SavedDamaged, SettingError
from arcee_lab.model import ArceeForCausalLM
from arcee_lab.results import Result, counted
from arcee_lab.runs.arguments import checked
from arcee_lab.runs.interrupt import GracefulInterrupt
from arcee_lab.runs.json_text import parse_json
from arcee_lab.runs.one_writer import only_writer
from arcee_lab.runs.progress import progress_bar
from arcee_lab.runs.storage import claim, remove_partial_files, write_atomic
from arcee_lab.training.batches import step_batch
from arcee_lab.training.held_out import held_out, read
from arcee_lab.training.initial_weights import untrained
from arcee_lab.training.joint_loss import DemoHeads, joint_losses
from arcee_lab.training.recipe import Recipe
from arcee_lab.training.skills import lm_shares
from arcee_lab.training.state import MOMENTS, damaged, moments, read_state, with_moments

STATE, LOG = "state.safetensors", "log.jsonl"


@dataclass(frozen=True, repr=False)
class Trained(Result):
    """The result of `train`.

    Attributes:
        model: The LM.
        heads: The tensors of the other heads.
        tokenizer: The demo's tokenizer.
        log: One row per evaluation: step, tokens, losses, zeros by layer.
        recipe: The settings of the run.
        steps: Steps of each stage.
    """

    model: ArceeForCausalLM
    heads: DemoHeads
    tokenizer: PreTrainedTokenizerBase
    log: tuple[dict[str, Any], ...]
    recipe: Recipe
    steps: tuple[int, ...]

    def frame(self) -> pd.DataFrame:
        """The log as a table: one row per evaluation, one column per number."""
        return pd.json_normalize([_spread(row) for row in self.log])

    @property
    def headline(self) -> str:
        """The length of the run and its held-out loss, in one sentence."""
        last = self.log[-1]
        return (
            f"demo with seed {self.recipe.seed} after {counted(sum(self.steps), 'step')} in "
            f"{counted(len(self.steps), 'stage')} ({last['tokens']:,} tokens); held-out loss "
            f"{last['lm']:.3f} nats per token"
        )


def _spread(row: dict[str, Any]) -> dict[str, Any]:
    zeros = {f"zeros.{i}": value for i, value in enumerate(row["zeros"])}
    return {key: value for key, value in row.items() if key != "zeros"} | zeros


@checked
def train(
    recipe: Recipe,
    out: str | Path,
    *,
    save_every: int = 200,
    on_step: Callable[[int, float], None] | None = None,
    progress: bool | None = None,
) -> Trained:
    """Trains the demo, or resumes an interrupted run of the same recipe.

    Args:
        recipe: The settings of the run.
        out: Folder of the run; created if it is missing, resumed if it holds this recipe's run.
        save_every: Steps between two saved states.
        on_step: Called after each step with its number and loss.
        progress: Whether to show a bar over the tokens of the rows.

    Returns:
        The trained model with its log.

    Raises:
        OtherRun: The folder holds another run.
        SavedDamaged: The saved state is damaged.
        FileError: The folder cannot be written.
        Interrupted: Ctrl-C was pressed: the step was finished and the state saved; its `partial` is
            the run so far. A second Ctrl-C stops at once.

    Example:
        >>> from arcee_lab.training import quick, train
        >>> run = train(quick(), "out/quick")  # doctest: +SKIP
        >>> run.frame()[["step", "lm", "zeros.1"]]  # doctest: +SKIP
    """
    if save_every < 1:
        raise SettingError(f"save_every={save_every}; expected at least 1 step.")
    out = claim(out, {"command": "train-demo", "recipe": recipe.settings()})
    with only_writer(out):
        return _train(recipe, out, save_every=save_every, on_step=on_step, progress=progress)


def _train(
    recipe: Recipe,
    out: Path,
    *,
    save_every: int,
    on_step: Callable[[int, float], None] | None,
    progress: bool | None,
) -> Trained:
    """Trains in a folder that no other process writes to."""
    remove_partial_files(out)
    tokenizer = build_tokenizer()
    model = untrained(recipe, tokenizer)
    heads = DemoHeads(recipe.d_model, seed=recipe.seed)
    optimizer = torch.optim.AdamW(
        [*model.parameters(), *heads.parameters()],
        lr=recipe.rate,
        betas=(0.9, 0.98),
        weight_decay=0.0,
        fused=True,
    )
    done, tokens, starts = _resume(out, recipe, model, heads, optimizer)
    rows = _rows_up_to(out / LOG, done, recipe.look_every)
    seen = held_out(recipe, tokenizer)

    def ran(step: int) -> Trained:
        took = tuple(end - start for start, end in pairwise([*starts, step]))
        return Trained(model, heads, tokenizer, tuple(rows), recipe, took)

    per_step = recipe.rows * recipe.length
    with (
        GracefulInterrupt("the current step") as interrupt,
        progress_bar(
            total=recipe.steps * per_step,
            initial=done * per_step,
            unit="tok",
            unit_scale=True,
            show=progress,
        ) as bar,
    ):

        def look(step: int, loss: float | None, tokens: int) -> dict[str, float]:
            until = recipe.stages[len(starts) - 1].until
            skills = lm_shares(model, tokenizer, tuple(until)) if until else {}
            row = {"step": step, "tokens": tokens, "stage": len(starts) - 1}
            row |= {"rate": recipe.rate_at(max(0, step - 1), starts), "train_loss": loss}
            row |= asdict(read(model, heads, seen)) | {"skills": skills}
            rows.append(row)
            _write_log(out / LOG, rows)
            return skills

        if not rows:
            look(0, None, 0)
        step = done
        while step < starts[-1] + recipe.stages[len(starts) - 1].steps:
            stage, rate = recipe.stages[len(starts) - 1], recipe.rate_at(step, starts)
            for group in optimizer.param_groups:
                group["lr"] = rate
            batch = step_batch(recipe, stage, tokenizer, step)
            losses = joint_losses(model, heads, batch, bf16=recipe.bf16, quiet=stage.quiet)
            optimizer.zero_grad()
            losses.total.backward()
            torch.nn.utils.clip_grad_norm_([*model.parameters(), *heads.parameters()], 1.0)
            optimizer.step()
            tokens += int((batch.kinds >= 0).sum())
            step += 1
            if not bar.disable:
                bar.set_postfix(step=step, loss=f"{losses.lm.item():.3f}", refresh=False)
                bar.update(per_step)
            if on_step:
                on_step(step - 1, losses.lm.item())
            ended = step == starts[-1] + stage.steps
            if step % recipe.look_every == 0 or ended:
                skills = look(step, losses.lm.item(), tokens)
                reached = [skills[skill] >= share for skill, share in stage.until.items()]
                ended |= bool(reached) and all(reached)
            if ended and len(starts) < len(recipe.stages):
                starts.append(step)
            if step % save_every == 0 or ended or interrupt.requested:
                _save(out, recipe, (step, tokens, starts), model, heads, optimizer)
            if interrupt.requested and step < starts[-1] + recipe.stages[len(starts) - 1].steps:
                raise Interrupted(
                    f"interrupted after step {step}, which is saved in {out}; repeat the same call "
                    "or command to resume.",
                    partial=ran(step),
                )
    return ran(step)


def _named(model: ArceeForCausalLM, heads: DemoHeads) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters(prefix="lm")
    yield from heads.named_parameters(prefix="heads")


def _save(
    out: Path,
    recipe: Recipe,
    done: tuple[int, int, list[int]],
    model: ArceeForCausalLM,
    heads: DemoHeads,
    optimizer: torch.optim.Optimizer,
) -> None:
    tensors = {}
    for name, weight in _named(model, heads):
        tensors[name] = weight.detach().contiguous()
        for key, value in moments(optimizer, weight).items():
            tensors[f"optimizer.{key}.{name}"] = value
    step, seen, starts = done
    about = {
        "step": step,
        "tokens": seen,
        "starts": starts,
        "recipe": json.dumps(recipe.settings(), sort_keys=True),
    }
    # One entry: safetensors writes several in an order that differs between processes.
    metadata = {"about": json.dumps(about)}
    write_atomic(out / STATE, lambda path: save_file(tensors, path, metadata=metadata))


def _resume(
    out: Path,
    recipe: Recipe,
    model: ArceeForCausalLM,
    heads: DemoHeads,
    optimizer: torch.optim.Optimizer,
) -> tuple[int, int, list[int]]:
    """Loads the last saved state, if there is one.

    Returns:
        Steps and tokens of the saved run, and the first step of each stage begun.
    """
    path = out / STATE
    if not path.exists():
        return 0, 0, [0]
    wanted: dict[str, Tensor] = {}
    for name, weight in _named(model, heads):
        wanted |= with_moments(name, weight)
    try:
        tensors, metadata = read_state(path, wanted)
        about = parse_json(metadata["about"], "its header", nan=True)
        if about["recipe"] != json.dumps(recipe.settings(), sort_keys=True):
            raise SavedDamaged("it is of another recipe")
        step, tokens = int(about["step"]), int(about["tokens"])
        starts = [int(start) for start in about["starts"]]
        begun = 0 < len(starts) <= len(recipe.stages) and starts[0] == 0 == min(starts)
        if not (0 < step <= recipe.steps and begun and max(starts) <= step and tokens > 0):
            raise SavedDamaged(f"it claims step {step} of {recipe.steps}, stages begun at {starts}")
        if sorted(starts) != starts:
            raise SavedDamaged(f"it claims stages begun at {starts}")
    except (ValueError, LookupError, TypeError) as error:
        raise damaged(path, error) from error
    with torch.no_grad():
        for name, weight in _named(model, heads):
            weight.copy_(tensors[name])
            optimizer.state[weight] = {key: tensors[f"optimizer.{key}.{name}"] for key in MOMENTS}
    return step, tokens, starts


def _rows_up_to(path: Path, step: int, every: int) -> list[dict[str, Any]]:
    """Rows of the log up to the saved state; later ones are removed and written again."""
    rows: list[dict[str, Any]] = []
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    for line in text.splitlines():
        try:
            row = parse_json(line, "a row", nan=True)
            if row["step"] > step:
                break
        except (ValueError, KeyError, TypeError):
            break
        rows.append(row)
    if step and (not rows or rows[0]["step"] != 0 or rows[-1]["step"] <= step - every):
        raise SavedDamaged(
            f"{path} lacks rows of the first {step} steps, which {path.with_name(STATE)} includes; "
            "remove both and repeat the same call or command to start again, or choose another "
            "folder."
        )
    if text:
        _write_log(path, rows)
    return rows


def _write_log(path: Path, rows: list[dict[str, Any]]) -> None:
    """Writes the whole log atomically; it has a few kilobytes."""
    write_atomic(path, "".join(json.dumps(row) + "\n" for row in rows))
