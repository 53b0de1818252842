"""Where mailboxes live: implementations of ``core.store.Store``."""
