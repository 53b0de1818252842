"""The HTTP interface as Klein routes."""
