"""Runs notebooks cell by cell in forks of a warm process, on the demo and on other models.

A fork has torch, transformers and arcee_lab loaded, so a notebook costs its own work and not ten
seconds of imports. Cells run in IPython, as in a kernel; sockets that leave the machine are refused
and counted.
"""

import importlib.util
import json
import tempfile
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from warm_process import WarmProcess

ROOT = Path(__file__).parent.parent
_SPEC = importlib.util.spec_from_file_location("build", ROOT / "notebooks" / "build.py")
assert _SPEC
assert _SPEC.loader
build = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(build)
SOURCES: list[Path] = build.sources()

_WARM = """
import IPython.core.interactiveshell, matplotlib.figure, pandas, numpy
import arcee_lab.views.figures.figure, arcee_lab.views.figures.curves
import arcee_lab.sparsity.report.report, arcee_lab.lesson.outline, arcee_lab.neurons.search._find
"""
_CODE = """
import json, os, signal, socket, sys, threading, time
from pathlib import Path

job = json.loads(Path({job!r}).read_text())
calls = []

def refused(name):
    def call(*args, **kwargs):
        calls.append(f"{{name}} {{args[1:] if name != 'getaddrinfo' else args}}")
        raise OSError("this test has no network")
    return call

whole = socket.socket.connect
def connect(self, address):
    if self.family == getattr(socket, "AF_UNIX", None):
        return whole(self, address)
    return refused("connect")(self, address)

socket.socket.connect = connect
socket.socket.connect_ex = refused("connect_ex")
socket.getaddrinfo = refused("getaddrinfo")
socket.create_connection = refused("create_connection")

import pandas
from IPython.core.displayhook import DisplayHook
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output

class Shown(DisplayHook):  # the last value of a cell, as one of its outputs
    def write_output_prompt(self):
        pass

    def write_format_data(self, format_dict, md_dict=None):
        self.shell.display_pub.publish(format_dict, metadata=md_dict)

    def finish_displayhook(self):
        pass

os.chdir(job["folder"])
pandas.set_option("display.max_columns", 20)  # as where no terminal is
shell = InteractiveShell.instance(displayhook_class=Shown)
cells = []
for source in job["cells"]:
    start = time.perf_counter()
    if job["stop"] and job["stop"] in source:
        threading.Timer(job["after"], os.kill, (os.getpid(), signal.SIGINT)).start()
    with capture_output() as got:
        result = shell.run_cell(source, store_history=True)
    error = result.error_in_exec or result.error_before_exec
    outputs = [
        {{"keys": sorted(one.data), "text": str(one.data.get("text/plain", "")),
          "html": str(one.data.get("text/html", ""))}}
        for one in got.outputs
    ]
    cells.append({{
        "source": source, "stdout": got.stdout, "stderr": got.stderr, "outputs": outputs,
        "error": f"{{type(error).__name__}}: {{error}}\\n{{got.stdout[-3000:]}}" if error else "",
        "seconds": time.perf_counter() - start,
    }})
    if error and not job["stop"]:
        break
Path(job["out"]).write_text(json.dumps({{"cells": cells, "calls": calls}}))
"""


@dataclass(frozen=True)
class Cell:
    """What one cell gave.

    Attributes:
        source: Its code.
        stdout: What it printed.
        stderr: Likewise, warnings and logs.
        outputs: What it displayed: MIME types, plain text and HTML of each.
        error: Its error, "" if there was none.
        seconds: How long it took.
    """

    source: str
    stdout: str
    stderr: str
    outputs: list[dict[str, Any]]
    error: str
    seconds: float


@dataclass(frozen=True)
class Ran:
    """A notebook that ran.

    Attributes:
        cells: Its code cells, as far as they ran.
        calls: Attempts to reach another machine.
    """

    cells: list[Cell]
    calls: list[str]

    @property
    def left_out(self) -> list[str]:
        """The lines of the parts that did not apply."""
        return [
            one["text"]
            for cell in self.cells
            for one in cell.outputs
            if one["text"].startswith("Left out, ")
        ]

    def require(self) -> "Ran":
        """Itself, if every cell ran and nothing left the machine."""
        last = self.cells[-1]
        assert not last.error, f"{last.source}\n{last.error}"
        assert not self.calls, self.calls
        return self


class Runner:
    """Runs notebooks, one after the other; starts at the first one."""

    def __init__(self) -> None:
        self._warm = WarmProcess(_WARM)

    def run(
        self,
        source: Path,
        *,
        timeout: float = 240,
        stop: str = "",
        after: float = 0.0,
        then: str = "",
        **parameters: object,
    ) -> Ran:
        """Runs a notebook with other values in its parameter cell.

        Args:
            source: The notebook's source.
            timeout: In seconds.
            stop: Words of a cell that is interrupted; the notebook ends with it.
            after: How many seconds after its beginning.
            then: Code to run after that.
            parameters: What the parameter cell gets.
        """
        notebook = build.read(source)
        if parameters:
            build.parameterise(notebook, **parameters)
        cells = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
        if stop:
            last = next(number for number, cell in enumerate(cells) if stop in cell)
            cells = [*cells[: last + 1], then]
        with tempfile.TemporaryDirectory() as folder:
            job, out = Path(folder, "job.json"), Path(folder, "out.json")
            settings = {"cells": cells, "folder": str(build.HERE), "out": str(out)}
            job.write_text(json.dumps(settings | {"stop": stop, "after": after}))
            env = build.DEFAULTS | build.NO_BARS | build.QUIET
            code = textwrap.dedent(_CODE).format(job=str(job))
            exit_code, said, error = self._warm.run(code, timeout=timeout, env=env)
            assert exit_code == 0, f"{said}\n{error}"
            found = json.loads(out.read_text())
        return Ran([Cell(**cell) for cell in found["cells"]], found["calls"])

    def close(self) -> None:
        """Ends the process."""
        self._warm.close()


def foreign_checkpoint(folder: Path, **sizes: int) -> Path:
    """A checkpoint of transformers' own Arcee: random bf16 weights, GQA, no pad token.

    Its tokenizer is a byte-level BPE that was trained on the lesson's English.
    """
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import ArceeConfig, ArceeForCausalLM, PreTrainedTokenizerFast

    from arcee_lab.lesson import english

    words = Tokenizer(models.BPE())
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    texts = [
        one.text for kind in english.SENTENCES for one in english.documents(kind, n=80, seed=7)
    ]
    texts += 30 * [
        f"{prompt} {word}"
        for half in (0, 1)
        for side in english.prompt_pairs(half)
        for prompt in side
        for word in english.PLURAL_ANSWERS + english.SINGULAR_ANSWERS
    ]
    texts += 30 * [
        f"{prompt} {word}"
        for half in (0, 1)
        for side in english.review_pairs(half)
        for prompt in side
        for word in english.HAPPY + english.UNHAPPY
    ]
    trainer = trainers.BpeTrainer(
        vocab_size=1100,
        special_tokens=["</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    words.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="</s>")
    assert tokenizer.pad_token is None
    shape = {
        "hidden_size": 48,
        "intermediate_size": 112,
        "num_hidden_layers": 6,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
    }
    config = ArceeConfig(
        vocab_size=len(tokenizer),
        head_dim=None,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=None,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        **(shape | sizes),
    )
    torch.manual_seed(0)
    model = ArceeForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
