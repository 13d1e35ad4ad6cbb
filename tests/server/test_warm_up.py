"""The answer before the first client."""

from __future__ import annotations

from cierzo.errors import QueueFullError
from cierzo.server.warm_up import warm_up
from tests.server.conftest import scripted_model
from tests.server.scripted import ScriptedEngine


def test_one_token_is_computed() -> None:
    engine = ScriptedEngine()
    warm_up(scripted_model(engine))
    (request,) = engine.requests
    assert request.prompt_token_ids[1:] == tuple(b"Hello")
    assert engine.stats().num_steps == 1


def test_a_model_that_cannot_answer_is_served_all_the_same() -> None:
    warm_up(scripted_model(ScriptedEngine(lambda request: [QueueFullError("x", retry_after_s=1)])))
