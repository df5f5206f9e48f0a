"""Streaming ingestion and anomaly detection for a city's lifelines 城市生命线."""

__version__ = "0.1.0"
