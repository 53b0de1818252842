"""The comet without HTTP: mailboxes, parked readers, and the hub that brings them together."""
