"""Kernels are tried on a device before they are first used there."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import mutant_parts
import pytest
from caches import forget, own_cache
from mutant_rules import Mutant, of_same_length
from needs import TORCH, chosen_device

from orchard_ops._child import python

pytestmark = pytest.mark.xdist_group("verify")

# What each process does first.
START = f"""
import os, sys, warnings
import torch, torch.nn.functional as F
DEVICE = {chosen_device()!r}
if DEVICE == "mps" and sys.platform != "darwin" and {TORCH >= (2, 5)}:
    # A Linux build's table of attention kernels has no place for MPS.
    attend = F.scaled_dot_product_attention
    F.scaled_dot_product_attention = lambda *qkv, **options: attend(
        *(x.cpu() for x in qkv), **options).to(qkv[0].device)
import orchard_ops
from orchard_ops import _native
if DEVICE == "metalsim":
    orchard_ops.sim.enable()

def qkv(*shape, dtype=torch.float32, grad=False):
    torch.manual_seed(1)
    made = [torch.randn(*shape).to(dtype).to(DEVICE) for _ in range(3)]
    return [tensor.requires_grad_(grad) for tensor in made]

def names():
    return sorted(set(_native.ops.trials()[0]))
"""
# Off a Mac both devices run kernels in the simulator.
IS_SIMULATED = sys.platform != "darwin"
# Why some cases are skipped, as needs.skip_without says it.
NO_BFLOAT16 = "no torch.bfloat16 on mps: PyTorch refuses it here"
PLAIN = "orchard_ops.flash_attention(*qkv(1, 2, 40, 32))\n"
WRONG_FORWARD = ("forward.metal", "  float factor = inverse;", "  float factor = 2;")


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of compiled kernels that this module's tests share."""
    return own_cache("verify-tests", tmp_path_factory)


@pytest.fixture
def cache(compiled: Path) -> Iterator[Path]:
    """The user's cache, in which nothing has been found right or wrong yet."""
    yield compiled
    forget(compiled)


def environment(cache: Path, **variables: str) -> dict[str, str]:
    """Return a process's variables, with this cache."""
    chosen = {"ORCHARD_CACHE_DIR": str(cache), "ORCHARD_VERIFY": "first"}
    return {**os.environ, **chosen, **variables}


def run(cache: Path, text: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a text in a new process with this cache."""
    return subprocess.run(
        python(START + text),
        env=environment(cache, **variables),
        text=True,
        capture_output=True,
        check=False,
    )


def output(done: subprocess.CompletedProcess[str]) -> str:
    """Return what a process printed that ended well."""
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def entries(cache: Path) -> dict[str, tuple[int, str]]:
    """Return kernel → number and text of the files that say it is right."""
    found = {}
    for path in (cache / "verified").iterdir():
        text = path.read_text()
        found[text.splitlines()[-1]] = (path.stat().st_ino, text)
    return found


def broken(folder: Path, file: str, old: str, new: str) -> str:
    """Write libraries with a line of a kernel changed; return their folder."""
    name = f"kernels/{file}"
    text = mutant_parts.PARTS["kernels"].texts()[name]
    mutant = Mutant(name, text.split("\n").index(old), old, new)
    folder.mkdir()
    mutant_parts.write_libraries(folder, text, of_same_length(text, mutant))
    return str(folder)


def test_first_use_leaves_an_entry_and_later_starts_try_nothing(cache: Path) -> None:
    """The entry is the user's alone, and says what it holds for."""
    tell = PLAIN + "print(*names())"
    (name,) = output(run(cache, tell)).split()
    assert name.startswith("forward_float_d32")
    (found,) = entries(cache).items()
    assert found[0] == name
    text = found[1][1]
    assert "PyTorch " in text
    assert "orchard-ops " in text
    folder = cache / "verified"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    (file,) = folder.iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    # Twice the same call: one look, and no trial.
    tell = PLAIN + PLAIN + "print(*names(), *_native.ops.verification_costs()[:2])"
    assert output(run(cache, tell)).split() == ["1", "0"]
    assert dict([found]) == entries(cache)


def test_the_variable_says_when(cache: Path) -> None:
    """`never` tries nothing, `always` in each process, other words are an error."""
    tell = PLAIN + "print(*names())"
    assert output(run(cache, tell, ORCHARD_VERIFY="never")) == "\n"
    assert not (cache / "verified").exists()
    once = output(run(cache, tell))
    assert once != "\n"
    assert output(run(cache, tell, ORCHARD_VERIFY="always")) == once
    assert output(run(cache, tell, ORCHARD_VERIFY="")) == "\n"
    done = run(cache, PLAIN, ORCHARD_VERIFY="sometimes")
    assert done.returncode != 0
    assert (
        "InvalidProblemError: [flash_attention] expected ORCHARD_VERIFY to be first, "
        "always or never, got 'sometimes'; unset it for first"
    ) in done.stderr


ALL_FAMILIES = """
def check(call):
    before = len(_native.ops.trials()[0])
    call()
    assert len(_native.ops.trials()[0]) > before

def train(shape, dtype, **options):
    q, k, v = qkv(*shape, dtype=dtype, grad=True)
    out, lse = orchard_ops.flash_attention(q, k, v, return_lse=True, **options)
    (out.float().sum() + lse.clamp(min=0).sum()).backward()

def mask(kind):
    made = torch.randn(40, 40)
    return (made > 0).to(DEVICE) if kind == "bool" else made.to(DEVICE)

def packed(dtype):
    q, k, v = (t[0].transpose(0, 1) for t in qkv(1, 2, 40, 32, dtype=dtype, grad=True))
    ends = torch.tensor([0, 17, 40], dtype=torch.int32).to(DEVICE)
    orchard_ops.flash_attention_varlen(q, k, v, ends, ends, 23, 23).sum().backward()

def part(dtype, **options):
    q, k, v = qkv(1, 2, 40, 32, dtype=dtype)
    options = dict(options, is_causal=True, q_offset=9, k_offset=5,
                   seed=torch.tensor(3))
    out, lse = orchard_ops.flash_attention_partial(q, k, v, **options)
    orchard_ops.flash_attention_partial_backward(out, out, lse, q, k, v, **options)

def decode(dtype, rows=1, **options):
    q = torch.randn(2, rows, 4, 32).to(dtype).to(DEVICE)
    k, v = (torch.randn(2, 64, 2, 32).to(dtype).to(DEVICE) for _ in range(2))
    lengths = torch.tensor([64, 9], dtype=torch.int32).to(DEVICE)
    orchard_ops.flash_attn.flash_attn_with_kvcache(
        q, k, v, cache_seqlens=lengths, **options
    )
"""
FAMILIES = {
    "float32": "train((1, 2, 40, 32), torch.float32)",
    "float16": "train((1, 2, 40, 32), torch.float16)",
    "bfloat16": "train((1, 2, 40, 32), torch.bfloat16)",
    "odd-head": "train((1, 2, 40, 33), torch.float16)",
    "wide-head": "train((1, 2, 40, 128), torch.float16)",
    "causal-softcap": "train((1, 2, 40, 32), torch.float16, is_causal=True, "
    "softcap=3.0)",
    "window-dropout": "train((1, 2, 40, 32), torch.float32, window=(9, 5), "
    "dropout_p=0.5)",
    "mask": "train((1, 2, 40, 32), torch.bfloat16, attn_mask=mask('bool'))",
    "bias": "train((1, 2, 40, 32), torch.float32, "
    "attn_mask=mask('float').requires_grad_())",
    "slopes-sinks": "train((1, 2, 40, 32), torch.float32, "
    "alibi_slopes=torch.ones(2).to(DEVICE), sinks=torch.zeros(2).to(DEVICE))",
    "packed": "packed(torch.float16)",
    "part": "part(torch.float16, dropout_p=0.5)",
    "packed-part": "part(torch.float32, dropout_p=0.5, "
    "cu_seqlens=torch.tensor([0, 17, 80], dtype=torch.int32).to(DEVICE))",
    "decode": "decode(torch.float16)",
    "decode-rows": "decode(torch.float32, rows=8, causal=True)",
    "decode-paged": """
q = torch.randn(2, 1, 4, 32).to(DEVICE)
k, v = (torch.randn(4, 256, 2, 32).to(DEVICE) for _ in range(2))
table = torch.arange(4, dtype=torch.int32).view(2, 2).to(DEVICE)
lengths = torch.tensor([64, 9], dtype=torch.int32).to(DEVICE)
orchard_ops.flash_attn.flash_attn_with_kvcache(
    q, k, v, cache_seqlens=lengths, block_table=table)
""",
}


@pytest.mark.parametrize("family", FAMILIES)
def test_right_kernels_pass_far_below_what_is_allowed(family: str, cache: Path) -> None:
    """Of each family, and the first call alone tries anything."""
    text = (
        ALL_FAMILIES
        + f"""
before = orchard_ops.call_counts()
for _ in range(2):
    {FAMILIES[family].strip().replace(chr(10), chr(10) + "    ")}
    tried = _native.ops.trials()
    if _ == 0:
        first = tried
assert tried == first
print(*_native.ops.verification_costs())
for kernel, output, error, allowed in zip(*tried):
    print(kernel, output, error / allowed)
"""
    )
    done = run(cache, text)
    if "BFloat16 is not supported" in done.stderr:
        pytest.skip(NO_BFLOAT16)
    costs, *rows = (line.split() for line in output(done).splitlines())
    print(
        f"{family}: {costs[1]} trials, {float(costs[3]) * 1e3:.1f} ms of processor time"
    )
    assert rows
    outputs = {row[1] for row in rows}
    wanted = {"out", "lse"} if "decode" in family else {"out", "lse", "dq", "dk", "dv"}
    assert wanted <= outputs
    assert ("dbias" in outputs) == (family == "bias")
    # A third of what is allowed at most, on a device that rounds as the simulator.
    assert max(float(row[2]) for row in rows) < 0.34, rows
    assert {row[0] for row in rows} <= {key.split()[-1] for key in entries(cache)}


TRAIN = "orchard_ops.flash_attention(*qkv(1, 2, 40, 32, grad=True)).sum().backward()"
DECODE = """
cache = torch.randn(1, 64, 2, 32).to(DEVICE)
orchard_ops.flash_attn.flash_attn_with_kvcache(
    cache[:, :1].contiguous(), cache, cache, cache_seqlens=64)
"""
STORE_DQ = "  store_dq(dq, p, place, d.len_q, row0, p.scale{}, stored, gradient);"
# A kernel's line, what takes its place, and a call that needs the kernel.
WRONG = {
    "forward": (*WRONG_FORWARD, PLAIN),
    "prepare": ("backward_prepare.metal", "  sum = simd_sum(sum);", "", TRAIN),
    "dkdv": (
        "backward_dkdv.metal",
        "                       row_of(head.q, p.q.row, row + 1, len_q), place.base,",
        "                       row_of(head.q, p.q.row, row + 2, len_q), place.base,",
        TRAIN,
    ),
    "dq-spilled": (
        "backward_dq_spilled.metal",
        STORE_DQ.format(" / unit"),
        STORE_DQ.format(" * 2.0f"),
        TRAIN.replace("grad=True", "dtype=torch.float16, grad=True"),
    ),
    "dq": (
        "backward_dq.metal",
        STORE_DQ.format(" / unit"),
        STORE_DQ.format(" * 2.0f"),
        f"_native.ops.set_backward_scratch(0)\n{TRAIN}",
    ),
    "decode": (
        "decode.metal",
        "  for (int block = blocks.begin; block < blocks.end; ++block) {",
        "  for (int block = blocks.begin; block < blocks.end - 1; ++block) {",
        DECODE,
    ),
    "combine": (
        "combine.metal",
        "    total += x.y * weight_of(x.x - largest);",
        "    total += x.y;",
        DECODE,
    ),
}


@pytest.mark.parametrize("family", WRONG)
def test_a_wrong_kernel_is_named_recorded_and_never_used(
    family: str, cache: Path, tmp_path: Path
) -> None:
    """The error is the same each time, and the recording is replay's."""
    *line, call = WRONG[family]
    folder = broken(tmp_path / "broken", *line)
    text = f"""
texts = []
for _ in range(2):
    try:
        {call.strip().replace(chr(10), chr(10) + "        ")}
    except orchard_ops.WrongKernelError as error:
        assert isinstance(error, orchard_ops.DeviceError)
        texts.append(str(error))
assert texts[0] == texts[1]
assert orchard_ops.call_counts()[:2] == (0, 0)
print(texts[0])
"""
    said = output(run(cache, text, ORCHARD_LIBRARY_DIR=folder))
    kernel = line[0].partition(".")[0]
    assert re.match(r"\[flash_attention\w*\] expected \w+ of a trial of \w+_d32", said)
    assert re.search(rf"\b{kernel}_\w+_d32", said), said
    assert re.search(r"got an error of (inf|\d\S*); nothing is computed", said)
    (recording,) = cache.glob("wrong-kernel-*")
    assert str(recording) in said
    assert stat.S_IMODE(recording.stat().st_mode) == 0o700
    launches = [json.loads(p.read_text()) for p in recording.glob("*/launch.json")]
    assert kernel in {launch["entry"] for launch in launches}
    kept = entries(cache) if (cache / "verified").exists() else {}
    assert not [name for name in kept if kernel in name]


def test_each_process_finds_a_wrong_kernel_itself(cache: Path, tmp_path: Path) -> None:
    """Nothing is kept of it, so that a new system or version may do better."""
    folder = broken(tmp_path / "broken", *WRONG_FORWARD)
    first, second = (run(cache, PLAIN, ORCHARD_LIBRARY_DIR=folder) for _ in range(2))
    assert "WrongKernelError" in first.stderr
    assert first.stderr.partition("please")[0] == second.stderr.partition("please")[0]


# One detail wrong: file, line, what takes its place, a call, an output that is off and
# the start of its kernel's name.
DETAILS = {
    "no barrier between slices of a head": (
        "tile/exchange.h",
        "  threadgroup_barrier(mem_flags::mem_threadgroup);",
        "",
        "orchard_ops.flash_attention(*qkv(1, 2, 40, 256, dtype=torch.float16))",
        "forward_half_d256",
    ),
    "the scale of dk alone": (
        "backward_dkdv.metal",
        "                        place.base, place.at, p.scale / columns.unit, stored,",
        "                        place.base, place.at, 1.1f / columns.unit, stored,",
        TRAIN,
        "backward_dkdv_float_d32",
    ),
    "a causal mask that sees one key more": (
        "tile/window.h",
        "            column <= facing + p.window_right;",
        "            column <= facing + p.window_right + 1;",
        "orchard_ops.flash_attention(*qkv(1, 2, 40, 32), is_causal=True)",
        "forward_float_d32",
    ),
    "dropout of a part by its own columns": (
        "tile/dropout.h",
        "  column0 += d.at_kv;",
        "",
        "orchard_ops.flash_attention_partial(*qkv(1, 2, 40, 32), dropout_p=0.5,"
        " seed=torch.tensor(3), k_offset=32)",
        "forward_float_d32",
    ),
    "bfloat16 at another head size": (
        "forward.metal",
        "  float factor = inverse;",
        "  float factor = inverse * (HEAD_DIM == 80 ? 1.05f : 1.0f);",
        "orchard_ops.flash_attention(*qkv(1, 2, 40, 64, dtype=torch.bfloat16))\n"
        "orchard_ops.flash_attention(*qkv(1, 2, 40, 80, dtype=torch.bfloat16))",
        r"forward_bfloat\w*_d80",
    ),
}


@pytest.mark.parametrize("detail", DETAILS)
def test_a_wrong_detail_is_found(detail: str, cache: Path, tmp_path: Path) -> None:
    """A trial is long, wide and exact enough to show it."""
    *line, call, kernel = DETAILS[detail]
    folder = broken(tmp_path / "broken", *line)
    done = run(cache, call, ORCHARD_LIBRARY_DIR=folder)
    if "BFloat16 is not supported" in done.stderr:
        pytest.skip(NO_BFLOAT16)
    assert re.search(rf"WrongKernelError: .* of a trial of {kernel}\w* ", done.stderr)


def test_sdpa_falls_back_with_that_reason(cache: Path, tmp_path: Path) -> None:
    """PyTorch computes, `explain` and `fallbacks` say why, the right kernels go on."""
    folder = broken(tmp_path / "broken", *WRONG_FORWARD)
    text = """
q, k, v = qkv(1, 2, 40, 32)
right = F.scaled_dot_product_attention(q.cpu(), k.cpu(), v.cpu())
with orchard_ops.sdpa.enabled():
    for _ in range(2):
        out = F.scaled_dot_product_attention(q, k, v)
        torch.testing.assert_close(out.cpu(), right)
reason = orchard_ops.sdpa.explain(q, k, v).reason
assert orchard_ops.sdpa.fallbacks() == {reason.split(", got ")[0]: 2}
assert not orchard_ops.sdpa.explain(q, k, v).is_routed
assert not orchard_ops.supports(q, k, v)[0]
assert orchard_ops.sdpa.explain(q.half(), k.half(), v.half()).is_routed
assert orchard_ops.call_counts()[0] == 0
print(reason)
"""
    reason = output(run(cache, text, ORCHARD_LIBRARY_DIR=folder))
    assert "of a trial of forward_float_d32" in reason


def test_dropout_draws_what_pytorch_alone_would(cache: Path, tmp_path: Path) -> None:
    """A call that falls back gives back what it drew for a seed."""
    line = "  float factor = inverse * p.keep_scale;"
    folder = broken(tmp_path / "broken", "forward.metal", line, "  float factor = 2;")
    text = """
q, k, v = qkv(1, 2, 40, 32)
def attend(**options):
    torch.manual_seed(3)
    return F.scaled_dot_product_attention(q, k, v, **options), torch.get_rng_state()
right = attend(dropout_p=0.5)
with orchard_ops.sdpa.enabled():
    for made in (attend(dropout_p=0.5), attend(dropout_p=0.5)):
        assert torch.equal(made[0], right[0]) and torch.equal(made[1], right[1])
    (reason,) = orchard_ops.sdpa.fallbacks()
assert "dropout" in reason and "of a trial of" in reason, reason
"""
    output(run(cache, text, ORCHARD_LIBRARY_DIR=folder))


def test_a_wrong_backward_is_found_before_the_forward(
    cache: Path, tmp_path: Path
) -> None:
    """No step of training fails halfway: sdpa falls back with its gradients."""
    folder = broken(tmp_path / "broken", *WRONG["dkdv"][:3])
    text = """
q, k, v = qkv(1, 2, 40, 32, grad=True)
host = [t.detach().cpu().requires_grad_() for t in (q, k, v)]
F.scaled_dot_product_attention(*host).sum().backward()
with orchard_ops.sdpa.enabled():
    F.scaled_dot_product_attention(q, k, v).sum().backward()
    torch.testing.assert_close(k.grad.cpu(), host[1].grad)
    assert orchard_ops.call_counts()[:2] == (0, 0)
    assert "backward_dkdv" in orchard_ops.sdpa.explain(q, k, v).reason
    # Who wants no gradient is served by the forward, which is right.
    with torch.no_grad():
        assert orchard_ops.sdpa.explain(q, k, v).is_routed
        F.scaled_dot_product_attention(q, k, v)
assert orchard_ops.call_counts()[:2] == (1, 0)
"""
    output(run(cache, text, ORCHARD_LIBRARY_DIR=folder))


FOREIGN = """
if DEVICE == "metalsim":
    _native.load_sim()
    from orchard_ops import _sim
    _sim.options().has_foreign_layout = True
else:
    torch.ops.standin.set_foreign_layout(True)
"""


@pytest.mark.skipif(not IS_SIMULATED, reason="a GPU has the layout that it has")
def test_nothing_is_computed_with_a_foreign_lane_layout(cache: Path) -> None:
    """On Metal a probe of its own finds it, on metalsim, which has none, the trial."""
    text = f"""{FOREIGN}
q, k, v = qkv(1, 2, 40, 32)
kind = {{"mps": orchard_ops.UnsupportedError, "metalsim": orchard_ops.WrongKernelError}}
try:
    orchard_ops.flash_attention(q, k, v, is_causal=True)
except kind[DEVICE] as error:
    print(error)
right = F.scaled_dot_product_attention(q.cpu(), k.cpu(), v.cpu())
with orchard_ops.sdpa.enabled():
    out = F.scaled_dot_product_attention(q, k, v)
torch.testing.assert_close(out.cpu(), right)
print(orchard_ops.sdpa.explain(q, k, v).reason)
assert list(orchard_ops.sdpa.fallbacks().values()) == [1]
assert orchard_ops.call_counts()[0] == 0
"""
    for said in output(run(cache, text)).splitlines():
        assert "hold other elements of a simdgroup matrix" in said or (
            "of a trial of forward_float_d32" in said
        )
    assert not (cache / "verified").exists()


def test_a_cache_that_cannot_be_written_is_told_once(cache: Path) -> None:
    """Every process then tries again; nothing else changes."""
    (cache / "verified").write_text("no folder")
    text = f"""{PLAIN}
orchard_ops.flash_attention(*qkv(1, 2, 40, 32, dtype=torch.float16))
assert len(names()) == 2
"""
    for _ in range(2):
        done = run(cache, text)
        output(done)
        assert done.stderr.count("each process tries them again: cannot write") == 1
        assert "set ORCHARD_CACHE_DIR to a folder of your own" in done.stderr


def test_a_foreign_cache_is_told_once(cache: Path, tmp_path: Path) -> None:
    """Nothing is written into a folder of another user, nor believed."""
    foreign = tmp_path / "foreign"
    if os.geteuid() == 0:
        foreign.mkdir()
        os.chown(foreign, 12345, 12345)
    else:
        foreign = Path("/usr")
    # The simulator keeps what it compiles there, so first it must compile.
    text = f"""
os.environ["ORCHARD_VERIFY"] = "not yet"
for dtype in (torch.float32, torch.float16):
    inputs = qkv(1, 2, 40, 32, dtype=dtype)
    try:
        orchard_ops.flash_attention(*inputs)
    except orchard_ops.InvalidProblemError as error:
        assert "not yet" in str(error)
os.environ["ORCHARD_VERIFY"] = "first"
os.environ["ORCHARD_CACHE_DIR"] = {str(foreign)!r}
for dtype in (torch.float32, torch.float16):
    orchard_ops.flash_attention(*qkv(1, 2, 40, 32, dtype=dtype))
assert len(names()) == 2
"""
    done = run(cache, text)
    output(done)
    assert done.stderr.count("each process tries them again: the cache folder") == 1
    assert "belongs to another user" in done.stderr
    assert not (foreign / "verified").exists()


def test_processes_that_start_together_leave_one_entry(cache: Path) -> None:
    """Each tries and writes; what is there at the end is whole, with nothing beside."""
    text = f"""
inputs = qkv(1, 2, 40, 32)
print("ready", flush=True)
input()
{PLAIN}
print(*names())
"""
    output(run(cache, PLAIN, ORCHARD_VERIFY="never"))  # compiles
    together = [
        subprocess.Popen(
            python(START + text),
            # Both would find no entry, if both looked at the same time.
            env=environment(cache, ORCHARD_VERIFY="always"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    for process in together:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    said = [process.communicate("go\n")[0] for process in together]
    assert [process.returncode for process in together] == [0, 0, 0]
    (name,) = {line.strip() for line in said}
    assert len(list((cache / "verified").iterdir())) == 1
    assert list(entries(cache)) == [name]
    assert output(run(cache, PLAIN + "print(*names())")) == "\n"


DAMAGES = {
    "empty": lambda path: path.write_text(""),
    "cut": lambda path: path.write_text(path.read_text()[:-5]),
    "changed": lambda path: path.write_text(path.read_text().replace("4", "5")),
    "binary": lambda path: path.write_bytes(bytes(range(256))),
    "writable by others": lambda path: path.chmod(0o622),
    "link": lambda path: path.symlink_to(path.rename(path.parent.parent / "moved")),
    "folder": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_entry_counts_as_none(damage: str, cache: Path) -> None:
    """The kernel is tried again, and the entry made anew."""
    tell = PLAIN + "print(*names())"
    first = output(run(cache, tell))
    (path,) = (cache / "verified").iterdir()
    text = path.read_text()
    DAMAGES[damage](path)
    assert output(run(cache, tell)) == first
    if damage == "folder":  # in which nothing can be put
        return
    assert path.read_text() == text
    assert not path.is_symlink()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_trial_disturbs_nothing(cache: Path, tmp_path: Path) -> None:
    """Not counts, logs, recordings, generators, modes, regions or graphs."""
    text = f"""
from torch.utils._python_dispatch import TorchDispatchMode

q, k, v = qkv(1, 2, 40, 32, dtype=torch.float16, grad=True)
if DEVICE == "metalsim":
    orchard_ops.sim.reset_counters()
state = torch.get_rng_state()
with orchard_ops.record({str(tmp_path / "recording")!r}):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = orchard_ops.flash_attention(q, k, v)
    out.sum().backward()
assert torch.equal(state, torch.get_rng_state())
assert orchard_ops.call_counts()[:2] == (1, 1)
assert out.dtype == torch.float16 and q.grad is not None
tried = names()
assert {{name.split("_")[0] for name in tried}} == {{"forward", "backward"}}
if DEVICE == "metalsim":
    launches = orchard_ops.sim.kernel_counters()
    assert launches["forward"]["launches"] == 1
    assert launches["backward_dkdv"]["launches"] == 1

seen = []
class Watch(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        seen.append(str(func))
        return func(*args, **(kwargs or {{}}))

with Watch(), torch.inference_mode():
    orchard_ops.flash_attention(*(t.detach() for t in (q, k, v)), softcap=2.0)
assert len(names()) == len(tried) + 1
assert [name for name in seen if name.startswith("orchard_ops")] == [
    "orchard_ops.forward.default"]
assert not [name for name in seen if "sin" in name or "matmul" in name], seen
"""
    log = tmp_path / "log"
    variables = {"ORCHARD_DEBUG_FLASH_ATN": "1", "ORCHARD_KERNEL_LOG": str(log)}
    output(run(cache, text, **variables))
    assert [line.split()[1] for line in log.read_text().splitlines()] == [
        "FWD", "BWD", "FWD",
    ]  # fmt: skip
    names = [p.name.partition("-")[2] for p in (tmp_path / "recording").iterdir()]
    assert sorted(names)[-1] == "forward"
    assert names.count("forward") == 1


def test_what_has_no_data_is_never_tried(cache: Path) -> None:
    """Fake and meta tensors, and what torch.compile traces, launch nothing."""
    text = """
from torch._subclasses.fake_tensor import FakeTensorMode

meta = [torch.empty(1, 2, 40, 32, device="meta", requires_grad=True) for _ in range(3)]
torch.ops.orchard_ops.forward(*meta)
with FakeTensorMode(allow_non_fake_inputs=True):
    made = [torch.empty(1, 2, 40, 32, device=DEVICE) for _ in range(3)]
    torch.ops.orchard_ops.forward(*made)
assert names() == []
"""
    output(run(cache, text))
    assert not (cache / "verified").exists()


def test_threads_that_start_together_do_not_wait_forever(cache: Path) -> None:
    """Each may try a kernel that none has tried; all get their results."""
    text = """
import threading
inputs = qkv(1, 2, 40, 32, grad=True)
right = F.scaled_dot_product_attention(*(t.detach().cpu() for t in inputs))
gate, results = threading.Barrier(4), []
def work():
    gate.wait()
    out = orchard_ops.flash_attention(*inputs)
    torch.autograd.grad(out.sum(), inputs)
    results.append(out.detach().cpu())
threads = [threading.Thread(target=work) for _ in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert len(results) == 4
for out in results: torch.testing.assert_close(out, right)
"""
    output(run(cache, text))
