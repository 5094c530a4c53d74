"""The call that opens the explorer."""

from typing import TYPE_CHECKING, Any

from torch import nn

from arcee_lab.explorer.ground import Ground
from arcee_lab.explorer.widget import Explorer
from arcee_lab.runs.arguments import checked

if TYPE_CHECKING:
    from arcee_lab.neurons.reading.result import Exemplars
    from arcee_lab.neurons.search.found import Found
    from arcee_lab.neurons.weights.result import Effects

TEXT = "The dogs near the old door"


@checked
def explore(
    model: nn.Module,
    tokenizer: Any,
    run: "Exemplars | None" = None,
    *,
    effects: "Effects | None" = None,
    found: "Found | None" = None,
    text: str = TEXT,
    selection: Any = (),
) -> Explorer:
    """Opens an interactive view of a model in JupyterLab: neurons, heads and lenses.

    Its tabs: all neurons in a table, with what each one fires on; values of the selected neurons
    and heads on a text that is typed; the next token with the selection switched off or scaled;
    attention of all heads; and the logit lens, with the layers, heads and neurons that made a
    token. What is not given is named where it would be shown, and the rest works.

    Everything runs in the kernel, in the main thread and after the cell that runs; the browser
    loads nothing from a network. A notebook that is only opened shows a table and a picture.

    Args:
        model: A language model of ours; it is not changed.
        tokenizer: Its tokenizer.
        run: What `al.neurons.exemplars` found, for rates, exemplars and histograms.
        effects: What `al.neurons.effects` found, for what neurons do to the logits; of a small
            model it is computed when it is shown.
        found: What `al.neurons.find` found, for labels and their scores.
        text: The text to begin with; at most 2,000 characters, of which 64 tokens are read.
        selection: Neurons and heads to begin with: names such as "L2/N681" and "L1/H3", or pairs
            `(layer, unit)`.

    Returns:
        The widget. Its `selection`, `head`, `text`, `factor` and `tab` can be read and set.

    Raises:
        ModelError: No language model of ours.
        OtherRun: The run is of another model.
        WrongType: An argument of another type, or two in each other's place.
        SettingError: A selection that the model does not have, or a result of another kind.

    Example:
        >>> import arcee_lab as al
        >>> model, tokenizer = al.load("demo")
        >>> explorer = al.explore(model, tokenizer, selection=["L2/N681"])
        >>> explorer.selection
        ('L2/N681',)
    """
    ground = Ground(model, tokenizer, run=run, effects=effects, found=found)
    return Explorer(ground, text=text, selection=selection)
