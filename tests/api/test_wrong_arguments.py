"""Whatever an argument is given: a result, or one of our errors before any launch.

``pytest tests/api/test_wrong_arguments.py --wrong "flash_attention|scale=text"`` tries
one problem, and `nox -s fuzz` many.
"""

from __future__ import annotations

import inspect
import random

import pytest
import torch
from calls import CALLS, Call
from hypothesis import HealthCheck, given, settings
from wrong import IS_FINE, IS_REFUSED, THEIRS, Wrong, outcome, parse, problems, singles

import orchard_ops
from orchard_ops import distributed, flash_attn
from orchard_ops.flash_attn import bert_padding, flash_attn_interface

CPU = torch.device("cpu")
# Of each argument, so many of the values: `nox -s fuzz` tries all.
SAMPLE = 3


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make a test of each function, or of the one problem that is asked for."""
    if "wrongs" not in metafunc.fixturenames:
        return
    text = metafunc.config.getoption("--wrong")
    if text:
        metafunc.parametrize("wrongs", [[parse(text)]], ids=[text])
        return
    rng = random.Random("wrong")
    drawn = {name: sample(name, rng) for name in CALLS}
    metafunc.parametrize("wrongs", drawn.values(), ids=drawn)


def sample(name: str, rng: random.Random) -> list[Wrong]:
    """Return some values of each argument of a function."""
    every = singles(name)
    return rng.sample(every, min(len(every), SAMPLE * len(CALLS[name].whole)))


def test_a_wrong_argument_is_refused(wrongs: list[Wrong]) -> None:
    """One at a time, on the CPU, where everything is checked and nothing compiled."""
    for wrong in wrongs:
        assert outcome(wrong, CPU) in (IS_FINE, IS_REFUSED)


@settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(problems())
def test_wrong_arguments_together(wrong: Wrong) -> None:
    """Up to three at once; what fails is shrunk to as few as show it."""
    outcome(wrong, CPU)


REFUSED_ON_DEVICES = [
    "flash_attention|q=half", "flash_attention|k=longer-2", "flash_attention|scale=nan",
    "flash_attention|return_lse=text", "flash_attention_varlen|max_seqlen_q=2**63",
    "flash_attention_varlen|cu_seqlens_q=int64",
    "flash_attention_partial|q_offset=2**64",
    "flash_attention_with_kvcache|cache_seqlens=cfloat",
    "flash_attention_with_kvcache|rotary_interleaved=pair",
    "flash_attn_varlen_func of pages|v=shorter-0", "_flash_attn_backward|dq=text",
    "_flash_attn_backward|dk=stride-0", "_flash_attn_varlen_backward|softmax_lse=None",
    "_flash_attn_backward|dout=shorter-1", "merge_partials|parts=text",
    "sink_gradient|grad_lse=longer-1", "unshard|length=text",
    "apply_rotary_emb of sequences|cu_seqlens=number",
    "apply_rotary_emb of sequences|x=number", "apply_rotary_emb|cos=cfloat",
    "apply_rotary_emb|x=cfloat", "sink_gradient|sinks=cfloat",
    "context_parallel_attention|v=fewer-dims",
]  # fmt: skip


@pytest.mark.parametrize("text", REFUSED_ON_DEVICES)
def test_the_device_refuses_alike(text: str, device: torch.device) -> None:
    """Nothing is launched, and caches and gradients stay as they are."""
    assert outcome(parse(text), device) == IS_REFUSED
    assert outcome(parse(text), CPU) == IS_REFUSED


def test_every_function_is_called() -> None:
    """A public function that is added has to be added here too."""
    named = {call.name for call in CALLS.values()}
    elsewhere = {
        # Tested where what they need is: folders, other processes, the simulator.
        "record", "tune", "call_counts", "synchronize", "install_as_flash_attn",
        "uninstall_as_flash_attn", "context_parallel", "traffic", "reset_traffic",
    }  # fmt: skip
    for module in (orchard_ops, flash_attn, flash_attn_interface, bert_padding,
                   distributed):  # fmt: skip
        for name in module.__all__:
            value = getattr(module, name)
            is_error = isinstance(value, type) and issubclass(value, Exception)
            if callable(value) and not is_error and name not in ("Layout", "Method"):
                assert name in named | elsewhere, name


@pytest.mark.parametrize("name", CALLS)
def test_the_calls_are_valid_and_whole(name: str) -> None:
    """Each works, and has a value for every argument that its function takes."""
    call: Call = CALLS[name]
    assert outcome(Wrong(name, ()), CPU) == IS_FINE
    if " of " not in name:
        taken = set(inspect.signature(call.function).parameters)
        ours = set().union(*(each.whole for each in CALLS.values()
                             if each.function is call.function))  # fmt: skip
        assert taken - ours <= {"block_table", "cu_seqlens", "max_seqlen", "leftpad_k",
                                "seqused_k", "zero_tensors"} | THEIRS  # fmt: skip


def test_a_text_is_its_own_reproduction() -> None:
    """What a failure prints can be given to --wrong."""
    problem = singles("flash_attention")[3]
    assert parse(str(problem)) == problem
