"""Dense windows in a Hugging Face data set, as SAELens' `ActivationsStore` reads them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from arcee_lab.dump.exports import Export
from arcee_lab.dump.tokens import Tokens

if TYPE_CHECKING:
    from arcee_lab.dump.store import Store


def write(
    store: "Store",
    out: Path,
    sites: Sequence[str],
    *,
    context: int | None = None,
    names: Mapping[str, str] | None = None,
) -> Export:
    """Writes a data set a site, `SITE/`: a column of [context, width] and one of `token_ids`.

    All rows must have one length, so windows are cut to `context`, and shorter ones are left out;
    tokens that go missing so are counted. Values are exact: bfloat16 is written as float32, which
    Arrow has. Load a data set with `datasets.load_from_disk`, or give its folder to SAELens as
    `cached_activations_path`.

    Args:
        store: The store.
        out: The folder.
        sites: The sites; `hook_post` gives squares.
        context: Tokens a row; by default the longest window.
        names: Name of the column of values, by site, where it is not the site's own: SAELens looks
            for its `hook_name`.

    Raises:
        ValueError: No window is that long.
    """
    from datasets import Array2D, Dataset, Features, Sequence, Value
    from datasets.arrow_writer import ArrowWriter

    known = store.token_data()
    windows, context, n_lost = _whole_windows(known, context)
    if not len(windows):
        raise ValueError(f"no window has {context} tokens; choose a shorter context=")
    files: list[Path] = []
    entries = 0
    for name in sites:
        site, _ = store.find(name)
        column = (names or {}).get(name, name)
        dtype = "float16" if site.value_dtype == torch.float16 else "float32"
        features = Features(
            {
                column: Array2D(shape=(context, site.width), dtype=dtype),
                "token_ids": Sequence(Value("int32"), length=context),
            }
        )
        part = out / f".{name}.part.arrow"
        try:
            with ArrowWriter(path=str(part), features=features) as writer:
                for start in windows.tolist():
                    cut = slice(start, start + context)
                    values = store.tokens(cut, name, form="numpy").reshape(context, site.width)
                    writer.write({column: values, "token_ids": known.ids[cut].numpy()})
                    entries += values.size
                writer.finalize()
            Dataset.from_file(str(part)).save_to_disk(out / name)
        finally:
            part.unlink(missing_ok=True)
        files += sorted(path for path in (out / name).iterdir())
    lost = {"tokens of windows that are shorter or longer than a row": n_lost}
    return Export("saelens", out, tuple(files), entries, lost)


def _whole_windows(known: Tokens, context: int | None) -> tuple[np.ndarray, int, int]:
    """First token of each window that fills a row, the row's length, and the tokens lost."""
    _, counts = torch.unique_consecutive(known.windows[known.attended], return_counts=True)
    context = context or (int(counts.max()) if len(counts) else 1)
    _, sizes = torch.unique_consecutive(known.windows, return_counts=True)
    starts = (sizes.cumsum(0) - sizes).numpy()
    running = np.concatenate([[0], np.cumsum(known.attended.numpy())])
    fits = starts + context <= len(known)
    full = np.zeros(len(starts), dtype=bool)
    behind = starts[fits] + context
    same = known.windows.numpy()[behind - 1] == known.windows.numpy()[starts[fits]]
    full[fits] = same & (running[behind] - running[starts[fits]] == context)
    return starts[full], context, int(known.attended.sum()) - int(full.sum()) * context
