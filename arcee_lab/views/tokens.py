"""The text of tokens as it can be shown: white space made visible, controls written out."""


def shown(token: str) -> str:
    """A token in running text: line ends and tabs get a sign, controls become their numbers.

    A control that turns the direction of writing would otherwise reorder all that follows.
    """
    return "".join(_sign(character) for character in token)


def short(token: str, most: int = 14) -> str:
    """A token as a label: without the spaces around it, and cut with an ellipsis.

    Args:
        token: Its text.
        most: Characters of the label, two or more.
    """
    text = "".join(_sign(character, "") for character in token.strip(" "))
    return (text if len(text) <= most else text[: most - 1] + "…") or "␣"


def _sign(character: str, after: str = "\n") -> str:
    if character == "\n":
        return f"↵{after}"
    if character == "\t":
        return "⇥"
    if character == " " or character.isprintable():
        return character
    return f"\\x{ord(character):02x}" if ord(character) < 256 else f"\\u{ord(character):04x}"
