"""How decoder.c is told of a model: the fields of model.h, and what a description that it does not know raises."""

from __future__ import annotations

import ctypes
from typing import Any

POINTER, WHOLE, REAL = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float


QUERY, KEY, VALUE, OUT, GATE, UP, DOWN, AMOUNT, DECAY, TOKEN, TOKEN_GATE, TOKEN_OUT, LATENT_QUERY, LATENT = range(14)
"""Places of a layer's matrices, as in model.h."""
MATRICES = 14


class Unknown(Exception):
    """What of a model decoder.c does not know, in words."""


class Fields(ctypes.Structure):
    """A structure of model.h. A name that it does not have is an error; ctypes would take it for another attribute."""

    def __init__(self, *values: Any, **named: Any) -> None:
        unknown = set(named) - {field[0] for field in self._fields_}
        if unknown:
            raise TypeError(f"{type(self).__name__} has no {' and no '.join(sorted(unknown))}")
        super().__init__(*values, **named)


class Matrix(Fields):
    _fields_ = (
        *((name, POINTER) for name in ("weight", "scale", "bias")),
        *((name, WHOLE) for name in ("inputs", "outputs", "kind")),
        ("factor", REAL),
    )


class Recurrence(Fields):
    _fields_ = (
        *((name, POINTER) for name in ("filter", "filter_bias", "rate", "time_bias", "skip", "norm")),
        *((name, WHOLE) for name in ("kind", "norms", "normed_first", "channels", "taps")),
        *((name, WHOLE) for name in ("key_heads", "value_heads", "key_size", "value_size", "place", "trace")),
        *((name, REAL) for name in ("epsilon", "least_time")),
    )


class Mixture(Fields):
    _fields_ = (
        ("router", Matrix),
        *((name, POINTER) for name in ("matrices", "correction", "scales")),
        *((name, POINTER) for name in ("routed", "before", "after", "beside")),
        *((name, WHOLE) for name in ("count", "chosen", "inner", "whole", "groups", "best_groups")),
        *((name, WHOLE) for name in ("competing", "alternating")),
        *((name, REAL) for name in ("factor", "rest", "least", "limit", "slope", "lift")),
    )


class Layer(Fields):
    _fields_ = (
        ("matrices", Matrix * MATRICES),
        *((name, POINTER) for name in ("recurrent", "experts")),
        *((name, POINTER) for name in ("before", "after", "attended", "perceived", "reminded")),
        *((name, POINTER) for name in ("query_norm", "key_norm", "value_norm", "queries_norm", "keys_norm")),
        *((name, POINTER) for name in ("latent_query_norm", "latent_norm", "sinks")),
        *((name, WHOLE) for name in ("heads", "key_heads", "size", "value_size", "steady", "query_size")),
        *((name, WHOLE) for name in ("window", "angles", "rotary", "place", "beside")),
        ("scale", REAL),
    )


class Decoder(Fields):
    _fields_ = (
        *((name, POINTER) for name in ("layers", "embeddings", "norm")),
        ("head", Matrix),
        *((name, POINTER) for name in ("token_embeddings", "token_norm")),
        *((name, WHOLE) for name in ("count", "hidden", "rotary")),
        *((name, WHOLE) for name in ("embeddings_kind", "token_kind", "cache_kind", "activation")),
        *((name, WHOLE) for name in ("experts", "chosen", "expert_inner")),
        *((name, WHOLE) for name in ("alone", "turns", "turned_first", "trace", "known")),
        *((name, REAL) for name in ("epsilon", "query_epsilon", "token_epsilon", "scaling", "growth")),
        *((name, REAL) for name in ("embedding_scale", "token_scale", "branch_scale", "logit_scale")),
        *((name, REAL) for name in ("score_cap", "logit_cap")),
    )


class Change(Fields):
    _fields_ = (("down", POINTER), ("up", POINTER), ("rank", WHOLE))


def require(holds: bool, what: str) -> None:
    """Unknown where it does not hold."""
    if not holds:
        raise Unknown(what)


def either(of: Any, *names: str) -> Any:
    """What its own code calls by one of these names."""
    return getattr(of, next((name for name in names if hasattr(of, name)), names[-1]))


def base(linear: Any) -> Any:
    """The layer itself, whatever peft has put around it."""
    return getattr(linear, "base_layer", linear)


def epsilon(norm: Any) -> float:
    return float(either(norm, "variance_epsilon", "eps"))
