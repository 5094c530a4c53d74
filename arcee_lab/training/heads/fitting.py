"""`train_head`: trains a new head on a backbone with transformers' Trainer."""

import copy
import tempfile
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    PreTrainedTokenizerBase,
    PrinterCallback,
    ProgressCallback,
    TrainerCallback,
    TrainingArguments,
)

from arcee_lab.bootstrap import interval
from arcee_lab.errors import Interrupted, ModelError, SettingError, TextError
from arcee_lab.evals import metrics
from arcee_lab.evals.metrics.redrawn import redrawn
from arcee_lab.evals.result import Score
from arcee_lab.heads.sequence import score_sequence
from arcee_lab.heads.token import label_words
from arcee_lab.model.anatomy import HEADS, Anatomy, anatomy_of
from arcee_lab.model.modeling import ArceeModel, ArceePreTrainedModel
from arcee_lab.model.wrappers.adapters import adapted_layers
from arcee_lab.runs import storage
from arcee_lab.runs.arguments import checked
from arcee_lab.runs.interrupt import GracefulInterrupt
from arcee_lab.runs.one_writer import only_writer
from arcee_lab.runs.progress import progress_bar
from arcee_lab.runs.seeds import Seeds
from arcee_lab.training.heads.encoding import collate, encode
from arcee_lab.training.heads.labelled import LabelledTexts
from arcee_lab.training.heads.recipe import HeadRecipe
from arcee_lab.training.heads.resuming import (
    STATE,
    ResumableTrainer,
    SavePeriodically,
    StopAfterCtrlC,
    remove,
)
from arcee_lab.training.heads.trained import TrainedHead

MATRICES = ["q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj"]  # LoRA's
SCORED = {
    "sequence": ("acc", "macro_f1", "mcc", "nll", "brier", "ece"),
    "token": ("token_acc", "entity_f1", "entity_precision", "entity_recall"),
}
_LOG_EVERY = 10  # steps
UNFINISHED, CHECKPOINT = "unfinished", "checkpoint"  # folders of a run


@checked
def train_head(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    train: LabelledTexts,
    *,
    test: LabelledTexts | None = None,
    recipe: HeadRecipe | None = None,
    out: str | Path | None = None,
    progress: bool | None = None,
) -> TrainedHead:
    """Trains a new sequence or token head.

    Args:
        model: Any Arcee model; its backbone is used, its head is not. The new model shares the
            backbone: with `tune="lora"` or `"full"` it changes for both.
        tokenizer: Its tokenizer.
        train: The training texts, which decide the kind of head and its labels.
        test: Held-out texts with the same labels, scored at the end.
        recipe: The settings; `HeadRecipe()` by default.
        out: A folder for the result: `TrainedHead.save` writes into its folder `checkpoint/`. Until
            then the state of the run is in `unfinished/`, saved every two minutes: the same call
            resumes an interrupted run and ends with bit-identical weights.
        progress: Show a bar over the steps; by default in notebooks and terminals.

    Returns:
        The model with its head, scores and losses.

    Raises:
        TextError: The texts do not fit the model or one another.
        ModelError: The model has adapters.
        SettingError: The package that LoRA needs is missing.
        FileError: `out` holds another run, a damaged state, or cannot be written.
        Interrupted: Ctrl-C was pressed; the message says what is saved. Its `partial` is the head
            so far, without scores; with LoRA it is None, and the backbone is unchanged.

    Example:
        >>> import arcee_lab as al
        >>> from arcee_lab.training.heads import HeadRecipe, read_labelled, train_head
        >>> model, tokenizer = al.load("demo")
        >>> reviews = read_labelled("demo:train", head="sequence", limit=32)
        >>> recipe = HeadRecipe(epochs=1)
        >>> train_head(model, tokenizer, reviews, recipe=recipe, progress=False).settings["steps"]
        2
    """
    if test is not None and (test.head, test.names) != (train.head, train.names):
        raise TextError(
            f"The test texts have the labels {', '.join(test.names)}, the training texts "
            f"{', '.join(train.names)}; read them with names=train.names."
        )
    if len(train.names) < 2:
        raise TextError(f"The training texts have {len(train.names)} label; expected two or more.")
    recipe = recipe or HeadRecipe()
    anatomy = anatomy_of(model)
    _refuse_adapters(anatomy.model)
    rows = encode(anatomy, tokenizer, train)
    settings = {
        "model": anatomy.model.name_or_path,
        "head": train.head,
        "labels": list(train.names),
        "texts": len(train),
        "steps": -(-len(train) // recipe.batch_size) * recipe.epochs,
        "recipe": recipe.settings(),
    }
    alone = nullcontext() if out is None else only_writer(out)
    with alone:
        return _train(anatomy, tokenizer, train, test, rows, recipe, settings, out, progress)


def _train(
    anatomy: Anatomy,
    tokenizer: PreTrainedTokenizerBase,
    train: LabelledTexts,
    test: LabelledTexts | None,
    rows: Any,
    recipe: HeadRecipe,
    settings: dict[str, Any],
    out: str | Path | None,
    progress: bool | None,
) -> TrainedHead:
    """Trains, scores and saves; no other process writes to the folder."""
    folder = None if out is None else storage.claim(Path(out) / UNFINISHED, settings)
    if out is not None:
        storage.remove_partial_files(out)  # of an interrupted run
    with (
        Seeds.read(recipe.seed).acting(),
        GracefulInterrupt("the steps up to the next state") as interrupt,
    ):
        headed = _new_head(anatomy.backbone, train)
        headed.name_or_path = anatomy.model.name_or_path
        token = train.head == "token"
        losses, stopped = _fit(
            headed, rows, recipe, token=token, folder=folder, interrupt=interrupt, progress=progress
        )

    def result(scores: tuple[Score, ...]) -> TrainedHead:
        return TrainedHead(
            model=headed,
            tokenizer=tokenizer,
            scores=scores,
            majority=(train if test is None else test).majority,
            losses=tuple(losses),
            settings=settings,
        )

    where = "nothing is saved except `partial` of this error; give out=FOLDER to resume later"
    if folder is not None:
        where = f"the last state is in {folder}; repeat the same call or command to resume"
    if stopped:
        raise Interrupted(
            f"interrupted after step {stopped} of {settings['steps']}: {where}.",
            partial=None if recipe.tune == "lora" else result(()),
        )
    try:
        scores = () if test is None else _scored(headed, tokenizer, test, recipe.batch_size)
    except KeyboardInterrupt:
        raise Interrupted(
            f"interrupted while the test texts are scored: {where}.", partial=result(())
        ) from None
    whole = result(scores)
    if out is not None and folder is not None:
        whole.save(Path(out) / CHECKPOINT)
        remove(folder)
    return whole


def _refuse_adapters(model: nn.Module) -> None:
    adapters = {one for _, _, names in adapted_layers(model) for one in names}
    if adapters:
        raise ModelError(
            f"The model has the adapters {', '.join(sorted(adapters))}, and a new head is saved "
            "with its backbone as a plain checkpoint; give peft_model.merge_and_unload()."
        )


def _new_head(backbone: ArceeModel, data: LabelledTexts) -> ArceePreTrainedModel:
    """The backbone under a head with random weights, on its device and in its dtype."""
    config = copy.deepcopy(backbone.config)
    config.id2label = dict(enumerate(data.names))
    config.label2id = {name: i for i, name in config.id2label.items()}
    config.problem_type = "single_label_classification" if data.head == "sequence" else None
    with torch.device("meta"):  # a second backbone would be initialised only to be discarded
        headed: Any = HEADS[data.head](config)
    headed.model = backbone
    headed.score = nn.Linear(
        config.hidden_size, len(data.names), bias=headed.score.bias is not None
    ).to(backbone.device, backbone.dtype)
    nn.init.normal_(headed.score.weight, std=config.initializer_range)
    if headed.score.bias is not None:
        nn.init.zeros_(headed.score.bias)
    return headed


def _fit(
    model: ArceePreTrainedModel,
    rows: list,
    recipe: HeadRecipe,
    *,
    token: bool,
    folder: Path | None,
    interrupt: GracefulInterrupt,
    progress: bool | None,
) -> tuple[list[dict[str, int | float]], int]:
    """Trains; returns the logged losses, and the step after which Ctrl-C ended it, or 0."""
    wanted = {name: weight.requires_grad for name, weight in model.named_parameters()}
    for name, weight in model.named_parameters():
        weight.requires_grad_(recipe.tune == "full" or name.startswith("score."))
    trained: Any = _with_lora(model, recipe) if recipe.tune == "lora" else model
    cache, model.config.use_cache = model.config.use_cache, False
    stop = StopAfterCtrlC(interrupt, 1 if folder is None else _LOG_EVERY, keeps=folder is not None)
    callbacks: list[TrainerCallback] = [_ProgressBar(progress=progress), stop]
    if folder is not None:
        callbacks.append(SavePeriodically(_LOG_EVERY))
    try:
        with tempfile.TemporaryDirectory() as nothing:
            trainer = ResumableTrainer(
                None if folder is None else folder / STATE,
                model=trained,
                args=TrainingArguments(
                    output_dir=nothing,
                    num_train_epochs=recipe.epochs,
                    per_device_train_batch_size=recipe.batch_size,
                    learning_rate=recipe.rate,
                    warmup_steps=0.1,  # below 1 it is a fraction of the steps
                    seed=recipe.seed,
                    use_cpu=model.device.type == "cpu",
                    logging_steps=_LOG_EVERY,
                    save_strategy="no",  # only when `SavePeriodically` requests it
                    report_to=[],
                    disable_tqdm=True,
                    remove_unused_columns=False,
                    dataloader_pin_memory=model.device.type == "cuda",
                ),
                train_dataset=rows,  # pyright: ignore[reportArgumentType]
                data_collator=partial(collate, token=token, pad=model.config.pad_token_id or 0),
                callbacks=callbacks,
            )
            trainer.remove_callback(PrinterCallback)
            trainer.remove_callback(ProgressCallback)
            trainer.go_on(Path(nothing))
        if recipe.tune == "lora" and not stop.stopped:
            trained.merge_and_unload()
        elif recipe.tune == "lora":
            trained.unload()
    except BaseException:
        if recipe.tune == "lora":
            trained.unload()  # leaves the backbone unchanged for a second try
        raise
    finally:
        model.config.use_cache = cache
        for name, weight in model.named_parameters():
            weight.requires_grad_(wanted.get(name, True))
    model.eval()
    logged = [one for one in trainer.state.log_history if "loss" in one]
    losses: list[dict[str, int | float]] = [
        {"step": int(one["step"]), "loss": float(one["loss"])} for one in logged
    ]
    return losses, trainer.state.global_step if stop.stopped else 0


def _with_lora(model: ArceePreTrainedModel, recipe: HeadRecipe) -> Any:
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError:
        raise SettingError(
            "tune='lora' needs the package peft; install it with `pip install arcee_lab[lora]`."
        ) from None
    settings = LoraConfig(
        r=recipe.rank,
        lora_alpha=2 * recipe.rank,
        target_modules=MATRICES,
        modules_to_save=["score"],
    )
    return get_peft_model(model, settings)  # pyright: ignore[reportArgumentType]


class _ProgressBar(TrainerCallback):
    """Moves a bar; Trainer's own callbacks print."""

    def __init__(self, *, progress: bool | None):
        self._bar = progress_bar(unit="step", show=progress)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._bar.reset(total=state.max_steps)
        self._bar.update(state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._bar.update(1)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if logs and "loss" in logs:
            self._bar.set_postfix(loss=f"{float(logs['loss']):.3f}", refresh=False)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._bar.close()


def _scored(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, test: LabelledTexts, batch_size: int
) -> tuple[Score, ...]:
    items: list[dict[str, Any]]
    if test.words is None:
        logs = score_sequence(model, tokenizer, test.texts, batch_size=batch_size).tolist()
        items = [metrics.label_items(g, row) for g, row in zip(test.labels, logs, strict=True)]
    else:
        found = label_words(model, tokenizer, test.words, texts=test.texts, batch_size=batch_size)
        gold = [[test.names[label] for label in row] for row in test.labels]
        items = [_word_items(a, b) for a, b in zip(gold, found, strict=True)]
    return tuple(
        score_of(getattr(metrics, name), [item[name] for item in items])
        for name in SCORED[test.head]
        if name in items[0]
    )


def _word_items(gold: list[str], given: list[str]) -> dict[str, Any]:
    """Labels that name no entities, as parts of speech do, have an accuracy and nothing else."""
    try:
        return metrics.entity_items(gold, given)
    except ValueError:
        return {"token_acc": (sum(a == b for a, b in zip(gold, given, strict=True)), len(gold))}


def score_of(metric: Callable[[Sequence[Any]], float], items: list[Any]) -> Score:
    """A score on held-out texts, with its 95 % bootstrap interval."""
    low, high = interval(redrawn(metric, items)).tolist()
    name = getattr(metric, "name", "")
    return Score("test", name, "none", metric(items), low, high, len(items))
