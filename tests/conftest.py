"""What every test stands on: shapes checked, one thread, fixed seeds, no network.

The import hook below has to be in place before arcee_lab is imported, so nothing here imports it at
the top level, and no test module is imported before this file.
"""

import os
import random
import shutil
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["MPLBACKEND"] = "agg"

import hypothesis
import numpy as np
import pytest
import torch
import tqdm.auto
from beartype import BeartypeConf
from beartype.claw import beartype_packages
from jaxtyping import install_import_hook
from warm_process import WarmProcess

# All modules but one: the hooks take the config, which accepts any further keyword, for a plain
# dataclass and refuse what transformers passes to it. Where there is no shape to check, beartype
# alone checks types, in a fifth of the time; it cannot skip what only type checkers import, and it
# draws from `random` to check the items of a sequence.
PACKAGE = Path(__file__).parent.parent / "arcee_lab"
RESTORES = "arcee_lab.runs.seeds"  # the state of `random`
SHAPED, PLAIN = [], []
for file in PACKAGE.rglob("*.py"):
    if file.stem not in {"__init__", "config"}:
        name = ".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts)
        text = file.read_text(encoding="utf-8")
        plain = "jaxtyping" not in text and "TYPE_CHECKING" not in text and name != RESTORES
        (PLAIN if plain else SHAPED).append(name)
install_import_hook(SHAPED, "beartype.beartype")
beartype_packages(PLAIN, conf=BeartypeConf(claw_is_pep526=False))
torch.set_num_threads(1)


def _own_bars() -> None:
    """Gives a forked child a lock of its own for its progress bars.

    tqdm's is shared with the parent, which would wait for ever once a child is killed holding it.
    """
    for bar in (tqdm.std.tqdm, tqdm.auto.tqdm):
        bar.set_lock(threading.RLock())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_own_bars)

hypothesis.settings.register_profile(
    "arcee_lab",
    max_examples=25,
    deadline=None,  # the first example pays for imports
    derandomize=True,
    database=None,
    suppress_health_check=[
        hypothesis.HealthCheck.too_slow,
        hypothesis.HealthCheck.function_scoped_fixture,
    ],
)
hypothesis.settings.load_profile("arcee_lab")

IN_CI = bool(os.environ.get("CI"))


def run_clean(code: str, *, timeout: float = 300, env: dict[str, str] | None = None) -> str:
    """Runs Python in a process without the import hook: for torch.compile and import tests.

    Returns what the code printed; a failing child fails the test with its stderr.
    """
    child = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=timeout,
        env=os.environ | (env or {}),
        check=False,
    )
    assert child.returncode == 0, f"exit {child.returncode}\n{child.stdout}\n{child.stderr}"
    return child.stdout


@pytest.fixture(name="run_clean", scope="session")
def run_clean_fixture() -> Callable[..., str]:
    """The function `run_clean`."""
    return run_clean


@pytest.fixture(scope="session")
def run_forked() -> Iterator[Callable[..., str]]:
    """As `run_clean`, in a fork of a process that has imported torch and arcee_lab already."""
    if not hasattr(os, "fork"):
        yield run_clean
        return
    warm = WarmProcess()

    def run(code: str, *, timeout: float = 300, env: dict[str, str] | None = None) -> str:
        exit_code, out, err = warm.run(textwrap.dedent(code), timeout=timeout, env=env or {})
        assert exit_code == 0, f"exit {exit_code}\n{out}\n{err}"
        return out

    yield run
    warm.close()


@pytest.fixture(autouse=True)
def _fixed_seeds() -> None:
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def demo():
    """The demo's (model, tokenizer); read-only, since every test shares it."""
    import arcee_lab as al

    return al.load("demo")


@pytest.fixture(scope="session")
def chromium() -> Iterator:
    """A running Chromium under Playwright; tests that use it are marked `browser`."""
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        pytest.skip("there is no chromium on the PATH (on Debian: apt install chromium)")
    from playwright.sync_api import sync_playwright

    switches = ["no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-sync"]
    switches += ["disable-background-networking", "disable-component-update"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=path, args=[f"--{switch}" for switch in switches]
        )
        yield browser
        browser.close()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Gives slow tests more time, and skips what needs a GPU where there is none."""
    for item in items:
        if item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.timeout(3600))
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device; there is none here"))


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Turns a skipped browser test into a failed one where CI is set."""
    outcome = yield
    report = outcome.get_result()
    if IN_CI and report.skipped and item.get_closest_marker("browser"):
        report.outcome = "failed"
        report.longrepr = f"a browser test was skipped in CI: {report.longrepr}"


@pytest.fixture(scope="session")
def tiny() -> Callable:
    """Builds a tiny random model: `tiny(head, attn=..., dtype=..., **config)`, a new one each call.

    3 layers, 4 heads over 2 kv heads, widths that are all different, pad 0, bos 1, eos 2.
    """

    def build(head: str = "causal", *, attn: str = "sdpa", dtype=torch.float32, **overrides):
        from arcee_lab.model import ArceeConfig
        from arcee_lab.model.anatomy import HEADS

        shape = {
            "vocab_size": 50,
            "hidden_size": 32,
            "intermediate_size": 72,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 64,
            "initializer_range": 0.1,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "num_labels": 3,
            "attn_implementation": attn,
        }
        return HEADS[head](ArceeConfig(**(shape | overrides))).to(dtype).eval()

    return build
