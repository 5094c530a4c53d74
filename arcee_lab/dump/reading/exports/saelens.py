"""Dense rows in a Hugging Face data set, as SAELens' `ActivationsStore` reads them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from arcee_lab.dump.reading.exports import Export
from arcee_lab.dump.reading.exports.packing import pack

if TYPE_CHECKING:
    from arcee_lab.dump.reading.reader import Reader


def write(
    store: "Reader",
    out: Path,
    sites: Sequence[str],
    *,
    context: int = 128,
    names: Mapping[str, str] | None = None,
) -> Export:
    """Writes one data set per site, `SITE/`: a column of [context, width] and one of `token_ids`.

    All rows have one length, so all documents follow one another in rows of `context` tokens; the
    tokens after the last full row are left out and counted. A value is what the model computed in
    the token's own window, whatever else is in its row. Values are exact: bfloat16 is written as
    float32, which Arrow has. Load a data set with `datasets.load_from_disk`, or give its folder to
    SAELens as `cached_activations_path` together with the same `context_size`.

    Args:
        store: The store.
        out: The folder.
        sites: The sites; `hook_post` gives squares.
        context: Tokens per row; the default is SAELens' own.
        names: Name of the column of values by site, if not the site's own: SAELens looks for its
            `hook_name`.

    Raises:
        SettingError: The store does not fill one row.
    """
    from datasets import Array2D, Dataset, Features, Sequence, Value
    from datasets.arrow_writer import ArrowWriter

    known = store.token_data()
    packed = pack(known, context)
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
                for row in packed.tokens:
                    # Padding, which is in no row, may be between a row's tokens.
                    span = slice(int(row[0]), int(row[-1]) + 1)
                    values = store.tokens(span, name, form="numpy")[row - row[0]]
                    values = values.reshape(context, site.width)
                    ids = known.ids[torch.from_numpy(row)].numpy()
                    writer.write({column: values, "token_ids": ids})
                    entries += values.size
                writer.finalize()
            Dataset.from_file(str(part)).save_to_disk(out / name)
        finally:
            part.unlink(missing_ok=True)
        files += sorted(path for path in (out / name).iterdir())
    lost = {"tokens after the last full row": packed.n_left_out}
    return Export("saelens", out, tuple(files), entries, lost)
