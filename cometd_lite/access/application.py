"""Your application's word: it is asked by HTTP who may do what (HTTP.md, "Who may do what").

A question is a POST with JSON. A 2xx allows, 401 and 403 refuse, and everything else, also no whole answer in
time, lets nothing in. An answer that names ``expires_in`` is remembered. Identical questions that are under
way are asked once. How many are under way is bounded, in all and for each address: an application that is
slow holds up the requests that need its answer, and no others.

``Authorizer`` decides; what posts the question is given to it (``outgoing``). ``policy`` asks it, and a
``Permission`` asks again about readers that were let in, when the time of an answer is over.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from math import inf, isfinite
from random import Random
from typing import Any, NamedTuple

from msgspec import Struct
from msgspec.json import Decoder
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from .. import limits
from ..core.counts import Histogram
from ..deferreds import MaybeDeferred, is_pending
from ..errors import ApplicationDown, CometError, Forbidden, ServerFull, Unauthorized
from ..jsontext import decode
from ..outgoing import NoReply, Post, PostReply
from ..sizes import text_size
from .questions import Asker, Question, question_of

_SECONDS_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
"""Upper bounds of the time that an answer of the application takes."""

_REFUSALS: dict[int, Callable[[], CometError]] = {
    401: partial(Unauthorized, "The application asks for credentials that it knows."),
    403: partial(Forbidden, "The application does not allow this."),
}
"""What makes a refusal, one for each answer: an exception keeps the frames of each request that raises it."""

_JSON = frozenset({"application/json", "text/json"})

_SHAPE = 'A JSON body of a 2xx is an object as {"subject": "alice", "expires_in": 60}, both optional:'

_RETRY_SECONDS = 1.0
"""The pause until a reader is asked about again where as many questions are under way as may be."""

_CLOSED = "Whether this is allowed is not known: the application did not say. Try again later."


class _Said(Struct):
    """The JSON of a 2xx."""

    subject: str | None = None
    expires_in: float | None = None


_SAID = Decoder(_Said)


def _said(reply: PostReply) -> _Said:
    """Return what a 2xx says besides. Raises ``NoReply`` where it is JSON that says something else."""
    if not reply.body.strip():
        return _Said()
    if not (reply.media_type in _JSON or reply.body.lstrip().startswith(b"{")):
        return _Said()  # a page that says OK, for people
    try:
        said = decode(reply.body, _SAID)
    except ValueError as error:
        raise NoReply(f"{_SHAPE} {error}.") from None
    if said.subject is not None and not 0 < len(said.subject.encode()) <= limits.APPLICATION_SUBJECT_BYTES:
        raise NoReply(f"{_SHAPE} a subject has 1 to {limits.APPLICATION_SUBJECT_BYTES} bytes.")
    if said.expires_in is not None and not (isfinite(said.expires_in) and said.expires_in >= 0):
        raise NoReply(f"{_SHAPE} expires_in is a number of seconds.")
    return said


class Allowance(NamedTuple):
    """What the application has allowed: to which subject, and until when on the clock; None: for good."""

    subject: str | None = None
    expires_at: float | None = None


@dataclass(slots=True)
class ApplicationCounts:
    """The application's answers, by what came of them."""

    allowed: int = 0
    refused: int = 0
    failed: int = 0
    """Questions without an answer that says anything."""
    remembered: int = 0
    """Questions that were not asked, because the answer was known."""
    seconds: Histogram = field(default_factory=lambda: Histogram(_SECONDS_BUCKETS))
    """Questions by the time that their answers took."""


class _PendingQuestion(Struct, eq=False):
    """A question that is under way, and the requests that wait for its answer."""

    question: Question
    began: float
    waiting: dict[Deferred[Allowance], None] = {}
    reply: Deferred[Any] | None = None


class Authorizer:
    """An application that is asked who may do what.

    ``post`` posts a question, and bounds the time and the size of the reply. ``url`` names the application in
    the log.
    """

    log = Logger()

    def __init__(self, post: Post, url: str, clock: IReactorTime, random: Random | None = None) -> None:
        self.clock = clock
        self.counts = ApplicationCounts()
        self.random = random or Random()  # noqa: S311  only spreads load; guessing it gains nothing
        self._post = post
        self._url = url
        self._under_way: dict[bytes, _PendingQuestion] = {}
        self._remembered: dict[bytes, tuple[Allowance, float]] = {}
        """Answers and until when they are remembered, by the keys of their questions, the oldest first."""
        self._remembered_bytes = 0
        self._admitting: deque[tuple[Deferred[Allowance], Allowance | CometError]] = deque()
        """Requests whose answers have come, which go on in slices, in order."""
        self._slice: IDelayedCall | None = None
        self._is_admitting = False
        self._is_stopping = False
        self._quiet_until: float | None = None

    @property
    def under_way(self) -> int:
        """How many questions are under way."""
        return len(self._under_way)

    def ask(self, question: Question, after: float | None = None) -> MaybeDeferred[Allowance]:
        """Return what the application allows, from memory or once it has answered.

        With ``after``, an answer is only taken from memory if it holds for longer than until then. Raises, or
        fails with, ``Unauthorized`` or ``Forbidden``, ``ApplicationDown``, and ``ServerFull`` where as many
        questions are under way as may be.
        """
        known = self._known(question.key)
        if known is not None and (after is None or (known.expires_at or 0.0) > after):
            self.counts.remembered += 1
            return known
        under_way = self._under_way.get(question.key)
        is_new = under_way is None
        if under_way is None:
            self._check_room(question)
            under_way = self._under_way[question.key] = _PendingQuestion(question, self.clock.seconds())
        waiting = under_way.waiting
        answer: Deferred[Allowance] = Deferred(lambda answer: waiting.pop(answer, None))
        waiting[answer] = None
        if is_new:
            self._begin(under_way)
        return answer

    def stop(self) -> None:
        """Give up the questions that are under way; nothing may be asked any more."""
        self._is_stopping = True
        for under_way in tuple(self._under_way.values()):
            if under_way.reply is not None:
                under_way.reply.cancel()
        if self._slice is not None:
            self._slice.cancel()
            self._slice = None
        self._admit(inf)

    # -- asking

    def _check_room(self, question: Question) -> None:
        """Raise ``ServerFull`` where as many questions are under way as may be, in all or for the address.

        After ``stop``, raise ``ApplicationDown``.
        """
        if self._is_stopping:
            raise ApplicationDown(_CLOSED)
        if len(self._under_way) >= limits.APPLICATION_QUESTIONS:
            most = limits.APPLICATION_QUESTIONS
            raise ServerFull(f"{most} questions wait for the application's answers, which is the bound.")
        if question.source is not None:
            held = [one.question.source for one in self._under_way.values()].count(question.source)
            if held >= limits.APPLICATION_QUESTIONS * limits.APPLICATION_QUESTIONS_SHARE:
                raise ServerFull(f"{held} questions about this address wait for the application's answers.")

    def _begin(self, under_way: _PendingQuestion) -> None:
        under_way.reply = maybeDeferred(self._post, under_way.question.body)
        outcome: Deferred[Any] = under_way.reply.addCallback(self._judged, under_way)
        outcome.addErrback(self._failed).addCallback(self._end, under_way)

    def _judged(self, reply: PostReply, under_way: _PendingQuestion) -> Allowance | CometError:
        if reply.status in {401, 403}:
            self.counts.refused += 1
            return _REFUSALS[reply.status]()
        if not 200 <= reply.status < 300:
            raise NoReply(f"It answered {reply.status}, which neither allows (2xx) nor refuses (401, 403).")
        said = _said(reply)
        self.counts.allowed += 1
        if not said.expires_in:
            return Allowance(said.subject)
        now, seconds = self.clock.seconds(), min(said.expires_in, limits.APPLICATION_ASKED_AGAIN_SECONDS_MOST)
        allowed = Allowance(said.subject, now + seconds)
        until = now + min(seconds, limits.APPLICATION_REMEMBERED_SECONDS)
        self._remember(under_way.question.key, allowed, until)
        return allowed

    def _failed(self, failure: Failure) -> CometError:
        """Say once a minute why the application did not decide, and refuse the requests."""
        self.counts.failed += 1
        if self._is_stopping:
            return ApplicationDown(_CLOSED)
        now = self.clock.seconds()
        if not failure.check(NoReply):
            self.log.failure("A question to the application failed", failure)
        elif self._quiet_until is None or now >= self._quiet_until:
            self._quiet_until = now + limits.FAILURES_LOGGED_SECONDS
            self.log.error(
                "The application at {url} did not decide, so requests are refused: {why}",
                url=self._url,
                why=str(failure.value),
            )
        return ApplicationDown(_CLOSED)

    def _end(self, outcome: Allowance | CometError, under_way: _PendingQuestion) -> None:
        """Let the requests go on that wait for the answer."""
        del self._under_way[under_way.question.key]
        self.counts.seconds.observe(self.clock.seconds() - under_way.began)
        under_way.reply = None
        self._admitting += [(answer, outcome) for answer in under_way.waiting]
        if self._slice is None and not self._is_admitting:
            self._admit(limits.ADMITTED_AT_ONCE)

    def _admit(self, most: float) -> None:
        """Let ``most`` requests go on, in the order in which their answers came, and the others later."""
        self._is_admitting = True  # a request that goes on may cause an answer
        while self._admitting and most > 0:
            answer, outcome = self._admitting.popleft()
            if answer.called:
                continue  # its client has disconnected
            most -= 1
            if isinstance(outcome, CometError):
                answer.errback(outcome)
            else:
                answer.callback(outcome)
        self._is_admitting = False
        if self._admitting:
            self._slice = self.clock.callLater(0, self._admit_slice)

    def _admit_slice(self) -> None:
        self._slice = None
        self._admit(limits.ADMITTED_AT_ONCE)

    # -- remembering

    def _known(self, key: bytes) -> Allowance | None:
        known = self._remembered.get(key)
        if known is None:
            return None
        if known[1] <= self.clock.seconds():
            self._forget(key)
            return None
        return known[0]

    def _remember(self, key: bytes, allowed: Allowance, until: float) -> None:
        self._forget(key)
        self._remembered[key] = (allowed, until)
        self._remembered_bytes += _cost(allowed)
        while self._remembered_bytes > limits.APPLICATION_REMEMBERED_BYTES:
            self._forget(next(iter(self._remembered)))

    def _forget(self, key: bytes) -> None:
        known = self._remembered.pop(key, None)
        if known is not None:
            self._remembered_bytes -= _cost(known[0])

    # -- for tests

    def check_invariants(self) -> None:
        """Raise ``AssertionError`` with the invariant that does not hold. For tests."""
        assert all(one.question.key == key for key, one in self._under_way.items()), (
            "a question is under its own key"
        )
        costs = [_cost(allowed) for allowed, _ in self._remembered.values()]
        assert self._remembered_bytes == sum(costs), "the bytes of what is remembered are those counted"
        assert self._remembered_bytes <= limits.APPLICATION_REMEMBERED_BYTES, "what is remembered is bounded"


def _cost(allowed: Allowance) -> int:
    return limits.APPLICATION_ANSWER_OVERHEAD + (0 if allowed.subject is None else text_size(allowed.subject))


@dataclass(frozen=True, slots=True)
class Permission:
    """What the application has answered to one question, for the readers that it has let in.

    The question itself is not kept, because a parked request has what it is made of.
    """

    application: Authorizer
    asker: Asker
    action: str
    names: tuple[str, ...]
    allowance: Allowance

    def watch(self, parked: Deferred[Any], end: Callable[[CometError], object]) -> Watch | None:
        """Ask again whenever the answer's time is over, until ``parked`` fires; None where it holds for good.

        Where the application refuses then, or does not decide, ``end`` is called with the error.
        """
        if self.allowance.expires_at is None:
            return None
        watch = Watch(self, end)

        def stop(result: Any) -> Any:
            watch.stop()
            return result

        parked.addBoth(stop)
        return watch


class Watch:
    """Asks the application again and again, whenever the time of its answer is over, until it is stopped."""

    def __init__(self, permission: Permission, end: Callable[[CometError], object]) -> None:
        self._permission = permission
        self._application = permission.application
        self._end: Callable[[CometError], object] | None = end
        self._expires_at = 0.0
        self._waits_for: IDelayedCall | Deferred[Allowance] | None = None
        """The time to ask, or the answer."""
        self._allowed(permission.allowance)

    def stop(self) -> None:
        """Ask no more."""
        self._end = None
        waits_for, self._waits_for = self._waits_for, None
        if waits_for is not None:
            waits_for.cancel()

    def _allowed(self, allowance: Allowance) -> None:
        """Wait until the time is over; readers that came together are not asked about in one moment."""
        self._waits_for = None
        if self._end is not None and allowance.expires_at is not None:
            self._expires_at = allowance.expires_at
            left = self._expires_at - self._application.clock.seconds()
            left *= 1 - limits.WAIT_SPREAD * self._application.random.random()
            self._ask_in(max(limits.APPLICATION_ASKED_AGAIN_SECONDS, left))

    def _ask_in(self, seconds: float) -> None:
        self._waits_for = self._application.clock.callLater(seconds, self._ask)

    def _ask(self) -> None:
        self._waits_for = None
        asked = self._permission
        try:
            question = question_of(asked.asker, asked.action, asked.names)
            answer = self._application.ask(question, self._expires_at)
        except CometError as error:
            is_late = self._application.clock.seconds() >= self._expires_at + limits.APPLICATION_SECONDS
            if isinstance(error, ServerFull) and not is_late:
                self._ask_in(_RETRY_SECONDS * (1 + self._application.random.random()))
            else:
                self._refused(Failure(error))
            return
        if is_pending(answer):
            self._waits_for = answer
            answer.addCallbacks(self._allowed, self._refused)
        else:
            self._allowed(answer)

    def _refused(self, failure: Failure) -> None:
        self._waits_for = None
        end, self._end = self._end, None
        if end is not None:
            error = failure.value
            assert isinstance(error, CometError), "an application fails with nothing else"
            end(error)
