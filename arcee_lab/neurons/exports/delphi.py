"""delphi's latent cache of a run's layers, written by the exporter of activation stores."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from arcee_lab.dump.config import DumpConfig
from arcee_lab.dump.reading.exports import export
from arcee_lab.dump.writing.job import write as dump
from arcee_lab.errors import SettingError
from arcee_lab.neurons.reading.values import require_same

OPTIONS = ("layers", "context", "example", "splits")


def write(
    run: Any,
    units: None,
    out: Path,
    *,
    model: Any,
    tokenizer: Any,
    layers: Sequence[int] | None = None,
    **options: Any,
) -> tuple[int, dict[str, int]]:
    """Writes `store/`, an activation store of the run's windows, and from it `cache/`.

    delphi wants 200 examples of a latent, which no run keeps, so the windows are read once more.

    Args:
        run: The run.
        units: None: the cache holds whole layers.
        out: A folder.
        model: The model of the run.
        tokenizer: Its tokenizer.
        layers: Which layers; by default those of the run.
        **options: `context=`, `example=` and `splits=`, as for a store's own export.

    Returns:
        Values written, and what was lost.

    Raises:
        SettingError: A layer that the run does not have, or options out of their range.
    """
    chosen = run.layers if layers is None else tuple(layers)
    unknown = [layer for layer in chosen if layer not in run.layers]
    if unknown or not chosen:
        raise SettingError(
            f"layers is {list(chosen)}; expected some of {', '.join(map(str, run.layers))}."
        )
    require_same(model, run.fingerprint)
    sites = tuple(f"layers.{layer}.mlp.hook_post" for layer in chosen)
    config = DumpConfig(sites=sites)
    store = dump(model, tokenizer, run.corpus.windows, out / "store", config, progress=False)
    made = export(store, "delphi", out / "cache", **options)
    return made.entries, dict(made.lost)
