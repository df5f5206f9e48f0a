"""Owning a shard: lock, schema, registry, recovery from the stored readings; then the pipeline."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from lifeline_stream.city.registry import load_registry
from lifeline_stream.core.detection import Condition, Detection, readings_of, withdrawn
from lifeline_stream.core.model import LATE, AlarmClass, ConditionEvent
from lifeline_stream.core.plan import Plan, compile_plan, dump, load
from lifeline_stream.declarations import Topology, load_packs
from lifeline_stream.settings import Settings

log = structlog.get_logger(__name__)
