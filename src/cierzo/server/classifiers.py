"""What the classifier endpoints' `model` names, and its answers about many texts at once.

A named classifier asks its question of the model it was made for; a moderation model asks one
question per category of the first served model.
"""

from __future__ import annotations

import asyncio
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from cierzo.classifiers.definition import Classifier, ClassifierFolder
from cierzo.classifiers.moderation import (
    MODERATION_MODELS,
    THRESHOLD,
    find_moderation_model,
)
from cierzo.classifiers.question import Question, Render
from cierzo.classifiers.scoring import Head, Scorer, Scores
from cierzo.engine.readout import ReadPrompt
from cierzo.errors import ContextOverflowError, ModelNotFoundError, PromptError, RequestError
from cierzo.server.completion import Usage
from cierzo.server.judges import Asked, Judge, Results
from cierzo.server.metering import Metered
from cierzo.server.metrics import Metrics
from cierzo.server.prompt_size import refuse_endless_text
from cierzo.server.readings import read_own_prompts, read_prompts
from cierzo.server.schemas.chat import ChatCompletionRequest, UserMessage
from cierzo.server.schemas.models import Capabilities, ModelCard
from cierzo.server.served_model import ServedModels
from cierzo.server.token_model import TokenModel


@dataclass(frozen=True, slots=True)
class QuestionJudge:
    """A `Judge` that puts questions to one model. `scorers` goes by category, or by the
    classifier's name."""

    name: str
    id: str
    model: TokenModel
    scorers: Mapping[str, Scorer]
    is_policy: bool

    def only(self, categories: Container[str]) -> QuestionJudge:
        """This judge, asking no other questions."""
        kept = {name: scorer for name, scorer in self.scorers.items() if name in categories}
        return replace(self, scorers=kept)

    async def moderate(
        self, asked: Asked, metered: Metered, metrics: Metrics
    ) -> tuple[Results, Usage]:
        verdicts = await judge_texts(self, asked.texts, metered, metrics)
        results = []
        for of_text in verdicts.scores:
            scores = {category: float(of_labels[0]) for category, of_labels in of_text.items()}
            categories = {category: score >= THRESHOLD for category, score in scores.items()}
            flagged = any(categories.values())
            results.append(
                {"flagged": flagged, "categories": categories, "category_scores": scores}
            )
        return results, verdicts.usage

    async def classify(
        self, asked: Asked, metered: Metered, metrics: Metrics
    ) -> tuple[Results, Usage]:
        verdicts = await judge_texts(self, asked.texts, metered, metrics)
        results = []
        for of_text in verdicts.scores:
            by_target = {}
            for target, scorer in self.scorers.items():
                scores = of_text[target].tolist()
                by_target[target] = {
                    "scores": dict(zip(scorer.question.labels, scores, strict=True))
                }
            results.append(by_target)
        return results, verdicts.usage


@dataclass(frozen=True, slots=True)
class Verdicts:
    """`scores`: per text, per question, the labels' probabilities."""

    scores: list[dict[str, Scores]]
    usage: Usage


class ServedClassifiers:
    """The classifiers of one server: those that all may use, and each workspace's own.

    Scorers are made once per question and model; another model of that name gets its own.
    """

    def __init__(self, models: ServedModels, folder: ClassifierFolder | None) -> None:
        self._models = models
        self._folder = folder
        self._scorers: dict[str, tuple[TokenModel, dict[tuple[Question, int], Scorer]]] = {}

    def cards(self, workspace_id: str) -> Iterator[ModelCard]:
        """What `/v1/models` says of each name that the workspace's requests may use here."""
        for name in self._folder.names_for(workspace_id) if self._folder is not None else ():
            found = self._find(name, workspace_id)
            model = self._models.find(found.model) if found is not None else None
            if found is not None and isinstance(model, TokenModel):
                can = Capabilities(classification=True, moderation=found.is_policy)
                yield _card(name, (), found.question.instruction, can, model)
        model = self._first
        for moderation in MODERATION_MODELS if model is not None else ():
            assert model is not None
            categories = ", ".join(moderation.questions)
            can = Capabilities(moderation=True)
            yield _card(moderation.name, moderation.aliases, categories, can, model)

    def moderator(self, name: str, workspace_id: str) -> Judge:
        """What judges by categories under that name for a workspace.

        Slow at first: call it off the event loop.

        Raises ModelNotFoundError, and RequestError for a classifier that has labels instead.
        """
        return self._model_itself(name) or self.own_moderator(name, workspace_id)

    def classifier(self, name: str, workspace_id: str) -> Judge:
        """The workspace's named classifier. Raises as `moderator` does."""
        if find_moderation_model(name) is not None:
            raise RequestError(f"{name} moderates; ask it at /v1/moderations", param="model")
        return self._model_itself(name) or self._named(name, workspace_id)

    def own_moderator(self, name: str, workspace_id: str) -> QuestionJudge:
        """As `moderator`, of this server's own questions."""
        moderation = find_moderation_model(name)
        if moderation is not None and self._first is not None:
            scorers = {
                category: self._scorer(self._first, question)
                for category, question in moderation.questions.items()
            }
            return QuestionJudge(name, moderation.name, self._first, scorers, is_policy=True)
        judge = self._named(name, workspace_id)
        if not judge.is_policy:
            raise RequestError(
                f"{name} chooses among labels; ask it at /v1/classifications", param="model"
            )
        return judge

    @property
    def _first(self) -> TokenModel | None:
        """The model of the moderation models' questions: the first that is here."""
        return next(
            (m for m in self._models if isinstance(m, TokenModel) and m.upstream is None), None
        )

    def _model_itself(self, name: str) -> Judge | None:
        model = self._models.find(name)
        return None if model is None else model.judge(name)

    def _named(self, name: str, workspace_id: str) -> QuestionJudge:
        found = self._find(name, workspace_id)
        if found is None:
            if self._models.find(name) is not None:
                raise RequestError(
                    f"{name} is no classifier; make one with `cierzo classifier create NAME "
                    f"--model {name} --labels …`",
                    param="model",
                )
            raise ModelNotFoundError(self._models.unknown(name))
        model = self._models.find(found.model)
        if not isinstance(model, TokenModel):
            raise ModelNotFoundError(
                f"Invalid model: {name}; it was made for {found.model}, which is not served here"
            )
        scorer = self._scorer(model, found.question, found.head)
        return QuestionJudge(name, name, model, {name: scorer}, found.is_policy)

    def _find(self, name: str, workspace_id: str) -> Classifier | None:
        return self._folder.find(name, workspace_id) if self._folder is not None else None

    def _scorer(self, model: TokenModel, question: Question, head: Head | None = None) -> Scorer:
        owner, scorers = self._scorers.get(model.id, (None, {}))
        if owner is not model:
            scorers = {}
            self._scorers[model.id] = model, scorers
        key = (question, id(head))
        scorer = scorers.get(key)
        if scorer is None:
            if head is not None and head.weights.shape[1] != model.embedding_dim:
                raise RequestError(
                    f"the classifier's head reads {head.weights.shape[1]} numbers and {model.id} "
                    f"has {model.embedding_dim}: the model changed; create the classifier again",
                    param="model",
                )
            render = _render(model)
            scorer = scorers[key] = Scorer(question, model.text.tokenizer, render, head)
        return scorer


def _card(
    name: str,
    aliases: tuple[str, ...],
    description: str,
    capabilities: Capabilities,
    model: TokenModel,
) -> ModelCard:
    return ModelCard(
        id=name,
        created=model.created,
        name=name,
        description=f"{description} (answered by {model.id})",
        max_context_length=model.max_context_length,
        aliases=list(aliases),
        capabilities=capabilities,
    )


def _render(model: TokenModel) -> Render | None:
    """The model's chat format for one user message; None when it has none."""

    def render(content: str) -> Sequence[int]:
        message = UserMessage(role="user", content=content)
        request = ChatCompletionRequest(model=model.id, messages=[message])
        return model.text.prompt(request).token_ids

    try:
        render("?")
    except PromptError:
        return None
    return render


async def judge_texts(
    judge: QuestionJudge, texts: Sequence[str], metered: Metered, metrics: Metrics
) -> Verdicts:
    """Every question of `judge` about every text: one batch over the questions' prefixes.

    Raises ContextOverflowError, and as `read_prompts`.
    """
    scorers = list(judge.scorers.values())
    await _calibrate(judge.model, scorers)
    prompts = await asyncio.to_thread(_prompts, judge.model, scorers, texts)
    readings, usage = await read_prompts(judge.model.engine, prompts, metered, metrics)
    by_question = [
        [scorer.scores(reading) for reading in readings[at * len(texts) : (at + 1) * len(texts)]]
        for at, scorer in enumerate(scorers)
    ]
    scores = [
        dict(zip(judge.scorers, of_text, strict=True)) for of_text in zip(*by_question, strict=True)
    ]
    return Verdicts(scores, usage)


async def _calibrate(model: TokenModel, scorers: Sequence[Scorer]) -> None:
    """Ask new questions about texts without content first. Two requests may both do so: the
    answers are the same."""
    new = [scorer for scorer in scorers if not scorer.is_calibrated]
    prompts = [scorer.content_free_prompts() for scorer in new]
    if not new:
        return
    flat = [prompt for of_scorer in prompts for prompt in of_scorer]
    readings = await read_own_prompts(model.engine, flat)
    each = len(readings) // len(new)
    for at, scorer in enumerate(new):
        scorer.calibrate(readings[at * each : (at + 1) * each])


def _prompts(
    model: TokenModel, scorers: Sequence[Scorer], texts: Sequence[str]
) -> list[ReadPrompt]:
    """Question after question, each about all texts."""
    ids = []
    for position, text in enumerate(texts):
        refuse_endless_text([text], model.max_context_length, param="input")
        ids.append(scorers[0].text_ids(text))
        longest = max(len(scorer.prompt(ids[-1]).token_ids) for scorer in scorers)
        if longest >= model.max_context_length:
            raise ContextOverflowError(
                f"input {position} makes a prompt of {longest} tokens with the question, over "
                f"the {model.max_context_length - 1} that fit the context; shorten or split it",
                param="input",
            )
    return [scorer.prompt(text_ids) for scorer in scorers for text_ids in ids]
