"""Thirty days of ten thousand endpoints."""
