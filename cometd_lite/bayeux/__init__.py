"""The Bayeux protocol over a hub."""
