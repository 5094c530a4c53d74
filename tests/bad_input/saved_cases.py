"""Bad files of ours: stores, reports, resume states, statistics, interventions."""

import json
from collections.abc import Callable
from typing import Any

from cases import Case, command

ODD: list[Any] = [None, -1, 1e300, "x", [], {}, True, 10**30]


def cases() -> list[Case]:
    """All of them."""
    return _reports() + _stores() + _statistics() + _interventions() + _resumes()


def _at(whole: Any, path: tuple[Any, ...], value: Any) -> str:
    """JSON in which one value is another."""
    copy = json.loads(json.dumps(whole))
    inside = copy
    for key in path[:-1]:
        inside = inside[key]
    inside[path[-1]] = value
    return json.dumps(copy)


def _report(change: Callable[[Any], str], name: str = "report.json") -> Callable[[Any], object]:
    def run(ground: Any) -> object:
        import arcee_lab as al

        whole = json.loads((ground.report / name).read_text())
        folder = ground.changed(ground.report, name, change(whole))
        report = al.sparsity.SparsityReport.load(folder)
        return report.frame(), report.headline, report.figure()

    return run


def _reports() -> list[Case]:
    found = []
    fields = ("version", "model", "dtype", "n_windows", "sample_every", "stride", "seconds")
    for field in fields:
        for value in (None, -1, [], {}):
            found.append(
                Case(
                    f"report.{field}={value!r}",
                    _report(lambda whole, f=field, v=value: _at(whole, (f,), v)),
                )
            )
    for value in (5, [], {"x": 1}, None):
        for field in ("costs", "weights"):
            found.append(
                Case(
                    f"report.{field}={value!r}",
                    _report(lambda whole, f=field, v=value: _at(whole, (f,), v)),
                )
            )
    for name, content in {
        "empty": "",
        "a list": "[]",
        "deep": "[" * 10_000 + "]" * 10_000,
        "no JSON": "{",
        "a long number": '{"version": ' + "9" * 10_000 + "}",
    }.items():
        found.append(Case(f"report.json {name}", _report(lambda whole, c=content: c)))
    for key in (
        "core/tokens",
        "core/fired",
        "core/active",
        "core/max_post",
        "core/kept_ids",
        "core/kept_positions",
        "core/id_tokens",
        "core/position_tokens",
        "core/products",
        "core/sized",
        "norms",
    ):
        for how in ("negative", "large", "shape", "dtype", "gone"):
            if (key, how) in {
                ("norms", "large"),
                ("core/max_post", "large"),
                ("core/products", "large"),
            }:
                continue
            found.append(Case(f"report counts {key} {how}", _counts(key, how)))
    found.append(Case("report counts text", _raw_counts(b"hello")))
    found.append(Case("report counts empty", _raw_counts(b"")))
    for name in ("empty", "text", "results"):
        found.append(Case(f"report further {name}", _further(name)))
    found.append(Case("report of a folder that is a file", lambda g: _load_report(g.text)))
    found.append(Case("report of a path with a null byte", lambda g: _load_report("a\0b")))
    return found


def _load_report(folder: Any) -> Any:
    import arcee_lab as al

    return al.sparsity.SparsityReport.load(folder)


def _counts(key: str, how: str) -> Callable[[Any], object]:
    def run(ground: Any) -> object:
        import torch
        from safetensors.torch import load_file, save

        tensors = load_file(ground.report / "counts.safetensors")
        x = tensors[key]
        if how == "negative":
            tensors[key] = -x - 1
        elif how == "large":
            tensors[key] = torch.full_like(x, 2**62 if x.dtype == torch.int64 else 2**30)
        elif how == "shape":
            tensors[key] = x[..., None].contiguous()
        elif how == "dtype":
            tensors[key] = x.to(torch.float64)
        else:
            del tensors[key]
        folder = ground.changed(ground.report, "counts.safetensors", save(tensors))
        report = _load_report(folder)
        return report.headline, [frame for frame in report.frames.values()]

    return run


def _raw_counts(content: bytes) -> Callable[[Any], object]:
    return lambda ground: _load_report(ground.changed(ground.report, "counts.safetensors", content))


def _further(how: str) -> Callable[[Any], object]:
    def run(ground: Any) -> object:
        from safetensors.torch import load_file, save

        name = "further.safetensors"
        assert (ground.report / name).is_file()
        content = {"empty": b"", "text": b"hello"}.get(how)
        if content is None:
            tensors = load_file(ground.report / name)
            content = save(tensors, {"results": "[" * 10_000})
        return _load_report(ground.changed(ground.report, name, content))

    return run


def _stores() -> list[Case]:
    found = []
    paths: list[tuple[Any, ...]] = [
        ("format",),
        ("version",),
        ("model",),
        ("model", "name"),
        ("model", "config"),
        ("tokenizer",),
        ("data",),
        ("settings",),
        ("versions",),
        ("tags",),
        ("n_tokens",),
        ("sites",),
        ("sites", 0),
        ("sites", 0, "name"),
        ("sites", 0, "shape"),
        ("sites", 0, "dtype"),
        ("sites", 0, "layout"),
        ("shards",),
        ("shards", 0),
        ("shards", 0, "start"),
        ("shards", 0, "stop"),
        ("shards", 0, "tokens"),
        ("shards", 0, "tokens", "path"),
        ("shards", 0, "tokens", "bytes"),
        ("shards", 0, "tokens", "sha256"),
        ("shards", 0, "sites"),
    ]
    for path in paths:
        for value in (None, -1, 10**30):
            found.append(
                Case(
                    f"manifest {'.'.join(map(str, path))}={value!r}",
                    _manifest(lambda whole, p=path, v=value: _at(whole, p, v)),
                )
            )
    for name, content in {
        "empty": "",
        "a list": "[]",
        "deep": "[" * 10_000 + "]" * 10_000,
        "NaN": '{"format": NaN}',
        "binary": b"\xff\0",
    }.items():
        found.append(Case(f"manifest {name}", _manifest(lambda whole, c=content: c)))
    for what, how in (
        ("ids", "negative"),
        ("ids", "beyond the vocabulary"),
        ("positions", "negative"),
        ("documents", "negative"),
        ("windows", "negative"),
        ("relu", "NaN"),
        ("relu", "infinite"),
        ("relu", "negative"),
        ("resid", "NaN"),
    ):
        found.append(Case(f"verify a store with {what} {how}", _forged(what, how)))
    return found


def _manifest(change: Callable[[Any], bytes | str]) -> Callable[[Any], object]:
    def run(ground: Any) -> object:
        import arcee_lab as al

        whole = json.loads((ground.store / "manifest.json").read_text())
        folder = ground.changed(ground.store, "manifest.json", change(whole))
        try:
            al.dump.open(folder)
        except al.errors.ArceeLabError:
            command("verify", folder)(ground)  # both have to refuse it
        return None

    return run


def _forged(what: str, how: str) -> Callable[[Any], object]:
    """A store whose file has other numbers, and a manifest with its new checksum."""

    def run(ground: Any) -> object:
        import hashlib

        import torch
        from safetensors.torch import load_file, save

        import arcee_lab as al

        folder = ground.copy(ground.store)
        manifest = json.loads((folder / "manifest.json").read_text())
        shard = manifest["shards"][0]
        site = {"relu": "layers.0.mlp.hook_relu", "resid": "layers.0.hook_resid_post"}.get(what)
        entry = shard["tokens"] if site is None else shard["sites"][site]
        tensors = load_file(folder / entry["path"])
        number = {"negative": -1.0, "NaN": torch.nan, "infinite": torch.inf}.get(how, 2**30)
        names = [what] if site is None else [n for n, x in tensors.items() if x.is_floating_point()]
        assert names
        for name in names:
            tensors[name] = tensors[name].clone()
            tensors[name].reshape(-1)[0] = number
        content = save(tensors)
        entry["bytes"], entry["sha256"] = len(content), hashlib.sha256(content).hexdigest()
        (folder / entry["path"]).unlink()
        (folder / entry["path"]).write_bytes(content)
        (folder / "manifest.json").write_text(json.dumps(manifest))
        found = al.dump.verify(folder)
        if not found.intact:
            assert found.damages[0].path == entry["path"]
            raise al.errors.StoreDamaged(f"{found.damages[0].why}.")
        return found

    return run


def _statistics() -> list[Case]:
    found = []
    for path in (
        ("format",),
        ("version",),
        ("model",),
        ("model", "layers"),
        ("model", "head"),
        ("sites",),
        ("progress",),
        ("states",),
        ("states", "path"),
        ("states", "bytes"),
    ):
        for value in (None, [], 10**30):
            found.append(
                Case(
                    f"statistics {'.'.join(path)}={value!r}",
                    _statistic(lambda whole, p=path, v=value: _at(whole, p, v)),
                )
            )
    for name, content in {"empty": "", "deep": "[" * 10_000, "a list": "[]"}.items():
        found.append(Case(f"statistics {name}", _statistic(lambda whole, c=content: c)))
    return found


def _statistic(change: Callable[[Any], str]) -> Callable[[Any], object]:
    def run(ground: Any) -> object:
        import arcee_lab as al

        (name,) = [path.name for path in ground.statistics.glob("*.json")]
        whole = json.loads((ground.statistics / name).read_text())
        return al.reducers.load(ground.changed(ground.statistics, name, change(whole)))

    return run


def _interventions() -> list[Case]:
    texts = {
        "empty": "",
        "a list": "[]",
        "deep": "[" * 10_000 + "]" * 10_000,
        "a long number": '{"version": ' + "9" * 10_000 + "}",
        "NaN": '{"version": 1, "interventions": NaN}',
    }
    row: dict[str, Any] = {"kind": "Scale", "sites": ["layers.0.hook_resid_post"], "factor": 2.0}
    tensor = {"tensor": {"dtype": "float32", "shape": [1], "data": "AACAPw=="}}
    rows: dict[str, Any] = {
        "a number": 5,
        "no kind": {},
        "another kind": row | {"kind": "Delete"},
        "a kind of a list": row | {"kind": ["Scale"]},
        "a field too many": row | {"more": 1},
        "no factor": {"kind": "Scale", "sites": ["hook_embed"]},
        "factor is a text": row | {"factor": "two"},
        "factor null": row | {"factor": None},
        "factor a list": row | {"factor": [[1], [1, 2]]},
        "factor too large": row | {"factor": 1e300},
        "sites a number": row | {"sites": 5},
        "sites of numbers": row | {"sites": [5]},
        "no sites": row | {"sites": []},
        "an unknown site": row | {"sites": ["layers.9.nothing"]},
        "units of fractions": row | {"units": [0.5]},
        "units of texts": row | {"units": ["a"]},
        "units out of range": row | {"units": [10**30]},
        "positions a text": row | {"positions": "all"},
        "a mask of numbers": row | {"mask": [1]},
        "a tensor without data": row | {"factor": {"tensor": {}}},
        "a tensor of another length": row
        | {"factor": {"tensor": tensor["tensor"] | {"shape": [10**12, 10**12]}}},
        "a tensor of a negative shape": row
        | {"factor": {"tensor": tensor["tensor"] | {"shape": [-1]}}},
        "a tensor of nothing": row
        | {"factor": {"tensor": {"dtype": "float32", "shape": [0, 10**30], "data": ""}}},
        "a tensor of many axes": row
        | {"factor": {"tensor": {"dtype": "float32", "shape": [1] * 5000, "data": "AACAPw=="}}},
        "a tensor of another dtype": row
        | {"factor": {"tensor": tensor["tensor"] | {"dtype": "complex64"}}},
        "a dtype of a list": row | {"factor": {"tensor": tensor["tensor"] | {"dtype": []}}},
        "by site a list": row | {"factor": {"by_site": []}},
        "by site nothing": row | {"factor": {"by_site": {}}},
        "by site by site": row | {"factor": {"by_site": {"hook_embed": {"by_site": {}}}}},
        "alpha too large": {
            "kind": "Add",
            "sites": ["layers.0.hook_resid_post"],
            "direction": tensor,
            "alpha": 1e300,
        },
        "alpha a text": {
            "kind": "Add",
            "sites": ["hook_embed"],
            "direction": tensor,
            "alpha": "x",
        },
        "k a fraction": {"kind": "TopK", "sites": ["layers.0.mlp.hook_post"], "k": 0.5},
        "k too large": {"kind": "TopK", "sites": ["layers.0.mlp.hook_post"], "k": 10**30},
        "k negative": {"kind": "TopK", "sites": ["layers.0.mlp.hook_post"], "k": -1},
        "eps a text": {"kind": "Cett", "sites": ["layers.0.mlp.hook_post"], "eps": "x"},
        "eps negative": {"kind": "Cett", "sites": ["layers.0.mlp.hook_post"], "eps": -1},
        "bounds crossed": {"kind": "Clamp", "sites": ["hook_embed"], "low": 2, "high": 1},
        "bounds a text": {"kind": "Clamp", "sites": ["hook_embed"], "low": "x"},
        "to a number": {"kind": "Ablate", "sites": ["hook_embed"], "to": 5},
        "seed a text": {"kind": "Ablate", "sites": ["hook_embed"], "to": "resample", "seed": "x"},
    }
    found = [Case(f"interventions {name}", _edits(text)) for name, text in texts.items()]
    for name, one in rows.items():
        whole = json.dumps({"version": 1, "interventions": [one]})
        found.append(Case(f"interventions: {name}", _edits(whole)))
    return found


def _edits(text: str) -> Callable[[Any], object]:
    def run(ground: Any) -> object:
        import arcee_lab as al

        with al.intervene(ground.model, al.interventions.from_json(text)):
            ground.model(**ground.batch)
        return None

    return run


def _resumes() -> list[Case]:
    found = []
    for name, about in {
        "no JSON": "{",
        "a list": "[]",
        "deep": "[" * 10_000,
        "empty": "{}",
        "a long number": "9" * 10_000,
    }.items():
        found.append(Case(f"resume state {name}", _resume(about)))
    for name, content in {"empty": b"", "text": b"hello", "short": b"\x08\0\0\0\0\0\0\0{"}.items():
        found.append(Case(f"resume file {name}", _resume(content)))
    return found


def _resume(about: bytes | str) -> Callable[[Any], object]:
    def run(ground: Any) -> object:
        from ground import TEXTS
        from safetensors.torch import load_file, save

        import arcee_lab as al

        name, content = "resume.safetensors", about
        if isinstance(about, str):
            content = save(load_file(ground.resume / name), {"about": about, "sha256": "0" * 64})
        folder = ground.changed(ground.resume, name, content)
        return al.sparsity.measure(ground.model, ground.tokenizer, TEXTS, resume=folder / name)

    return run
