"""Engines: the protocol (base), the kinds by name (registry), one that outlives its deaths (restarting), the built-in ones."""
