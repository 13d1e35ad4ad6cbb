"""A rest after failures in a row, then one try, then all or one more rest."""

from __future__ import annotations

from cierzo.server.upstream.breaker import MAX_FAILURES, REST_S, CircuitBreaker


def test_rests_and_tries() -> None:
    now_s = 100.0
    breaker = CircuitBreaker(lambda: now_s)
    for _ in range(2):
        for _ in range(MAX_FAILURES - 1):
            breaker.note_failure()
        assert breaker.wait_s() == 0
        breaker.note_success()
    for _ in range(MAX_FAILURES):
        breaker.note_failure()
    assert breaker.wait_s() == REST_S
    now_s += REST_S
    assert breaker.wait_s() == 0, "one may try"
    assert breaker.wait_s() == REST_S, "the others wait for what becomes of it"
    breaker.note_failure()
    now_s += REST_S / 2
    assert breaker.wait_s() == REST_S / 2
    breaker.note_success()
    assert breaker.wait_s() == 0
