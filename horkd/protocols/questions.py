"""The questions that a finished network can be asked, by name."""

from horkd.errors import HorkdError
from horkd.protocols import Question
from horkd.protocols.identification import IDENTIFICATION
from horkd.protocols.retrieval import ACROSS, PIXELS, RETRIEVAL
from horkd.protocols.verification import VERIFICATION

QUESTIONS: dict[str, Question] = {
    question.name: question
    for question in (VERIFICATION, IDENTIFICATION, RETRIEVAL, PIXELS, ACROSS)
}


def question(name: str) -> Question:
    """The question of that name.

    Raises:
        HorkdError: if there is none.
    """
    if name not in QUESTIONS:
        raise HorkdError(f"unknown question {name!r}: choose from {', '.join(QUESTIONS)}")
    return QUESTIONS[name]
