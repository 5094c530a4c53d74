"""The call that writes neurons for another program."""

import os
import shutil
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from arcee_lab.dump.reading.exports import STATEMENT, Export
from arcee_lab.errors import FileError, SettingError
from arcee_lab.neurons.exports.kinds import KINDS
from arcee_lab.neurons.pages._page import check_unit
from arcee_lab.runs import storage

MOST = 5_000  # neurons per call


def export(
    run: Any,
    kind: str,
    out: str | os.PathLike[str],
    *,
    model: Any,
    tokenizer: Any,
    units: Sequence[tuple[int, int]] | None = None,
    effects: Any = None,
    **options: Any,
) -> Export:
    """Writes neurons of a run for another program.

    `neuronpedia` writes activation records as Neuronpedia's database holds them, `sae_dashboard` a
    batch of features per layer, `neuron_explainer` one record per neuron, and `delphi` the latent
    cache of whole layers. Values per token are computed by the model.

    Args:
        run: What `al.neurons.exemplars` found.
        kind: `neuronpedia`, `sae_dashboard`, `neuron_explainer` or `delphi`.
        out: A new or empty folder. `export.json` states what was lost.
        model: The model that the run is of.
        tokenizer: Its tokenizer.
        units: Layer and number of each neuron, at most 5,000; for `delphi`, whose cache holds whole
            layers, None.
        effects: What `al.neurons.effects` found, for the tokens that a neuron raises and lowers
            (`sae_dashboard`).
        **options: `source_set=` of `neuronpedia` and `sae_dashboard`; `n_random=` and `seed=` of
            `neuron_explainer`; `layers=`, `context=`, `example=` and `splits=` of `delphi`.

    Returns:
        The files, and what was lost.

    Raises:
        SettingError: An unknown kind or option, or neurons that the run does not have.
        FileError: A folder in use or a full disk; then nothing of the export stays.
        OtherRun: The model is not the one of the run.
    """
    if kind not in KINDS:
        raise SettingError(f"export kind is {kind!r}; expected one of {', '.join(KINDS)}.")
    if kind == "delphi" and units is not None:
        raise SettingError("units came with delphi, whose cache holds whole layers; give layers=.")
    if kind != "delphi":
        units = [check_unit(run, *unit) for unit in units or ()]
        if not 1 <= len(units) <= MOST:
            raise SettingError(f"units has {len(units):,} neurons; expected 1 to {MOST:,}.")
        if len(set(units)) < len(units):
            raise SettingError("units names a neuron twice; expected each neuron once.")
    out = Path(out)
    storage.require_local(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileError(f"export folder {out} holds other files; choose a new one.")
    module = import_module(f"arcee_lab.neurons.exports.{kind}")
    write: Callable[..., tuple[int, dict[str, int]]] = module.write
    unknown = sorted(set(options) - set(module.OPTIONS))
    if unknown:
        known = ", ".join(module.OPTIONS)
        raise SettingError(f"{kind} has no option {unknown[0]!r}; expected one of {known}.")
    if kind == "sae_dashboard":
        options["effects"] = effects
    counted: list[Any] = []

    def fill(folder: Path) -> None:
        counted[:] = write(run, units, folder, model=model, tokenizer=tokenizer, **options)
        statement = {
            "kind": kind,
            "model": run.model,
            "model_fingerprint": run.fingerprint,
            "tokens": run.n_tokens,
            "entries": counted[0],
            "lost": counted[1],
        }
        storage.write_json(folder / STATEMENT, statement)

    files = _in_place(out, fill) if kind == "delphi" else storage.write_folder(out, fill)
    kept = tuple(path for path in files if path != out / STATEMENT)
    return Export(kind, out, kept, *counted)


def _in_place(out: Path, fill: Callable[[Path], object]) -> list[Path]:
    """Fills a folder that cannot be moved later, because a file holds its path; all or nothing."""
    storage.make_folder(out)
    try:
        fill(out)
    except BaseException:
        shutil.rmtree(out, ignore_errors=True)
        raise
    return sorted(path for path in out.rglob("*") if path.is_file())
