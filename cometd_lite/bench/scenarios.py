"""The shapes of load that a run can have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Scenario:
    """One shape of load; ``SCENARIOS`` has those with names."""

    name: str
    about: str
    recipients: int
    readers_each: int = 1
    messages_each_round: int = 1
    pushers: int = 16
    """Rounds under way at once."""
    streams: bool = False

    @property
    def readers(self) -> int:
        return self.recipients * self.readers_each

    def sized(self, readers: int | None, pushers: int | None, mailboxes: int | None) -> Scenario:
        """Return the scenario with other numbers, where they are given."""
        scenario = self if pushers is None else replace(self, pushers=pushers)
        if not self.readers_each:
            return scenario if mailboxes is None else replace(scenario, recipients=mailboxes)
        if readers is None:
            return scenario
        if self.recipients == 1:
            return replace(scenario, readers_each=readers)
        return replace(scenario, recipients=readers)


SCENARIOS: Mapping[str, Scenario] = {
    scenario.name: scenario
    for scenario in (
        Scenario("mailbox", "200 parked recipients; a push to one wakes one, which polls again", 200),
        Scenario(
            "fanout", "1,000 parked on one recipient; one push wakes all, who poll again", 1, 1000, 1, 1
        ),
        Scenario("parked", "10,000 parked recipients: what each takes of a fresh server's memory", 10_000),
        Scenario(
            "burst", "100 messages pushed at once to one reader, who reads them; 10 such pairs", 10, 1, 100
        ),
        Scenario(
            "stream", "1,000 readers of one recipient's event stream; a push reaches all", 1, 1000, 1, 1, True
        ),
        Scenario(
            "streams", "10,000 streams, each of its own recipient: the same of memory", 10_000, streams=True
        ),
        Scenario("push", "pushes spread over 100 mailboxes without readers; read back at the end", 100, 0),
    )
}
