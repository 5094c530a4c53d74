"""Finds phrases that are not plain international English, in every text of the repository.

    python docs/lint.py     one line per phrase, with what to write instead

It reads documentation, docstrings, comments, messages and notebooks; `run.py check` runs it.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SUFFIXES = {".py", ".md", ".yaml", ".yml", ".toml"}
FOLDERS = ("arcee_lab", "benchmarks", "docs", "evals", "notebooks", "tests")

# What is counted, and what it is counted by: "numbers a head" should be "numbers per head".
_COUNTED = (
    "batch|bytes|bits|[gm]i?b|ms|nats|numbers?|values?|rows?|tokens?|entries|windows?|panel"
    "|squares?|columns?|metric|thresholds?|kernels?|processes|threads?|precision|probability"
    "|rates?|words?|sequences?|effects?|factor|index|category|categories|groups?|one|two|three|four|many"
    "|once|twice|scale|bars?|dots?|texts?|documents?|labels?|layers?|heads?|neurons?"
    "|bias|place|position|operations|product|files?|histogram|measurements?"
)
_COUNTER = (
    "batch|bin|block|call|cell|column|concept|core|dimension|document|domain|draw|fact|file"
    "|forward|group|head|inch|key|label|layer|line|module|name|neuron|nonzero|page|pair|param"
    "|parameter|piece|position|process|quer(?:y|ies)|question|rank|row|second|sentence|sequence"
    "|shard|site|spot|statistic|step|task|text|thing|token|unit|value|window|word"
)

PATTERNS: tuple[tuple[str, str], ...] = (
    (rf"\b(?:{_COUNTED}) an? (?:[a-z]+ )??(?:{_COUNTER})\b", "`X per Y`"),
    (r"\bin so many\b", "`every Nth`"),
    (r"\bhears? of\b", "`observes`"),
    (r"\band kin\b", "`and related ones`"),
    (r"\bbeside\b", "`next to` or `compared with`"),
    (r"\b(?:lies?|lying) (?:in|at|on|below|above|just|between|within|where|behind)\b", "`is`"),
    (r"\bwhat(?:ever)? (?:lies|stands)\b", "`what is`"),
    (r"\bwhere (?:[a-z]+ ){0,3}(?:lies|lie)\b", "`where ... is`"),
    (r"\bdear (?:analys|call|pass|step)", "`expensive`"),
    (r"\bit were\b", "`expected`"),
    (r"\bby a bit\b", "`bit-identical`"),
    (r"\blooked at closely\b", "`analysed`"),
    (r"\bcaptures? sees?\b", "`a capture records`"),
    (r"\b(?:that|what) flows on\b", "`the final value`"),
    (r"\bcounted apart\b", "`counted separately`"),
    (r"\basked of the hub\b", "`looked up on the Hub`"),
    (r"\blies? as\b", "`is stored as`"),
    (r"\bstands? apart\b", "`are counted separately`"),
    (r"\bwhat it left\b", "name the value"),
    (r"\b(?:how|command|call|run) (?:to )?go(?:es)? on\b(?! the)", "`continues`, `resume`"),
    (r"# Go on\b|Where to go on\b", "`Next steps`"),
    (r"\bjudge[sd]? (?:by|them|it|with)\b", "`evaluate`, `measured by`"),
    (r"\bagainst the truth\b", "`against ground truth`"),
    (r"\bflatter(?:s|ed)? (?:it|them)sel(?:f|ves)\b", "`is inflated by selection`"),
    (r"\bwho could know\b|\bbeforehand\b", "`before`, `in advance`"),
    (r"\bwhat more can\b", "`how much more can`"),
    (r"\bwakes\b|\bsilences\b", "`turns on`, `turns off`"),
    (r"\bby lot\b", "`at random`"),
    (r"\bever after\b", "`any time`"),
    (r"\bthe better the (?:fewer|less|lower)\b|\bthe fewer they are\b", "`lower is better`"),
    (r"\bmeanwhile\b", "`during ...`"),
    (r"\bhow long neurons stay\b", "`overlap by token distance`"),
    (r"\bseed of what is drawn\b", "`random seed`"),
    (r"\bso many (?:tokens|texts|windows|threads|bytes|positions|times|are|words)\b", "name it"),
    (r"\bcomes? out with\b", "`does not match`"),
    (r"\b(?:naught|aught|whence|lest|thereof|wherein|ere)\b", "a word of today"),
    (r"\bthat are asked for\b", "`requested`"),
    (r"\bas it were\b|\bas busy as it is\b", "say it directly"),
    (r"\b(?:one|two|three) in so many\b", "`every Nth`"),
)

# Sentences in which a pattern above is right, by file (or the beginning of its path) and text.
ALLOWED: tuple[tuple[str, str], ...] = (
    ("arcee_lab/demo/stories.py", "beside"),  # a preposition of the generated world
    ("arcee_lab/demo/facts.py", "lies in"),  # a relation of the generated world
)
SKIPPED = {
    "docs/lint.py",
    "tests/test_language.py",
    "CHANGELOG.md",  # history
    "benchmarks/RESULTS.md",  # written by the benchmarks, whose own text is read
}

_RULES = [
    # A phrase may continue on the next line.
    (re.compile(pattern.replace(" ", r"[ \n]")), better)
    for pattern, better in PATTERNS
]


def files() -> Iterator[Path]:
    """Every text file of the repository that people write."""
    folders = [path for name in FOLDERS for path in (ROOT / name).rglob("*")]
    for path in sorted([*ROOT.glob("*"), *folders]):
        if path.is_file() and path.suffix in SUFFIXES and _name(path) not in SKIPPED:
            yield path


def findings(name: str, text: str) -> Iterator[str]:
    """One line per phrase of a text: where it is, what it says, what to write instead."""
    # Small letters, and lines without their indent and the mark of a comment.
    text = re.sub(r"[ \t]*\n[ \t]*(?:# )?", "\n", text.lower())
    for rule, better in _RULES:
        for match in rule.finditer(text):
            phrase = " ".join(match.group().split())
            if any(name.startswith(where) and phrase == said for where, said in ALLOWED):
                continue
            line = text.count("\n", 0, match.start()) + 1
            yield f"{name}:{line}: {phrase!r}; write {better}"


def main() -> int:
    """Prints all findings."""
    found = [line for path in files() for line in findings(_name(path), path.read_text("utf-8"))]
    for line in found:
        print(line)
    return 1 if found else 0


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


if __name__ == "__main__":
    sys.exit(main())
