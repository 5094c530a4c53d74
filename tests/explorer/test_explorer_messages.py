"""Whatever the browser sends ends in an answer or in one sentence, in the main thread."""

import asyncio
import json
import random
import re
import threading

import numpy as np
import pytest
from explorers import MESSAGE, Asking, opened

import arcee_lab as al
from arcee_lab.explorer.static_face import _sharpest

PAGE = {"id": "v-1", "kind": "page", **MESSAGE["page"]}
TEXT = {"id": "v-1", "kind": "text", "text": "The dogs", "names": [], "at": -1}
NEXT = {"id": "v-1", "kind": "next", "text": "The dogs", "names": [], "factor": 0.0}
HOSTILE = {
    "another kind": {"id": "v-1", "kind": "delete everything"},
    "a kind that is a list": {"id": "v-1", "kind": []},
    "no fields": {"id": "v-1", "kind": "page"},
    "a field more": PAGE | {"path": "/etc/passwd"},
    "a sort that is an attribute": PAGE | {"sort": "__class__"},
    "a start below 0": PAGE | {"start": -1},
    "a start beyond all": PAGE | {"start": 2**63},
    "a start that is true": PAGE | {"start": True},
    "a count of millions": PAGE | {"count": 10**7},
    "a count that is a float": PAGE | {"count": 1.5},
    "a query of a megabyte": PAGE | {"query": "x" * 10**6},
    "a query that is a number": PAGE | {"query": 5},
    "a query with half a character": PAGE | {"query": "\ud800"},
    "a direction that is a word": PAGE | {"descending": "yes"},
    "a text of a megabyte": TEXT | {"text": "x" * 10**6},
    "a text that is null": TEXT | {"text": None},
    "no text": TEXT | {"text": " \n"},
    "half a character": TEXT | {"text": "dogs \udc00"},
    "a thousand names": TEXT | {"names": ["L0/N1"] * 1000},
    "a name that is a list": TEXT | {"names": [["L0/N1"]]},
    "a name of a megabyte": TEXT | {"names": ["L" * 10**6]},
    "a name that is none": TEXT | {"names": ["layers.0.mlp"]},
    "a layer out of range": TEXT | {"names": ["L99/N1"]},
    "a unit out of range": TEXT | {"names": ["L0/N896"]},
    "a head out of range": TEXT | {"names": ["L0/H4"]},
    "a negative layer": TEXT | {"names": ["L-1/N1"]},
    "a factor that is infinite": NEXT | {"factor": float("inf")},
    "a factor that is not a number": NEXT | {"factor": float("nan")},
    "a factor that no float holds": NEXT | {"factor": 10**400},
    "a factor of a million": NEXT | {"factor": 1e6},
    "a factor that is a word": NEXT | {"factor": "0"},
    "a neuron that is a head": {"id": "v-1", "kind": "neuron", "unit": "L0/H1", "values": False},
    "a neuron out of range": {"id": "v-1", "kind": "neuron", "unit": "L4/N0", "values": False},
    "a place before the first": {"id": "v-1", "kind": "made", "text": "The dogs", "at": -1},
    "state that is not ours": {"id": "v-1", "kind": "set", "name": "_esm", "value": "alert(1)"},
    "a selection of a million": {
        "id": "v-1", "kind": "set", "name": "selection", "value": ["L0/N1"] * 10**6,
    },
    "a selection that is a table": {"id": "v-1", "kind": "set", "name": "selection", "value": {}},
    "a head that is a neuron": {"id": "v-1", "kind": "set", "name": "head", "value": "L0/N1"},
    "a tab that is none": {"id": "v-1", "kind": "set", "name": "tab", "value": "shell"},
    "a text of a number": {"id": "v-1", "kind": "set", "name": "text", "value": 5},
}  # fmt: skip


@pytest.fixture(scope="module")
def explorer(demo):
    return opened(*demo, selection=["L2/N681"])


@pytest.mark.parametrize("name", HOSTILE)
def test_a_wrong_message_is_answered_by_a_sentence(explorer, name):
    widget, sent = explorer
    sent.clear()
    widget._on_message(None, HOSTILE[name], [])
    if name == "a selection that is a table":  # no name at all: an empty selection
        assert sent[-1][0] == {"name": "selection", "id": "v-1"}
        widget.selection = ["L2/N681"]
        return
    ((content, buffers),) = sent
    assert set(content) == {"id", "error"}
    assert content["error"].endswith(".")
    assert "Traceback" not in content["error"]
    assert len(content["error"]) < 600
    assert buffers == []
    assert widget.selection == ("L2/N681",)
    json.dumps(content, allow_nan=False)


@pytest.mark.parametrize("content", [None, 5, [], "x", {}, {"id": 5}, {"id": "<b>-1"}, {"id": []}])
def test_what_has_no_id_is_not_answered(explorer, content):
    widget, sent = explorer
    sent.clear()
    widget._on_message(None, content, [])
    assert sent == []


def test_random_messages_never_raise(explorer):
    """Fields of right messages in each other's place, and values of every type."""
    widget, sent = explorer
    source = random.Random(0)
    bad = [None, True, -1, 2**40, 1e300, "", "L0/N1", "x" * 3000, [], [[]], {}, {"a": []}, "\x00"]
    kinds = [PAGE, TEXT, NEXT, *HOSTILE.values()]
    for _ in range(300):
        content = dict(source.choice(kinds))
        for key in source.sample(sorted(content), k=min(2, len(content))):
            content[key] = source.choice(bad)
        widget._on_message(None, content, [])
    for content, _ in sent:
        json.dumps(content, allow_nan=False)
        assert str(content.get("error", ".")).endswith(".")


def test_a_bug_is_a_sentence_too(demo, monkeypatch):
    widget, sent = opened(*demo)
    monkeypatch.setattr(widget._ground, "ids", lambda text: 1 / 0)
    widget._on_message(None, TEXT, [])
    assert sent[-1][0]["error"].startswith("This could not be computed: ZeroDivisionError")


def test_state_of_a_comm_message_is_not_taken(demo):
    widget, _ = opened(*demo)
    script = widget._esm
    widget._handle_msg(
        {"content": {"data": {"method": "update", "state": {"_esm": "x", "text": 5}}}}
    )
    assert widget._esm == script
    assert widget.text.startswith("The dogs")


def test_the_selection_reads_names_pairs_and_what_was_found(demo):
    widget, _ = opened(*demo)
    seen = []
    widget.observe(lambda change: seen.append(change["new"]), "selection")
    widget.selection = ["L2/N681", (1, 3), "L1/H2", "L2/N681"]
    assert widget.selection == seen[-1] == ("L2/N681", "L1/N3", "L1/H2")
    widget.selection = "L0/N5"
    assert widget.selection == ("L0/N5",)
    widget.selection = (0, 6)
    assert widget.selection == ("L0/N6",)
    Asking(widget, [((), ())])("set", name="selection", value=["L3/H1"])
    assert widget.selection == seen[-1] == ("L3/H1",)
    for wrong in (["L4/N0"], 5, [5], ["L0/N1"] * 0 + ["x"], [(0, 1)] * 65, [(True, 1)]):
        with pytest.raises(al.errors.SettingError):
            widget.selection = wrong
    assert widget.selection == ("L3/H1",)
    with pytest.raises(al.errors.SettingError, match="expected a number from -100 to 100"):
        widget.factor = 1e9
    with pytest.raises(al.errors.SettingError, match="expected a head"):
        widget.head = "L0/N1"
    with pytest.raises(al.errors.SettingError, match="expected one of neurons, text"):
        widget.tab = "shell"


def test_messages_wait_for_the_main_thread_and_the_latest_wins(demo):
    """Messages come in another thread, as ipykernel's do, while the loop's thread computes."""
    model, tokenizer = demo
    main, ran = threading.get_ident(), []

    async def session():
        widget, sent = opened(model, tokenizer)
        ids = widget._ground.ids
        widget._ground.ids = lambda text: (ran.append((threading.get_ident(), text)), ids(text))[1]

        def browser():
            for number in range(1, 6):
                widget._on_message(
                    None, {**TEXT, "id": f"a-{number}", "text": "dogs " * number}, []
                )
            widget._on_message(None, {**TEXT, "id": "b-1", "text": "another view"}, [])
            widget._on_message(None, {**NEXT, "id": "a-6"}, [])

        thread = threading.Thread(target=browser)
        thread.start()
        thread.join()  # the main thread is busy: nothing is answered
        assert not sent
        for _ in range(200):
            await asyncio.sleep(0.01)
            if len(sent) == 7:
                break
        return sent

    sent = asyncio.run(session())
    dropped = [content["id"] for content, _ in sent if content.get("dropped")]
    assert dropped == ["a-1", "a-2", "a-3", "a-4"]
    assert [text for _, text in ran] == ["dogs " * 5, "another view", "The dogs"]
    assert {thread for thread, _ in ran} == {main}


def test_a_flood_of_views_is_bounded(demo):
    async def session():
        widget, sent = opened(*demo)
        for number in range(100):
            widget._on_message(None, {**TEXT, "id": f"v{number}-1"}, [])
        await asyncio.sleep(0)
        waiting = len(widget._waiting)
        widget._waiting.clear()
        return waiting, [content for content, _ in sent if "error" in content]

    waiting, refused = asyncio.run(session())
    assert waiting <= 64
    assert len(refused) >= 35
    assert refused[0]["error"] == "Too many questions wait; ask again."


def test_heads_of_one_share_are_told_together():
    """Shares have 256 steps, and the first of several heads is no finding."""
    weights = np.zeros((2, 3, 4, 4), dtype=np.uint8)
    weights[1, 2, 3, 1] = 200
    words = ["<bos>", "dogs", "near", "it"]
    places, told = _sharpest(weights, words)
    assert places == [(1, 2)]
    assert told == (
        "Of 6 heads, L1/H2 looks most at one token from the last one: 78% at “dogs” (framed; one "
        "text)"
    )
    weights[0, 1, 3, 2] = 200
    places, told = _sharpest(weights, words)
    assert places == [(0, 1), (1, 2)]
    assert told == ("2 of 6 heads look most at one token from the last one: 78% (framed; one text)")


def test_the_static_face(demo):
    widget, _ = opened(*demo, selection=["L2/N681"])
    data, _ = widget._repr_mimebundle_()
    page = data["text/html"]
    assert "L2/N681" in page
    assert len(page) < 60_000
    assert "<script" not in page
    assert page.count("<table") == 2
    assert data["text/plain"] == "Explorer(of demo, L2/N681 selected)"
    assert "application/vnd.jupyter.widget-view+json" in data
    widget.selection = ()
    data = widget._repr_mimebundle_()[0]
    assert "Run the cell" in data["text/html"]  # the neurons that write most are shown
    assert len(re.findall(r">L\d/N\d+<", data["text/html"])) == 8
    widget.text = "  "
    assert "text/html" not in widget._repr_mimebundle_()[0]
