"""Bytes to frames: how each kind of stream is cut into events, whatever they mean."""
