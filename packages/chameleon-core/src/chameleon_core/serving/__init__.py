"""The pipeline for many callers: one engine that threads share, and replicas of it on Ray Serve."""

from __future__ import annotations

from .front import FrontChameleon
from .options import ReplicaOptions
from .replicas import app
from .shared import SharedChameleon

__all__ = ["FrontChameleon", "ReplicaOptions", "SharedChameleon", "app"]
