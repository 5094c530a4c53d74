"""The programs that exports are for read them, offline, each from its own package.

They get an environment of their own, so these tests need the package registry and minutes. Without
it `test_neuron_exports.py` holds the schemas that these programs rely on.
"""

import json
import os
import subprocess
import sys
import zipfile

import pytest

import arcee_lab as al

pytestmark = [pytest.mark.slow, pytest.mark.net]
# SAEDashboard as a whole pins an old transformers: of its wheel one file is loaded, with numpy.
WHOLE = ("neuron-explainer==0.0.1", "neuronpedia==1.2.1")
NEEDED = ("orjson", "blobfile", "boostedblob", "tiktoken", "numpy", "requests", "python-dotenv")
UNITS = [(1, 32), (2, 681), (2, 0)]
OFFLINE = """
import json, socket, sys

def refuse(*args, **options):
    raise AssertionError(f"the network was asked for {args[:2]}")

socket.getaddrinfo = refuse
socket.socket.connect = refuse
given = json.loads(sys.argv[1])
"""


@pytest.fixture(scope="module")
def run(demo):
    texts = [document.text for document in al.demo.documents(n=60, seed=4, split="test")]
    return al.neurons.exemplars(*demo, texts, progress=False)


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("programs")
    subprocess.run([sys.executable, "-m", "venv", str(folder / "v")], check=True)
    python = str(folder / "v" / "bin" / "python")
    pip = [python, "-m", "pip", "-q"]
    calls = [
        ["install", "--no-deps", *WHOLE],
        ["install", *NEEDED],
        ["download", "--no-deps", "-d", str(folder), "sae-dashboard==0.8.0"],
    ]
    for words in calls:
        done = subprocess.run([*pip, *words], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    (wheel,) = folder.glob("sae_dashboard*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extract("sae_dashboard/neuronpedia/neuronpedia_dashboard.py", folder)
    return python, folder


def answer(programs, code, given):
    """Runs a program in the environment; what it prints last, as JSON."""
    python, folder = programs
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [python, "-c", OFFLINE + code, json.dumps(given)],
        capture_output=True, text=True, env=env, cwd=folder, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


NEURONPEDIA = """
from neuronpedia.np_activation import Activation
lines = open(given["file"]).read().splitlines()
read = [Activation.from_np_db_json(json.loads(line)) for line in lines]
print(json.dumps([[x.index, x.source, len(x.tokens), max(x.values)] for x in read]))
"""


def test_neuronpedia_reads_its_activations(run, demo, programs, tmp_path):
    model, tokenizer = demo
    al.neurons.export(
        run, "neuronpedia", tmp_path / "x", model=model, tokenizer=tokenizer, units=UNITS
    )
    file = tmp_path / "x" / "2-relu2-neurons.jsonl"
    read = answer(programs, NEURONPEDIA, {"file": str(file)})
    assert len(read) == len(file.read_text().splitlines()) > 20
    first = next(x for x in read if x[0] == 681)
    assert first[3] == pytest.approx(run.top(2, 681)[0].value, rel=1e-4)


SAE_DASHBOARD = """
import importlib.util
path = "sae_dashboard/neuronpedia/neuronpedia_dashboard.py"
spec = importlib.util.spec_from_file_location("dashboard", path)
dashboard = importlib.util.module_from_spec(spec)
spec.loader.exec_module(dashboard)
whole = json.load(open(given["file"]))
batch = dashboard.NeuronpediaDashboardBatch(**whole)
print(json.dumps([batch.to_dict() == whole, [f.feature_index for f in batch.features]]))
"""


def test_sae_dashboard_reads_its_batch(run, demo, programs, tmp_path):
    model, tokenizer = demo
    effects = al.neurons.effects(model, tokenizer)
    al.neurons.export(
        run, "sae_dashboard", tmp_path / "x",
        model=model, tokenizer=tokenizer, units=UNITS, effects=effects,
    )  # fmt: skip
    file = tmp_path / "x" / "layer-2" / "batch-0.json"
    assert answer(programs, SAE_DASHBOARD, {"file": str(file)}) == [True, [681, 0]]


NEURON_EXPLAINER = """
import neuron_explainer.activations.activations as activations
from neuron_explainer.fast_dataclasses import loads
record = loads(open(given["file"]).read())
assert isinstance(record, activations.NeuronRecord)
params = activations.ActivationRecordSliceParams(n_examples_per_split=None)
sizes = [len(getattr(record, f"{split}_activation_records")(params))
         for split in ("train", "calibration", "valid", "test")]
print(json.dumps([record.neuron_id.neuron_index, record.max_activation, sizes]))
"""


def test_neuron_explainer_loads_its_records(run, demo, programs, tmp_path):
    model, tokenizer = demo
    al.neurons.export(
        run, "neuron_explainer", tmp_path / "x", model=model, tokenizer=tokenizer, units=UNITS
    )
    file = tmp_path / "x" / "neurons" / "2" / "681.json"
    unit, largest, sizes = answer(programs, NEURON_EXPLAINER, {"file": str(file)})
    assert unit == 681
    assert largest == pytest.approx(run.top(2, 681)[0].value, rel=1e-4)
    top = len(run.top(2, 681)) // 4
    assert sizes == [top, top + 6, top + 6, top + 6]
