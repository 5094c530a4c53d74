"""Texts, pairs and labels for a notebook that shall run on any model, and captions of its findings.

_build       the call `build`: chooses the material once
outline      `Lesson`: what the cells of a notebook ask for, and captions of findings
material     what a lesson is made of
of_demo      ... the world of the demo, for models that read its words
english      ... sentences of our own, and `plain`, which makes material of them
own_texts    ... the texts of the user
cutting      texts in pieces that the model reads at once
pairs        prompts that differ in one word, kept where the tokenizer allows it
copies       texts that say a string twice
parts        `Part`: a cell that cannot apply says so in one line
task_data    evaluation tasks of the same material
"""

from typing import TYPE_CHECKING

from arcee_lab._lazy import lazy_exports

if TYPE_CHECKING:
    from arcee_lab.lesson._build import build
    from arcee_lab.lesson.copies import Copies
    from arcee_lab.lesson.outline import Lesson
    from arcee_lab.lesson.pairs import LogOdds, Pairs
    from arcee_lab.lesson.parts import Part

__all__ = ["Copies", "Lesson", "LogOdds", "Pairs", "Part", "build"]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "_build": ("build",),
        "copies": ("Copies",),
        "outline": ("Lesson",),
        "pairs": ("LogOdds", "Pairs"),
        "parts": ("Part",),
    },
)
