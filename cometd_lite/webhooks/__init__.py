"""Webhooks: what happens here is posted to your application (HTTP.md, "Webhooks").

``signing`` signs what is posted, as Standard Webhooks has it. ``outbox`` keeps the events that wait,
``sender`` posts them in order, ``unread`` finds the messages that no reader has fetched, and ``absences``
knows which of them were reported. ``service`` composes these, and is all that the rest of the server knows.
"""
