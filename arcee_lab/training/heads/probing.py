"""Linear probes of labelled texts, layer by layer, at the positions where the heads read."""

from torch import nn
from transformers import PreTrainedTokenizerBase

from arcee_lab.directions.layer_probes import MAX_POSITIONS, Probes, probe_rows
from arcee_lab.errors import TextError
from arcee_lab.model.anatomy import anatomy_of
from arcee_lab.runs.arguments import checked
from arcee_lab.training.heads.encoding import encode
from arcee_lab.training.heads.labelled import LabelledTexts


@checked
def probe_layers(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    train: LabelledTexts,
    test: LabelledTexts,
    *,
    batch_size: int = 8,
    strength: float = 1.0,
    max_positions: int = MAX_POSITIONS,
    progress: bool | None = None,
) -> Probes:
    """Fits a linear probe on the residual stream after every layer.

    A text's label is read at its last token, a word's at the word's last token, which is where the
    heads read. A probe is scikit-learn's logistic regression on standardised features.

    Args:
        model: Any Arcee model.
        tokenizer: Its tokenizer.
        train: Labelled texts to fit on.
        test: Held-out texts with the same labels.
        batch_size: Texts per forward.
        strength: The regression's `C`; smaller values regularise more.
        max_positions: Most labelled positions to fit on; of more, evenly spaced ones are used.
        progress: Show a bar over texts and layers; by default in notebooks and terminals.

    Returns:
        Accuracy of each layer on the test texts, with its 95 % bootstrap interval, and macro-F1.

    Raises:
        TextError: The labels differ, or a text does not fit the model.
        Interrupted: Ctrl-C was pressed while probes are fitted; its `partial` holds the finished
            layers.

    Example:
        >>> import arcee_lab as al
        >>> from arcee_lab.training.heads import probe_layers, read_labelled
        >>> model, tokenizer = al.load("demo")
        >>> train = read_labelled("demo:train", head="token", limit=9)
        >>> test = read_labelled("demo:test", head="token", limit=9)
        >>> len(probe_layers(model, tokenizer, train, test, progress=False).sites)
        5
    """
    if (test.head, test.names) != (train.head, train.names):
        raise TextError(
            f"The test texts have the labels {', '.join(test.names)}, the training texts "
            f"{', '.join(train.names)}; read them with names=train.names."
        )
    anatomy = anatomy_of(model)
    return probe_rows(
        model,
        encode(anatomy, tokenizer, train),
        encode(anatomy, tokenizer, test),
        batch_size=batch_size,
        strength=strength,
        max_positions=max_positions,
        progress=progress,
    )
