"""What every captioner is: a light declaration that opens its model, or its connection, when asked."""

import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from PIL.Image import Image

from latentkit.errors import UsageError

_REFUSAL = re.compile(
    r"(i['’]?m|i am) (very )?(sorry|unable|not able)\b|sorry, |i (can['’]t|cannot|can not)\b|as an ai\b",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of one picture.

    Attributes:
        number: as it was handed in with the picture.
        caption: one paragraph; empty when there is none.
        reason: why there is none, one line; empty when there is one.
        unanswered: whether that may be the fault of a server, which had no answer in all attempts.
    """

    number: int
    caption: str = ""
    reason: str = ""
    unanswered: bool = field(default=False, compare=False)


Describe = Callable[[Iterable[tuple[int, Image]]], Iterator[Answer]]
"""(number, RGB picture) of each -> an answer for each, in any order. Pictures are taken as there is room."""


@dataclass(frozen=True, kw_only=True)
class Captioner(ABC):
    """A declaration of who writes captions, and of what is asked.

    Attributes:
        model: the model's name.
        prompt: the text that goes with every picture.
        max_new_tokens: a longer answer is cut off, and refused for that.
    """

    model: str
    prompt: str
    max_new_tokens: int = 512

    def __post_init__(self) -> None:
        for option in ("model", "prompt"):
            if not getattr(self, option).strip():
                raise UsageError(f"caption.{option} is empty")
        self.require_at_least("max_new_tokens", 1)

    def require_at_least(self, option: str, least: float) -> None:
        """Raise UsageError unless the option's value is at least that."""
        if (value := getattr(self, option)) < least:
            raise UsageError(f"caption.{option}={value}: must be at least {least}")

    @property
    def name(self) -> str:
        """The model as ``captions.jsonl`` names it: the same name, the same captions."""
        return self.model

    @property
    def prompt_sha256(self) -> str:
        """Of the prompt's UTF-8 bytes, in hex."""
        return hashlib.sha256(self.prompt.encode()).hexdigest()

    @abstractmethod
    def open(self) -> AbstractContextManager[Describe]:
        """Load the model, or make ready to reach it; free what it took on leaving.

        Raises:
            LatentkitError: it cannot be had; one line that says what to do. While describing: there is no
                use in going on with other pictures.
        """


def judge(number: int, text: str, *, whole: bool = True) -> Answer:
    """A model's text as an answer: one paragraph without control characters, or the reason why not.

    Args:
        number: the picture's.
        text: as the model gave it.
        whole: False when it was cut off at its longest.
    """
    caption = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    if not caption:
        return Answer(number, reason="the model's answer is empty")
    if _REFUSAL.match(caption):
        return Answer(number, reason=f"the model refused: {caption[:200]}")
    if not whole:
        return Answer(number, reason=f"the model's answer was cut off after {len(caption):,} characters")
    return Answer(number, caption)
