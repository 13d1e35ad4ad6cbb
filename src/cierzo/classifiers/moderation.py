"""The hosted moderation models by their names: which categories each has, and what they cover.

A category is a policy question to a served model. The vendor has not published its thresholds;
ours is one for all, on scores calibrated to be low for texts without content.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cierzo.classifiers.question import Question, policy_question

THRESHOLD = 0.5

_COVERS = {
    "sexual": "It describes or promotes sexual acts, nudity or sexual services explicitly.",
    "hate_and_discrimination": "It is hostile or prejudiced towards people for their origin, "
    "religion, gender, orientation, disability or another protected trait.",
    "violence_and_threats": "It threatens, incites, glorifies or vividly depicts physical violence "
    "against people.",
    "dangerous_and_criminal_content": "It helps with or promotes crimes, weapons, drugs, hacking "
    "or acts that put life at risk.",
    "dangerous": "It helps with or promotes acts that put life at risk, such as making weapons, "
    "explosives or poisons.",
    "criminal": "It helps with or promotes crimes, such as theft, fraud, hacking or drug dealing.",
    "selfharm": "It encourages or describes hurting or killing oneself, or an eating disorder.",
    "health": "It gives medical advice for a person's case, or asks for it.",
    "financial": "It gives financial advice for a person's case, or asks for it.",
    "law": "It gives legal advice for a person's case, or asks for it.",
    "pii": "It holds or asks for personal data that identifies somebody, such as a name with an "
    "address, a phone number or an identity document.",
    "jailbreaking": "It tries to make an assistant ignore its instructions or its safety rules.",
}

_FIRST = ("sexual", "hate_and_discrimination", "violence_and_threats")
_LAST = ("selfharm", "health", "financial", "law", "pii")


@dataclass(frozen=True, slots=True)
class ModerationModel:
    """A moderation model's name and its categories' questions, in the vendor's order."""

    name: str
    questions: Mapping[str, Question]
    aliases: tuple[str, ...] = ()


def _model(name: str, categories: tuple[str, ...], *aliases: str) -> ModerationModel:
    questions = {category: policy_question(_COVERS[category]) for category in categories}
    return ModerationModel(name, questions, aliases)


MODERATION_MODELS = (
    _model(
        "mistral-moderation-2603",
        (*_FIRST, "dangerous", "criminal", *_LAST, "jailbreaking"),
        "mistral-moderation-latest",
    ),
    _model("mistral-moderation-2411", (*_FIRST, "dangerous_and_criminal_content", *_LAST)),
)


def find_moderation_model(name: str) -> ModerationModel | None:
    """The model of that name or alias."""
    return next((m for m in MODERATION_MODELS if name in (m.name, *m.aliases)), None)
