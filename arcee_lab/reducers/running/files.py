"""Statistics in a folder: states in safetensors, what they are in JSON; checked before use."""

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open

from arcee_lab.errors import SavedDamaged
from arcee_lab.reducers.active_count import ActiveCount
from arcee_lab.reducers.coactivation import CoActivation
from arcee_lab.reducers.covariance import MeanCovariance
from arcee_lab.reducers.firing import FiringRate
from arcee_lab.reducers.grouped import Grouped
from arcee_lab.reducers.histogram import Histogram
from arcee_lab.reducers.moments import Moments
from arcee_lab.reducers.quantile import Quantile
from arcee_lab.reducers.reducer import Reducer, ReducerSpec, State, reducer_of, settings_of
from arcee_lab.reducers.topk import TopK
from arcee_lab.runs.json_text import read_json, reason
from arcee_lab.runs.storage import make_folder, sha256, write_atomic, write_json
from arcee_lab.sites import LOGIT_AXES, Legend

FILE = "statistics.json"
FORMAT, VERSION = "arcee_lab.statistics", 1
_STATES = re.compile(r"states-[0-9a-f]{16}\.safetensors")
_DTYPES = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16"}
_DTYPES |= {torch.bfloat16: "BF16", torch.int64: "I64", torch.int32: "I32", torch.int16: "I16"}
_DTYPES |= {torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL"}


@dataclass(frozen=True, eq=False)
class SavedStatistics:
    """The parts of `Statistics`, whose attributes these are."""

    legend: Legend
    requests: Mapping[str, ReducerSpec]
    shapes: Mapping[str, tuple[int, ...]]
    states: Mapping[str, tuple[State, ...]]
    fingerprint: str
    progress: Mapping[str, Any]

    def reducers(self, site: str) -> tuple[Reducer, ...]:
        """The reducers of a site, in the order asked for."""
        spec = self.requests[site]
        return (spec,) if isinstance(spec, Reducer) else spec


def write(statistics: SavedStatistics, folder: Path) -> Path:
    """Writes statistics; see `Statistics.save`."""
    described = _describe(statistics)
    _check_free(folder, described)
    tensors = {
        f"{site}/{number}/{name}": tensor.detach().to("cpu", dtype).contiguous()
        for site in statistics.states
        for number, state in enumerate(statistics.states[site])
        for (name, tensor), dtype in zip(
            state.items(), _dtypes(statistics, site, number), strict=True
        )
    }
    content = safetensors.torch.save(tensors)
    digest = hashlib.sha256(content).hexdigest()
    make_folder(folder)
    states = write_atomic(folder / f"states-{digest[:16]}.safetensors", content)
    # The JSON names its states, so that a crash leaves the former pair or this one.
    written = {"path": states.name, "bytes": len(content), "sha256": digest}
    path = write_json(
        folder / FILE, described | {"progress": dict(statistics.progress), "states": written}
    )
    for other in folder.glob("states-*.safetensors"):
        if other.name != states.name:
            other.unlink()
    return path


def read(folder: Path, *, reducers: Iterable[type[Reducer]] = ()) -> SavedStatistics:
    """Reads what `write` wrote; see `arcee_lab.reducers.load`.

    Raises:
        ValueError: The folder holds no statistics, or they are damaged.
    """
    where = folder / FILE
    if not where.is_file():
        raise SavedDamaged(f"{folder} holds no statistics: {FILE} is missing. Check the path.")
    try:
        return _read(folder, read_json(where), reducers)
    except (ValueError, TypeError, KeyError, RuntimeError, OSError, SafetensorError) as error:
        said = f"{type(error).__name__} {error}" if isinstance(error, KeyError) else reason(error)
        raise SavedDamaged(f"{where} cannot be used: {said}. Make the statistics anew.") from None


def known_reducers(own: Iterable[type[Reducer]] = ()) -> dict[str, type[Reducer]]:
    """The classes that a file may name: ours, and those given."""
    ours = (
        ActiveCount,
        CoActivation,
        FiringRate,
        Grouped,
        Histogram,
        MeanCovariance,
        Moments,
        Quantile,
        TopK,
    )
    return {cls.__name__: cls for cls in (*ours, *own)}


def _describe(statistics: SavedStatistics) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "version": VERSION,
        "model": {
            "fingerprint": statistics.fingerprint,
            "layers": statistics.legend.n_layers,
            "head": statistics.legend.head,
        },
        "sites": {
            site: {
                "shape": list(statistics.shapes[site]),
                "reducers": settings_of(spec)
                if isinstance(spec, Reducer)
                else [settings_of(reducer) for reducer in spec],
            }
            for site, spec in statistics.requests.items()
        },
    }


def _check_free(folder: Path, described: Mapping[str, Any]) -> None:
    if folder.exists() and not folder.is_dir():
        raise SavedDamaged(f"output folder {folder} is a file; choose another name")
    file = folder / FILE
    if not file.exists():
        if folder.exists() and any(folder.iterdir()):
            raise SavedDamaged(f"output folder {folder} holds other files; choose a new one")
        return
    try:
        theirs = read_json(file)
        same = all(theirs[key] == described[key] for key in described)
    except (ValueError, TypeError, KeyError):
        raise SavedDamaged(f"{file} is damaged; remove its folder or choose another") from None
    if not same:
        what = "model" if theirs["model"] != described["model"] else "sites or reducers"
        raise SavedDamaged(
            f"output folder {folder} holds statistics of another run (its {what} differ); choose a "
            "new folder, or remove this one"
        )


def _dtypes(statistics: SavedStatistics, site: str, number: int) -> list[torch.dtype]:
    # As on a CPU: a device without fp64 keeps its sums in fp32.
    reducer = statistics.reducers(site)[number]
    template = _template(reducer, statistics.shapes[site])
    return [template[name].dtype for name in statistics.states[site][number]]


def _template(reducer: Reducer, shape: tuple[int, ...]) -> State:
    return reducer.init(shape, torch.device("meta"))


def _read(folder: Path, found: Any, own: Iterable[type[Reducer]]) -> SavedStatistics:
    keys = {"format", "version", "model", "sites", "progress", "states"}
    if not isinstance(found, dict) or set(found) != keys:
        raise SavedDamaged(f"expected the keys {', '.join(sorted(keys))}")
    if (found["format"], found["version"]) != (FORMAT, VERSION):
        raise SavedDamaged(
            f"it is {found['format']!r} version {found['version']!r}; expected {FORMAT!r} version "
            f"{VERSION}"
        )
    model, sites, progress = found["model"], found["sites"], found["progress"]
    if not isinstance(progress, dict) or not isinstance(sites, dict) or not sites:
        raise SavedDamaged("sites and progress: expected objects, and at least one site")
    legend = _legend(model)
    requests: dict[str, ReducerSpec] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    classes = known_reducers(own)
    for site, described in sites.items():
        if legend.canonical(site) != site:
            raise SavedDamaged(f"{site!r} is no canonical name of a site")
        given = described["reducers"]
        requests[site] = (
            tuple(reducer_of(one, classes) for one in given)
            if isinstance(given, list)
            else reducer_of(given, classes)
        )
        shape = described["shape"]
        if not isinstance(shape, list) or not all(type(n) is int and n > 0 for n in shape):
            raise SavedDamaged(f"shape of {site} is {shape!r}; expected lengths above 0")
        shapes[site] = tuple(shape)
    if list(sites) != [site for site in legend.sites() if site in sites]:
        raise SavedDamaged("sites: expected forward order")
    statistics = SavedStatistics(legend, requests, shapes, {}, model["fingerprint"], progress)
    return replace(statistics, states=_read_states(folder, found["states"], statistics))


def _legend(model: Any) -> Legend:
    layers, head, word = (model[key] for key in ("layers", "head", "fingerprint"))
    if type(layers) is not int or not 0 < layers < 10_000:
        raise SavedDamaged(f"model has {layers!r} layers; expected a number above 0")
    if head not in ("base", *LOGIT_AXES):
        raise SavedDamaged(f"model has the head {head!r}; expected base, {', '.join(LOGIT_AXES)}")
    if not isinstance(word, str) or not re.fullmatch("[0-9a-f]{64}", word):
        raise SavedDamaged("the model's fingerprint is not 64 hexadecimal digits")
    return Legend(layers, head)


def _read_states(
    folder: Path, written: Any, statistics: SavedStatistics
) -> dict[str, tuple[State, ...]]:
    found: dict[str, tuple[State, ...]] = {}
    name = written["path"]
    if not isinstance(name, str) or not _STATES.fullmatch(name):
        raise SavedDamaged(f"states are in {name!r}; expected states-<16 hex digits>.safetensors")
    path = folder / name
    if not path.is_file() or path.is_symlink() or path.stat().st_size != written["bytes"]:
        raise SavedDamaged(f"{name} is missing, or not {written['bytes']} bytes long")
    if sha256(path) != written["sha256"]:
        raise SavedDamaged(f"{name} was changed: its SHA-256 is another")
    with safe_open(path, framework="pt") as file:
        held = set(file.keys())
        for site in statistics.requests:
            states = []
            for number, reducer in enumerate(statistics.reducers(site)):
                template = _template(reducer, statistics.shapes[site])
                names = {f"{site}/{number}/{key}": key for key in template}
                if not held & set(names):
                    continue  # saved before the first forward
                for full, key in names.items():
                    _check_tensor(file, full, template[key])
                state = {key: file.get_tensor(full) for full, key in names.items()}
                held -= set(names)
                _check_state(reducer, state, site)
                states.append(state)
            if states:
                if len(states) < len(statistics.reducers(site)):
                    raise SavedDamaged(f"{site} lacks the states of some of its reducers")
                found[site] = tuple(states)
    if held:
        raise SavedDamaged(f"{name} holds {sorted(held)[0]!r}, which no reducer keeps")
    return found


def _check_tensor(file: Any, name: str, template: torch.Tensor) -> None:
    found = file.get_slice(name)
    shape, dtype = tuple(found.get_shape()), found.get_dtype()
    if shape != tuple(template.shape) or dtype != _DTYPES.get(template.dtype):
        raise SavedDamaged(
            f"{name} is {dtype} {list(shape)}; expected {_DTYPES.get(template.dtype)} "
            f"{list(template.shape)}"
        )


def _check_state(reducer: Reducer, state: State, site: str) -> None:
    try:
        reducer.check(state)
    except ValueError as error:
        raise SavedDamaged(f"{site}, {type(reducer).__name__}: {error}") from None
