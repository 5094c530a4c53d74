"""An evaluation in the shape of lm-eval's results, for scripts that were written for lm-eval's."""

import math
import platform
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from typing import Any

from lm_eval.loggers.utils import add_tokenizer_info
from lm_eval.utils import hash_string, sanitize_model_name

from arcee_lab.errors import WrongType

NOT_KNOWN = "N/A"  # lm-eval's word for a standard error that is not known
PARTS = ("configs", "versions", "n-shot", "higher_is_better", "n-samples")  # by task
CONTEXT = (
    "config",
    "git_hash",
    "date",
    "pretty_env_info",
    "transformers_version",
    "lm_eval_version",
    "upper_git_hash",
    "tokenizer_pad_token",
    "tokenizer_eos_token",
    "tokenizer_bos_token",
    "eot_token_id",
    "max_length",
    "model_source",
    "model_name",
    "model_name_sanitized",
    "system_instruction",
    "system_instruction_sha",
    "fewshot_as_multiturn",
    "chat_template",
    "chat_template_sha",
    "total_evaluation_time_seconds",
)


def task_facts(found: Mapping[str, Any], name: str) -> dict[str, Any]:
    """What lm-eval's results say of a task besides its scores.

    Args:
        found: What lm-eval's `evaluate` returned.
        name: The task.
    """
    return {part: found[part].get(name) for part in PARTS}


def run_facts(
    lm: Any,
    *,
    settings: Mapping[str, Any],
    chat_template: str | None,
    started: float,
    seconds: float,
    use_cache: str | None,
) -> dict[str, Any]:
    """What lm-eval's results say of a run, besides its tasks.

    Args:
        lm: The `ArceeLab` that was asked.
        settings: What was recorded of the run.
        chat_template: The template of the prompts, if they were chats.
        started: When, in seconds since 1970.
        seconds: How long it took.
        use_cache: The file of answers, if one was used.
    """
    seeds = settings["seeds"]
    system = settings["system_instruction"]
    facts: dict[str, Any] = {
        "config": {
            "model": "arcee-lab",
            "model_args": {"pretrained": lm.name},
            **lm.get_model_info(),
            "batch_size": str(lm.batch_size),
            "batch_sizes": list(getattr(lm, "batch_sizes", {}).values()),
            "device": str(lm.device),
            "use_cache": use_cache,
            "limit": settings["limit"],
            "bootstrap_iters": settings["bootstrap"]["draws"],
            "gen_kwargs": settings["gen_kwargs"] or None,
            "random_seed": seeds["random"],
            "numpy_seed": seeds["numpy"],
            "torch_seed": seeds["torch"],
            "fewshot_seed": seeds["fewshot"],
        },
        "git_hash": None,
        "date": started,
        "pretty_env_info": f"Python {platform.python_version()}, torch {version('torch')}, "
        f"{platform.system()} {platform.machine()}",
        "transformers_version": version("transformers"),
        "lm_eval_version": version("lm_eval"),
        "upper_git_hash": None,
        "model_source": "arcee-lab",
        "model_name": lm.name,
        "model_name_sanitized": sanitize_model_name(lm.name),
        "system_instruction": system,
        "system_instruction_sha": hash_string(system) if system else None,
        "fewshot_as_multiturn": settings["fewshot_as_multiturn"],
        "chat_template": chat_template,
        "chat_template_sha": hash_string(chat_template) if chat_template else None,
        "total_evaluation_time_seconds": str(seconds),
    }
    add_tokenizer_info(facts, lm)
    return facts


def group_facts(groups: Mapping[str, Any]) -> dict[str, Any]:
    """What lm-eval's results say of groups: their names, members and versions."""
    return {
        name: {
            "alias": group.alias or name,
            "children": group.child_names,
            "version": group.version,
            "aggregates": bool(group.has_aggregation),
        }
        for name, group in groups.items()
    }


def as_results(
    scores: Sequence[Any],
    samples: Mapping[str, Sequence[Mapping[str, Any]]],
    facts: Mapping[str, Any],
    *,
    model: str,
) -> dict[str, Any]:
    """Everything that lm-eval's results file holds, by its keys.

    Args:
        scores: Of type `Score`.
        samples: Task -> what was logged for each document and filter.
        facts: With "tasks", "groups" and "run"; any part may be missing.
        model: The model's name, where `facts` lacks it.
    """
    tasks: Mapping[str, Any] = facts.get("tasks", {})
    groups: Mapping[str, Any] = facts.get("groups", {})
    context = {"model_name": model, "model_source": "arcee-lab"} | dict(facts.get("run", {}))
    by_part: dict[str, dict[str, Any]] = {
        part: {name: told[part] for name, told in sorted(tasks.items()) if part in told}
        for part in PARTS
    }
    results: dict[str, Any] = {}
    for name in samples:
        config = by_part["configs"].get(name) or {}
        # lm-eval counts the documents with a metric, of which there is none in predict_only.
        counted = {sample["doc_id"] for sample in samples[name] if sample["metrics"]}
        results[name] = {
            "name": name,
            "alias": config.get("task_alias", name),
            "sample_len": len(counted),
        }
    aggregated = {}
    grouped = {score.task for score in scores if score.members}
    for name in [*groups, *(grouped - set(groups))]:
        told = groups.get(name, {})
        results[name] = {"alias": told.get("alias", name), "name": name}
        by_part["versions"][name] = told.get("version", NOT_KNOWN)
        if name in grouped:
            aggregated[name] = results[name]
    for score in scores:
        entry = results.setdefault(score.task, {"name": score.task, "alias": score.task})
        entry[f"{score.metric},{score.filter}"] = score.value
        known = math.isfinite(score.stderr)
        entry[f"{score.metric}_stderr,{score.filter}"] = score.stderr if known else NOT_KNOWN
        if score.members:
            entry["sample_len"] = max(score.n, entry.get("sample_len", 0))
            entry.setdefault("sample_count", {})[f"{score.metric},{score.filter}"] = score.n
    for name, told in groups.items():
        shots = {by_part["n-shot"][c] for c in told["children"] if c in by_part["n-shot"]}
        if len(shots) == 1:
            by_part["n-shot"][name] = shots.pop()
        better = _agreed(by_part["higher_is_better"].get(c) or {} for c in told["children"])
        if better:
            by_part["higher_is_better"][name] = better
    found: dict[str, Any] = {"results": results}
    if aggregated:
        found["groups"] = aggregated
    found["group_subtasks"] = {name: told["children"] for name, told in groups.items()}
    found |= by_part | {key: context[key] for key in CONTEXT if key in context}
    found["task_hashes"] = {
        name: hash_string(
            "".join(
                str(one.get("doc_hash")) + str(one.get("prompt_hash")) + str(one.get("target_hash"))
                for one in of
            )
        )
        for name, of in samples.items()
    }
    return found


def _agreed(several: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """What members of a group say of each metric; None where they differ."""
    found: dict[str, Any] = {}
    for one in several:
        for metric, better in one.items():
            found[metric] = better if found.get(metric, better) == better else None
    return found


def as_facts(results: Mapping[str, Any]) -> dict[str, Any]:
    """The facts in a results file, from which `as_results` makes the same file again.

    Raises:
        WrongType: A part is of another type.
        KeyError: A group is without its own entry.
    """
    tasks: dict[str, dict[str, Any]] = {}
    groups: dict[str, Any] = {}
    subtasks = _object(results.get("group_subtasks", {}))
    for part in PARTS:
        for name, told in _object(results.get(part, {})).items():
            if name not in subtasks:
                tasks.setdefault(name, {})[part] = told
    for name, children in subtasks.items():
        entry = _object(results["results"][name])
        groups[name] = {
            "alias": str(entry["alias"]),
            "children": [str(one) for one in children],
            "version": _object(results.get("versions", {})).get(name, NOT_KNOWN),
            "aggregates": name in _object(results.get("groups", {})),
        }
    run = {key: results[key] for key in CONTEXT if key in results}
    return {"tasks": tasks, "groups": groups, "run": run}


def as_sample(sample: Mapping[str, Any]) -> dict[str, Any]:
    """A logged document as lm-eval writes it: its requests by number, and its answers as text."""
    written = dict(sample)
    written["arguments"] = {
        f"gen_args_{n}": {f"arg_{m}": one for m, one in enumerate(request)}
        for n, request in enumerate(sample["arguments"])
    }
    for name in ("resps", "filtered_resps"):
        written[name] = _texts(sample.get(name, []))
    written["target"] = str(sample["target"])
    return written


def _texts(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_texts(one) for one in value]
    return str(value)


def _object(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise WrongType(f"got {str(value)[:60]!r}")
    return value
