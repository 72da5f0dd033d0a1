"""Strategies against the visual prior; each wraps any system and none names one."""
