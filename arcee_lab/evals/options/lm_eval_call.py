"""What lm-eval's own call asks of our model, checked before the model is loaded.

lm-eval 0.4.13 gives a model its arguments, its batch size and its device when it makes it. The
chat template and the cache of requests come later, when the weights are there. The call that waits
for the model knows them already, so they are read there. Where there is no such call nothing is
checked here, and the same errors come later.
"""

import inspect
from typing import Any

from arcee_lab.evals.loading import require_arguments
from arcee_lab.evals.options.chat_templates import require_template
from arcee_lab.evals.options.prompt_cache import require_own_pickles

_NAMES = ("apply_chat_template", "cache_requests")


def require_usable(arguments: dict[str, Any]) -> None:
    """Checks `model_args`, and what the call of lm-eval asks for next to them.

    Args:
        arguments: The `model_args` by name.

    Raises:
        SettingError: One is missing or has a value that cannot be used, or the tokenizer lacks the
            chat template.
        FileError: Pickled requests would be read that others can write.
    """
    require_arguments(arguments)
    asked = lm_eval_call()
    wanted = asked.get("apply_chat_template")
    if wanted:
        tokenizer = arguments.get("tokenizer")  # a name of one is refused later
        require_template(
            arguments["pretrained"],
            None if isinstance(tokenizer, str) else tokenizer,
            wanted,
            revision=arguments.get("revision"),
        )
    if asked.get("cache_requests"):
        require_own_pickles()


def lm_eval_call() -> dict[str, Any]:
    """Settings of the `simple_evaluate` that makes a model right now; none outside of one."""
    frame = inspect.currentframe()
    while frame is not None:
        where = frame.f_globals.get("__name__"), frame.f_code.co_name
        if where == ("lm_eval.evaluator", "simple_evaluate"):
            return {name: frame.f_locals.get(name) for name in _NAMES}
        frame = frame.f_back
    return {}
