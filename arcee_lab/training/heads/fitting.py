"""`train_head`: trains a new head on a backbone with transformers' Trainer."""

import copy
import tempfile
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
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

from arcee_lab.errors import Interrupted, ModelError, SettingError, TextError
from arcee_lab.evals.result import Score
from arcee_lab.model.anatomy import HEADS, LAST_STEP, Anatomy, anatomy_of
from arcee_lab.model.modeling import ArceeModel, ArceePreTrainedModel
from arcee_lab.model.wrappers.adapters import adapted_layers
from arcee_lab.runs import storage
from arcee_lab.runs.arguments import checked
from arcee_lab.runs.interrupt import GracefulInterrupt
from arcee_lab.runs.one_writer import only_writer
from arcee_lab.runs.progress import progress_bar
from arcee_lab.runs.seeds import Seeds
from arcee_lab.training.heads.calibration import Calibration, calibrate, judged
from arcee_lab.training.heads.encoding import balanced_weights, collate, encode, weighted_loss
from arcee_lab.training.heads.held_out import KeepBest, Look, split
from arcee_lab.training.heads.judging import deciding_metric, items_of, scores_of, values_of
from arcee_lab.training.heads.labelled import Labelled, LabelledTexts
from arcee_lab.training.heads.questions import LabelledQuestions
from arcee_lab.training.heads.recipe import SHARE, HeadRecipe
from arcee_lab.training.heads.resuming import (
    STATE,
    ResumableTrainer,
    SavePeriodically,
    StopAfterCtrlC,
    remove,
)
from arcee_lab.training.heads.span_calibration import judged_spans
from arcee_lab.training.heads.spans import collate_windows, encode_questions, span_loss
from arcee_lab.training.heads.trained import TrainedHead

MATRICES = ["q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj"]  # LoRA's
_LOG_EVERY = 10  # steps
UNFINISHED, CHECKPOINT = "unfinished", "checkpoint"  # folders of a run


@dataclass(frozen=True)
class Data:
    """What a head is trained and judged on.

    Attributes:
        train: To train on.
        held_out: Scored after each epoch, or None.
        test: Scored at the end, or None.
    """

    train: Any
    held_out: Any
    test: Any

    @property
    def unseen(self) -> list[tuple[str, Any]]:
        """What is not trained on, by name."""
        both = (("held-out", self.held_out), ("test", self.test))
        return [(name, some) for name, some in both if some is not None]


@checked
def train_head(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    train: LabelledTexts | LabelledQuestions,
    *,
    validation: LabelledTexts | LabelledQuestions | None = None,
    test: LabelledTexts | LabelledQuestions | None = None,
    recipe: HeadRecipe | None = None,
    out: str | Path | None = None,
    progress: bool | None = None,
) -> TrainedHead:
    """Trains a new sequence, token or QA head.

    Args:
        model: Any Arcee model; its backbone is used, its head is not. The new model shares the
            backbone: with `tune="lora"` or `"full"` it changes for both.
        tokenizer: Its tokenizer.
        train: The training texts or questions, which decide the kind of head and its labels.
        validation: Held-out texts, scored after each epoch; `patience` and `calibrate` use them.
            Without them a part of the training texts is held out for these two.
        test: Texts with the same labels, scored at the end and used for nothing else.
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
        SettingError: The package that LoRA needs is missing, or a setting has no effect on this
            head or these texts.
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
    recipe = recipe or HeadRecipe()
    check_data(train, validation, test, recipe)
    if recipe.needs_held_out and validation is None:
        train, validation = split(train, recipe.held_out or SHARE, seed=recipe.seed)
    data = Data(train, validation, test)
    anatomy = anatomy_of(model)
    _refuse_adapters(anatomy.model)
    rows: list[Any]
    if isinstance(train, LabelledQuestions):
        rows = encode_questions(anatomy, tokenizer, train)
        for part, unseen in data.unseen if recipe.calibrate else ():  # else an error at the end
            encode_questions(anatomy, tokenizer, unseen, part=part)
    else:
        rows = encode(anatomy, tokenizer, train)
    settings = {
        "model": anatomy.model.name_or_path,
        "head": train.head,
        "labels": list(train.names),
        "texts": len(train),
        "held_out": 0 if validation is None else len(validation),
        "steps": -(-len(rows) // recipe.batch_size) * recipe.epochs,
        "recipe": recipe.settings(),
    }
    alone = nullcontext() if out is None else only_writer(out)
    with alone:
        return _train(anatomy, tokenizer, data, rows, recipe, settings, out, progress)


def check_data(
    train: Labelled, validation: Labelled | None, test: Labelled | None, recipe: HeadRecipe
) -> None:
    """Checks that texts and settings fit one another, before a model is loaded.

    Raises:
        TextError: The texts have other labels, or too few.
        SettingError: A setting has no effect on this head or these texts.
    """
    for what, other in (("test", test), ("validation", validation)):
        if other is not None and (other.head, other.names) != (train.head, train.names):
            raise TextError(
                f"The {what} texts have the labels {', '.join(other.names) or 'of spans'}, the "
                f"training texts {', '.join(train.names) or 'of spans'}; read them with "
                "names=train.names."
            )
    if train.head != "qa" and len(train.names) < 2:
        raise TextError(f"The training texts have {len(train.names)} label; expected two or more.")
    if train.head == "qa" and recipe.class_weights != "none":
        raise SettingError(
            f"class_weights={recipe.class_weights!r} has no effect on a QA head, which has no "
            "labels; leave it out."
        )
    if validation is not None and recipe.held_out is not None:
        raise SettingError(
            f"held_out={recipe.held_out} has no effect next to validation texts; leave one out."
        )
    if recipe.patience is not None:
        deciding_metric(train if validation is None else validation, recipe.metric)


def _train(
    anatomy: Anatomy,
    tokenizer: PreTrainedTokenizerBase,
    data: Data,
    rows: list[Any],
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
        headed = _new_head(anatomy.backbone, data.train)
        headed.name_or_path = anatomy.model.name_or_path
        fit = _Fit(headed, tokenizer, data, rows, recipe, folder, interrupt, progress)
        losses, looks, kept, stopped = _fit(fit)

    def result(scores: tuple[Score, ...], calibration: Calibration | None = None) -> TrainedHead:
        return TrainedHead(
            model=headed,
            tokenizer=tokenizer,
            scores=scores,
            majority=(data.train if data.test is None else data.test).majority,
            losses=tuple(losses),
            settings=settings | {"kept": kept},
            held_out=tuple(looks),
            calibration=calibration,
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
        calibration = _calibrated(headed, tokenizer, data, recipe) if recipe.calibrate else None
        scores: tuple[Score, ...] = ()
        if data.test is not None:
            scores = scores_of(items_of(headed, tokenizer, data.test, recipe.batch_size))
    except KeyboardInterrupt:
        raise Interrupted(
            f"interrupted while the test texts are scored: {where}.", partial=result(())
        ) from None
    whole = result(scores, calibration)
    if out is not None and folder is not None:
        whole.save(Path(out) / CHECKPOINT)
        remove(folder)
    return whole


def _calibrated(
    headed: ArceePreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    data: Data,
    recipe: HeadRecipe,
) -> Calibration:
    judge: Any = judged_spans if data.train.head == "qa" else judged
    said = [
        judge(part, headed, tokenizer, texts, batch_size=recipe.batch_size)
        for part, texts in data.unseen
    ]
    return calibrate(headed, said[0], said[1:])


def _refuse_adapters(model: nn.Module) -> None:
    adapters = {one for _, _, names in adapted_layers(model) for one in names}
    if adapters:
        raise ModelError(
            f"The model has the adapters {', '.join(sorted(adapters))}, and a new head is saved "
            "with its backbone as a plain checkpoint; give peft_model.merge_and_unload()."
        )


def _new_head(backbone: ArceeModel, data: Labelled) -> ArceePreTrainedModel:
    """The backbone under a head with random weights, on its device and in its dtype."""
    config = copy.deepcopy(backbone.config)
    size = 2  # start and end of a span
    if data.head != "qa":
        config.id2label = dict(enumerate(data.names))
        config.label2id = {name: i for i, name in config.id2label.items()}
        size = len(data.names)
    config.problem_type = "single_label_classification" if data.head == "sequence" else None
    with torch.device("meta"):  # a second backbone would be initialised only to be discarded
        headed: Any = HEADS[data.head](config)
    headed.model = backbone
    biased = getattr(headed, LAST_STEP[data.head]).bias is not None
    last = nn.Linear(config.hidden_size, size, bias=biased).to(backbone.device, backbone.dtype)
    nn.init.normal_(last.weight, std=config.initializer_range)
    if biased:
        nn.init.zeros_(last.bias)
    setattr(headed, LAST_STEP[data.head], last)
    return headed


@dataclass(frozen=True)
class _Fit:
    """What a fit works on, see `train_head`."""

    model: ArceePreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    data: Data
    rows: list[Any]
    recipe: HeadRecipe
    folder: Path | None
    interrupt: GracefulInterrupt
    progress: bool | None

    def collator(self) -> Callable[[list], dict[str, torch.Tensor]]:
        pad = self.model.config.pad_token_id or 0
        if self.data.train.head == "qa":
            return partial(collate_windows, pad=pad)
        return partial(collate, token=self.data.train.head == "token", pad=pad)

    def loss(self) -> dict[str, Any]:
        """The loss as arguments of the trainer; none of them where it is the model's own."""
        if self.data.train.head == "qa":
            return {"loss": span_loss, "extra": ("allowed",)}
        if self.recipe.class_weights == "balanced":
            return {"loss": partial(weighted_loss, weights=balanced_weights(self.data.train))}
        return {}

    def held_out(self, trained: nn.Module) -> KeepBest | None:
        data = self.data.held_out
        if data is None:
            return None

        def score() -> dict[str, float]:
            self.model.eval()  # the trainer sets the mode before each step
            batch_size = self.recipe.batch_size
            return values_of(items_of(self.model, self.tokenizer, data, batch_size))

        return KeepBest(
            every=-(-len(self.rows) // self.recipe.batch_size),
            score=score,
            metric=deciding_metric(data, self.recipe.metric),
            patience=self.recipe.patience,
            trained=lambda: {n: one for n, one in trained.named_parameters() if one.requires_grad},
        )


def _fit(fit: _Fit) -> tuple[list[dict[str, int | float]], list[Look], int, int]:
    """Trains.

    Returns:
        The logged losses, the looks at held-out texts, the step whose weights are kept, and the
        step after which Ctrl-C ended it, or 0.
    """
    model, recipe, folder = fit.model, fit.recipe, fit.folder
    wanted = {name: weight.requires_grad for name, weight in model.named_parameters()}
    last = LAST_STEP[fit.data.train.head]
    for name, weight in model.named_parameters():
        weight.requires_grad_(recipe.tune == "full" or name.startswith(f"{last}."))
    trained: Any = _with_lora(model, recipe, last) if recipe.tune == "lora" else model
    cache, model.config.use_cache = model.config.use_cache, False
    every = 1 if folder is None else _LOG_EVERY
    stop = StopAfterCtrlC(fit.interrupt, every, keeps=folder is not None)
    best = fit.held_out(trained)
    callbacks: list[TrainerCallback] = [_ProgressBar(progress=fit.progress), stop]
    if best is not None:
        callbacks.insert(1, best)  # before the state is saved, which holds its scores
    if folder is not None:
        callbacks.append(SavePeriodically(_LOG_EVERY))
    try:
        with tempfile.TemporaryDirectory() as nothing:
            trainer = ResumableTrainer(
                None if folder is None else folder / STATE,
                best=best,
                **fit.loss(),
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
                train_dataset=fit.rows,  # pyright: ignore[reportArgumentType]
                data_collator=fit.collator(),
                callbacks=callbacks,
            )
            trainer.remove_callback(PrinterCallback)
            trainer.remove_callback(ProgressCallback)
            trainer.go_on(Path(nothing))
        if best is not None and not stop.stopped:
            best.restore_best()
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
    kept = step = trainer.state.global_step
    if best is not None and best.looks and recipe.patience is not None:
        kept = int(best.best["step"])
    return losses, [] if best is None else best.looks, kept, step if stop.stopped else 0


def _with_lora(model: ArceePreTrainedModel, recipe: HeadRecipe, last: str) -> Any:
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
        modules_to_save=[last],
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
