"""What the bad inputs are made of: a small model, its files, texts, and whatever we save.

Everything is made once, in one folder, and left as it is; a case that changes a file changes a
copy of its folder.
"""

import copy
import json
import os
import shutil
from functools import cached_property
from pathlib import Path
from typing import Any

TEXTS = ["The dogs near the gate bark .", "The lamp finds the red king .", "A cat sleeps ."]


class Ground:
    """Makes each thing when it is first asked for.

    Args:
        folder: An empty folder.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._copies = 0

    def warm_up(self) -> None:
        """Imports what is slow to import, and makes every file."""
        import arcee_lab as al
        import arcee_lab.training.heads

        for name in dir(al):
            getattr(al, name)
        for name, value in vars(type(self)).items():
            if isinstance(value, cached_property):
                getattr(self, name)
        al.evals.run(self.model, self.tokenizer, tasks="arcee_demo_text_copy", limit=1)

    def names(self) -> dict[str, Any]:
        """What expressions of cases may name."""
        return {
            "model": self.model,
            "tokenizer": self.tokenizer,
            "texts": TEXTS,
            "batch": self.batch,
            "tmp": self.folder,
            "ground": self,
            "new": self.new,
            "labelled": self.read_labelled,
            "small_config": self.small_config,
            "other_model": self.other_model,
            "reader": self.reader,
            "neuron_of_reader": self.neuron_of_reader,
            "asked": [("Who?", TEXTS[0])],
        }

    def new(self) -> Path:
        """A path at which nothing is."""
        self._copies += 1
        return self.folder / f"new-{self._copies}"

    def copy(self, folder: Path) -> Path:
        """A copy of a folder; large files are linked, so a case must not write into them."""
        target = self.new()
        shutil.copytree(folder, target, copy_function=_link)
        return target

    def changed(self, folder: Path, name: str, content: bytes | str | None) -> Path:
        """A copy of a folder in which one file holds something else, or is gone (None)."""
        target = self.copy(folder)
        (target / name).unlink(missing_ok=True)
        if content is not None:
            (target / name).parent.mkdir(exist_ok=True)
            (target / name).write_bytes(content.encode() if isinstance(content, str) else content)
        return target

    def file(self, name: str, content: bytes | str) -> Path:
        """A new file in a folder of its own."""
        path = self.new() / name
        path.parent.mkdir(parents=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    @property
    def out(self) -> Path:
        """As `new`, for the words of commands."""
        return self.new()

    @cached_property
    def checkpoint(self) -> Path:
        """A model of two layers with the demo's tokenizer, saved whole."""
        import torch

        import arcee_lab as al
        from arcee_lab.model.loading import DEMO

        torch.manual_seed(0)
        config = al.ArceeConfig(
            vocab_size=1384,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=64,
            pad_token_id=0,
        )
        folder = self.folder / "checkpoint"
        al.ArceeForCausalLM(config).save_pretrained(folder)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(DEMO / name, folder)
        return folder

    @cached_property
    def sharded(self) -> Path:
        """The same in several shards."""
        import arcee_lab as al

        folder = self.copy(self.checkpoint)
        (folder / "model.safetensors").unlink()
        model, _ = al.load(self.checkpoint)
        model.save_pretrained(folder, max_shard_size="40KB")
        assert (folder / "model.safetensors.index.json").is_file()
        return folder

    @cached_property
    def config(self) -> dict[str, Any]:
        """What the checkpoint's config.json holds."""
        return json.loads((self.checkpoint / "config.json").read_text())

    @cached_property
    def loaded(self) -> tuple[Any, Any]:
        """The model and its tokenizer."""
        import arcee_lab as al

        return al.load(self.checkpoint)

    @property
    def model(self) -> Any:
        """The model."""
        return self.loaded[0]

    @property
    def tokenizer(self) -> Any:
        """Its tokenizer."""
        return self.loaded[1]

    @cached_property
    def batch(self) -> Any:
        """Two padded sequences."""
        return self.tokenizer(TEXTS[:2], return_tensors="pt", padding=True)

    @cached_property
    def text(self) -> Path:
        """A file of texts."""
        return self.file("texts.jsonl", "".join(json.dumps({"text": t}) + "\n" for t in TEXTS))

    @cached_property
    def csv(self) -> Path:
        """The same as a table with commas."""
        rows = "".join(f'{number},"{text}"\n' for number, text in enumerate(TEXTS))
        return self.file("texts.csv", f"number,text\n{rows}")

    @cached_property
    def parquet(self) -> Path:
        """The same as a Parquet file."""
        import pandas as pd

        path = self.file("texts.parquet", "")
        pd.DataFrame({"text": TEXTS, "number": range(len(TEXTS))}).to_parquet(path)
        return path

    @cached_property
    def with_head(self) -> Path:
        """The checkpoint with a sequence head of its own."""
        import torch
        from safetensors.torch import save

        weights = save({"score.weight": torch.zeros(2, 16)})
        folder = self.changed(self.checkpoint, "heads/sequence.safetensors", weights)
        names = '{"sequence": {"id2label": {"0": "a", "1": "b"}}}'
        return self.changed(folder, "heads.json", names)

    @cached_property
    def labelled(self) -> Path:
        """A file of labelled texts."""
        rows = [{"text": t, "label": "ab"[i % 2]} for i, t in enumerate(TEXTS)]
        return self.file("labelled.jsonl", "".join(json.dumps(row) + "\n" for row in rows))

    @cached_property
    def words(self) -> Path:
        """A file of words with their labels in columns."""
        return self.file("words.conll", "".join(f"{t} X B-A\n\n" for t in TEXTS[0].split()))

    @cached_property
    def universal(self) -> Path:
        """The same in CoNLL-U."""
        cells = "_\tNOUN\t_\tNumber=Sing\t0\troot\t_\t_"
        rows = [f"{n}\t{t}\t{cells}\n" for n, t in enumerate(TEXTS[0].split(), start=1)]
        return self.file("words.conllu", "# sent_id = 1\n" + "".join(rows) + "\n")

    @cached_property
    def squad(self) -> Path:
        """Questions in SQuAD's JSON."""
        answers = [{"text": TEXTS[0][:3], "answer_start": 0}]
        asked = {"question": "Who?", "id": "1", "answers": answers, "is_impossible": False}
        paragraphs = [{"context": TEXTS[0], "qas": [asked]}]
        content = {"version": "v2.0", "data": [{"title": "a", "paragraphs": paragraphs}]}
        return self.file("squad.json", json.dumps(content))

    @cached_property
    def read_labelled(self) -> Any:
        """The same, read."""
        import arcee_lab as al

        return al.training.heads.read_labelled(self.labelled, head="sequence")

    @cached_property
    def reader(self) -> Any:
        """The demo's question-answering model."""
        import arcee_lab as al

        return al.load("demo", head="qa")[0]

    @cached_property
    def neuron_of_reader(self) -> Any:
        """A direction of it."""
        import arcee_lab as al

        return al.directions.neuron(self.reader, 2, 7)

    def other_model(self) -> Any:
        """A copy of the model."""
        return copy.deepcopy(self.model)

    def small_config(self, **changed: Any) -> Any:
        """A configuration like the checkpoint's."""
        import arcee_lab as al

        fields = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers")
        heads = ("num_attention_heads", "num_key_value_heads", "pad_token_id")
        return al.ArceeConfig(**{name: self.config[name] for name in (*fields, *heads)}, **changed)

    @property
    def cut_store(self) -> Path:
        """A store that lacks a file."""
        return self.changed(self.store, "tokens/00000.safetensors", None)

    @cached_property
    def store(self) -> Path:
        """An activation store with neurons by unit and by token, and a dense site."""
        import arcee_lab as al

        sites = ("layers.*.mlp.hook_post", "layers.0.hook_resid_post")
        config = al.dump.DumpConfig(sites=sites, layout="both", shard_tokens=64)
        out = self.new()
        al.dump.write(self.model, self.tokenizer, TEXTS * 4, out, config)
        return out

    @cached_property
    def measured(self) -> Any:
        """A report over the texts, with results of everything."""
        import arcee_lab as al

        return al.sparsity.measure(
            self.model, self.tokenizer, TEXTS * 4, analyses=["all", "further"]
        )

    @cached_property
    def report(self) -> Path:
        """The same, saved."""
        folder = self.new()
        folder.mkdir()
        self.measured.save(folder)
        for path in folder.glob("*.p*"):  # figures and tables, which nothing reads
            path.unlink()
        return folder

    @cached_property
    def resume(self) -> Path:
        """The folder of a resume state, `resume.safetensors`."""
        import arcee_lab as al

        folder = self.new()
        folder.mkdir()
        al.sparsity.measure(
            self.model,
            self.tokenizer,
            TEXTS,
            resume=folder / "resume.safetensors",
            keep_resume=True,
        )
        return folder

    @cached_property
    def statistics(self) -> Path:
        """Saved statistics of reducers."""
        import arcee_lab as al

        spec = {
            "layers.*.mlp.hook_post": [al.reducers.FiringRate(), al.reducers.TopK(3)],
            "layers.0.hook_resid_post": al.reducers.Moments(),
        }
        with al.capture(self.model, spec) as stats:
            self.model(**self.batch)
        folder = self.new()
        stats.save(folder)
        return folder

    @cached_property
    def exemplars(self) -> Path:
        """Saved exemplars of neurons."""
        import arcee_lab as al

        folder = self.new()
        al.neurons.exemplars(self.model, self.tokenizer, TEXTS * 4, top=2, out=folder)
        return folder

    @cached_property
    def tuned(self) -> Path:
        """A saved tuned lens."""
        import arcee_lab as al

        folder = self.new()
        al.lens.tune(self.model, self.tokenizer, TEXTS * 8, steps=2, batch_size=4).save(folder)
        return folder

    @cached_property
    def direction(self) -> Path:
        """The folder of a saved direction, `direction.safetensors`."""
        import arcee_lab as al

        folder = self.new()
        folder.mkdir()
        al.directions.neuron(self.model, 1, 3).save(folder / "direction.safetensors")
        return folder

    @cached_property
    def interventions(self) -> Path:
        """Interventions as JSON, tensors among them."""
        import torch

        import arcee_lab as al

        edits = [
            al.Ablate("layers.1.mlp.hook_post", units=[3]),
            al.Add("layers.0.hook_resid_post", torch.ones(16), alpha=0.5, positions=[-1]),
            al.Clamp("layers.*.mlp.hook_pre", low=0.0, high=1.0),
        ]
        return self.file("edits.json", al.interventions.to_json(edits))


def _link(source: str, target: str) -> None:
    if os.path.getsize(source) > 1 << 16:
        os.link(source, target)
    else:
        shutil.copy2(source, target)
