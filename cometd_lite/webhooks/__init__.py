"""Webhooks: what happens here is posted to your application (HTTP.md, "Webhooks").

``signing`` signs what is posted, as Standard Webhooks has it. ``outbox`` keeps the events that wait,
``sender`` posts them in order, and ``unread`` finds the messages that no reader has fetched. ``service``
composes these, and is all that the rest of the server knows of them.
"""
