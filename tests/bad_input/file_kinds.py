"""The kinds of file that a user may get from somebody else, and how each is read.

A new package adds a line to `KINDS`: a name, where the file is on the `Ground`, what the mutator
takes it for, and the calls that read it. A call ends in an error of our tree, or in a result whose
tables and sentence can be read; nothing else is right.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ground import TEXTS, Ground


@dataclass(frozen=True)
class FileKind:
    """One kind of file.

    Attributes:
        name: What it is.
        folder: The folder of the ground that holds it.
        file: Its name there, or a pattern.
        kind: What the mutator takes it for.
        read: Reads a changed copy of the folder; the second argument is the file in it.
        share: How many of the mutations it gets, compared with the others.
    """

    name: str
    folder: Callable[[Ground], Path]
    file: str
    kind: str
    read: Callable[[Ground, Path, Path], object]
    share: int = 2


def _load(ground: Ground, folder: Path, file: Path) -> None:
    import arcee_lab as al

    model, tokenizer = al.load(folder)
    tokenizer(TEXTS)
    model(**ground.batch)


def _load_head(ground: Ground, folder: Path, file: Path) -> None:
    import arcee_lab as al

    al.load(folder, head="sequence")


def _info(ground: Ground, folder: Path, file: Path) -> None:
    from arcee_lab.cli.info import anatomy_facts

    anatomy_facts(str(folder))


def _open_store(ground: Ground, folder: Path, file: Path) -> None:
    import arcee_lab as al

    al.dump.verify(folder).frame()
    store = al.dump.open(folder)
    repr(store)
    store.neuron(0, 3).frame()
    store.neuron(1, 0).frame()


def _report(ground: Ground, folder: Path, file: Path) -> None:
    import arcee_lab as al

    report = al.sparsity.SparsityReport.load(folder)
    repr(report)
    report._repr_html_()
    for frames in (report.frames, report.results):
        for name in frames:
            getattr(frames[name], "headline", None)
    report.figure()


def _resume(ground: Ground, folder: Path, file: Path) -> None:
    import arcee_lab as al

    al.sparsity.measure(ground.model, ground.tokenizer, TEXTS, resume=file, keep_resume=True)


def _statistics(ground: Ground, folder: Path, file: Path) -> None:
    import arcee_lab as al

    stats = al.reducers.load(folder)
    repr(stats)
    for site in stats:
        stats[site]


def _interventions(ground: Ground, folder: Path, file: Path) -> None:
    import arcee_lab as al

    text = file.read_bytes().decode("utf-8", "surrogateescape")
    with al.intervene(ground.model, al.interventions.from_json(text)):
        ground.model(**ground.batch)


def _texts(ground: Ground, folder: Path, file: Path) -> None:
    import arcee_lab as al

    al.data.cut(ground.tokenizer, al.data.read_files([file]), context=16)


def _labelled(ground: Ground, folder: Path, file: Path) -> None:
    import arcee_lab as al

    al.training.heads.read_labelled(file, head="sequence")


def _words(ground: Ground, folder: Path, file: Path) -> None:
    import arcee_lab as al

    al.training.heads.read_labelled(file, head="token")


def _questions(ground: Ground, folder: Path, file: Path) -> None:
    import arcee_lab as al

    al.training.heads.read_labelled(file, head="qa")


def _exemplars(ground: Ground, folder: Path, file: Path) -> None:
    import arcee_lab as al

    found = al.neurons.Exemplars.load(folder)
    repr(found)
    found.frame()


def _tuned(ground: Ground, folder: Path, file: Path) -> None:
    import arcee_lab as al

    repr(al.lens.TunedLens.load(folder, ground.model))


def _direction(ground: Ground, folder: Path, file: Path) -> None:
    import arcee_lab as al

    repr(al.directions.load(file, ground.model))


CHECKPOINT: Callable[[Ground], Path] = lambda ground: ground.checkpoint  # noqa: E731
KINDS = (
    FileKind("config.json (load)", CHECKPOINT, "config.json", "json", _load, 6),
    FileKind("config.json (info)", CHECKPOINT, "config.json", "json", _info, 4),
    FileKind("tokenizer.json", CHECKPOINT, "tokenizer.json", "json", _load),
    FileKind("tokenizer_config.json", CHECKPOINT, "tokenizer_config.json", "json", _load, 4),
    FileKind("generation_config.json", CHECKPOINT, "generation_config.json", "json", _load, 1),
    FileKind("weights", CHECKPOINT, "model.safetensors", "safetensors", _load),
    FileKind("shard index", lambda g: g.sharded, "model.safetensors.index.json", "json", _load, 3),
    FileKind("heads.json", lambda g: g.with_head, "heads.json", "json", _load_head),
    FileKind(
        "head file",
        lambda g: g.with_head,
        "heads/sequence.safetensors",
        "safetensors",
        _load_head,
        1,
    ),
    FileKind("manifest", lambda g: g.store, "manifest.json", "json", _open_store, 6),
    FileKind("shard", lambda g: g.store, "*/*.safetensors", "forged", _open_store, 4),
    FileKind("report", lambda g: g.report, "report.json", "json", _report, 3),
    FileKind("counts", lambda g: g.report, "counts.safetensors", "safetensors", _report, 4),
    FileKind("further", lambda g: g.report, "further.safetensors", "safetensors", _report, 4),
    FileKind("resume", lambda g: g.resume, "resume.safetensors", "safetensors", _resume, 2),
    FileKind("statistics", lambda g: g.statistics, "*.json", "json", _statistics, 3),
    FileKind(
        "states", lambda g: g.statistics, "states-*.safetensors", "forged states", _statistics, 2
    ),
    FileKind(
        "interventions",
        lambda g: g.interventions.parent,
        "edits.json",
        "json",
        _interventions,
        6,
    ),
    FileKind("exemplars", lambda g: g.exemplars, "exemplars.json", "json", _exemplars, 3),
    FileKind("exemplar states", lambda g: g.exemplars, "*.safetensors", "bytes", _exemplars, 1),
    FileKind("tuned lens", lambda g: g.tuned, "tuned_lens.json", "json", _tuned, 3),
    FileKind("tuned tensors", lambda g: g.tuned, "*.safetensors", "safetensors", _tuned, 2),
    FileKind(
        "direction", lambda g: g.direction, "direction.safetensors", "safetensors", _direction, 4
    ),
    FileKind("texts.jsonl", lambda g: g.text.parent, "texts.jsonl", "jsonl", _texts, 4),
    FileKind("texts.csv", lambda g: g.csv.parent, "texts.csv", "csv", _texts, 2),
    FileKind("texts.parquet", lambda g: g.parquet.parent, "texts.parquet", "parquet", _texts, 4),
    FileKind("labelled.jsonl", lambda g: g.labelled.parent, "labelled.jsonl", "jsonl", _labelled),
    FileKind("words.conll", lambda g: g.words.parent, "words.conll", "bytes", _words, 2),
    FileKind("words.conllu", lambda g: g.universal.parent, "words.conllu", "bytes", _words, 2),
    FileKind("squad.json", lambda g: g.squad.parent, "squad.json", "json", _questions, 3),
)
