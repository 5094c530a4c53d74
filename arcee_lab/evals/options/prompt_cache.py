"""`cache_requests`: the prompts of a task, built once, in a file that says what they depend on.

lm-eval keeps pickles inside its own package, under a key that holds neither the data nor the
prompt's template. Here a file is used only if everything that made its prompts is the same, and it
holds nothing that can run.
"""

import hashlib
import json
import logging
import os
import random
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lm_eval.caching.cache as lm_eval_cache
import lm_eval.evaluator
from lm_eval.api.instance import Instance
from lm_eval.api.task import Task

from arcee_lab.errors import FileError, SavedDamaged
from arcee_lab.evals.files.plain_json import plain
from arcee_lab.evals.finished_tasks import task_digest
from arcee_lab.runs import storage
from arcee_lab.runs.json_text import read_object

_VERSION = 1
_KINDS = ("loglikelihood", "loglikelihood_rolling", "generate_until")
_OURS = "_arcee_lab_json"  # on what builds requests: it keeps no pickles
_log = logging.getLogger("arcee_lab")


def cache_folder() -> Path:
    """Where prompts are kept: `arcee_lab/requests` in the user's cache."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "arcee_lab" / "requests"


def delete_prompts() -> int:
    """Removes all kept prompts; returns how many files there were."""
    files = list(cache_folder().glob("requests-*.json"))
    for file in files:
        file.unlink(missing_ok=True)
    return len(files)


@contextmanager
def prompts_built(*, write_out: bool = False, delete: bool = False) -> Iterator[None]:
    """Has lm-eval keep prompts in our files where it was told to keep them.

    Args:
        write_out: Whether the first prompt of each task is logged.
        delete: Whether kept prompts are removed first, also when lm-eval's own command removes its.
    """
    own, own_delete = Task.build_all_requests, lm_eval.evaluator.delete_cache

    def build(
        task: Any,
        *,
        cache_requests: bool = False,
        rewrite_requests_cache: bool = False,
        **settings: Any,
    ) -> None:
        if not cache_requests:
            own(task, **settings)
        else:
            _build_once(own, task, rewrite_requests_cache, settings)
        if write_out and task.instances:
            _show(task)

    def deleted(key: str = "") -> None:
        delete_prompts()

    setattr(build, _OURS, True)
    if delete:
        delete_prompts()
    Task.build_all_requests = build  # type: ignore[method-assign]
    lm_eval.evaluator.delete_cache = deleted
    try:
        yield
    finally:
        Task.build_all_requests = own  # type: ignore[method-assign]
        lm_eval.evaluator.delete_cache = own_delete


def require_own_pickles() -> None:
    """Checks that others cannot write into lm-eval's own cache of requests, where it is in use.

    Reading a pickle runs what is in it. In our ways in, `prompts_built` keeps JSON instead; plain
    `lm-eval run` has its own cache. A file or folder of root counts as the user's own.

    Raises:
        FileError: The folder or a file in it belongs to another user, or others can write it.
    """
    if getattr(Task.build_all_requests, _OURS, False) or os.name != "posix":
        return
    folder = Path(lm_eval_cache.PATH)
    for path in (folder, *folder.glob(f"*{lm_eval_cache.FILE_SUFFIX}")):
        if not path.exists():
            continue
        found = path.stat()
        if found.st_uid not in (os.getuid(), 0) or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise FileError(
                f"cache_requests would have lm-eval unpickle files in {folder}, which runs what is "
                f"in them, and others can write {path}; expected a folder and files that only you "
                "can write (chmod go-w). Or use `python -m arcee_lab.evals run`, which keeps JSON."
            )


def _show(task: Any) -> None:
    first = task.instances[0]
    _log.info(
        "Task %r, document %s, prompt:\n%s\nrequest: %s\ntarget: %s",
        task.config.task,
        first.doc_id,
        first.args[0],
        first.args[1:],
        task.doc_to_target(first.doc),
    )


def _build_once(
    build: Callable[..., None], task: Any, rewrite: bool, settings: dict[str, Any]
) -> None:
    key = _key(task, settings)
    readable = "".join(one if one.isalnum() or one in "-_." else "-" for one in task.config.task)
    path = cache_folder() / f"requests-{readable[:80]}-{key[:24]}.json"
    if not rewrite:
        kept = _kept(path, key, task, settings)
        if kept:
            task._instances = kept
            return
    build(task, **settings)
    content = {
        "version": _VERSION,
        "key": key,
        "requests": [
            [one.request_type, one.doc_id, one.idx, one.repeats, list(one.args)]
            for one in task._instances
        ],
    }
    try:
        text = json.dumps(content, ensure_ascii=False)
    except (TypeError, ValueError):
        _log.warning("The requests of task %r are no JSON, so they are not kept", task.config.task)
        return
    with suppress(OSError):  # a cache that cannot be written costs only time
        storage.make_folder(path.parent)
        storage.write_atomic(path, text.encode("utf-8", "surrogatepass"))


def _kept(path: Path, key: str, task: Any, settings: dict[str, Any]) -> list[Instance]:
    """The requests of a file, with the documents of the task; none if it cannot be used."""
    if not path.is_file():
        return []
    walk = {name: settings[name] for name in ("limit", "samples", "rank", "world_size")}
    documents = dict(task.doc_iterator(**walk))
    try:
        found = read_object(path, nan=True)
        if (found.get("version"), found.get("key")) != (_VERSION, key):
            return []
        return [
            Instance(
                request_type=_KINDS[_KINDS.index(kind)],  # type: ignore[arg-type]
                doc=documents[doc_id],
                arguments=tuple(arguments),
                idx=int(idx),
                metadata=(task.config.task, doc_id, int(repeats)),
            )
            for kind, doc_id, idx, repeats, arguments in found["requests"]
        ]
    except (SavedDamaged, KeyError, TypeError, ValueError):
        _log.warning("The kept requests in %s are damaged; they are built again", path)
        return []


def _key(task: Any, settings: dict[str, Any]) -> str:
    """A digest of everything that prompts depend on."""
    sampler = getattr(task, "sampler", None)
    shots = task.config.num_fewshot or 0
    chat = settings.get("chat_template")
    lm = getattr(chat, "__self__", None)
    tokenizer = getattr(lm, "tokenizer", None)
    parts = [
        version("lm_eval"),
        task_digest(task, None),
        [plain(dict(one)) for one in getattr(sampler, "df", ())] if shots else [],
        repr(sampler.rnd.getstate()) if shots and sampler is not None else "",
        repr(random.getstate()),
        {name: value for name, value in settings.items() if name != "chat_template"},
        None
        if chat is None
        else [
            getattr(lm, "_template", None) or getattr(tokenizer, "chat_template", None),
            getattr(tokenizer, "special_tokens_map", None),
            getattr(lm, "chat_template_args", None),
        ],
    ]
    text = json.dumps(plain(parts), sort_keys=True)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
