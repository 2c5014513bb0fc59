"""Mutants that survived and compute the same, each with the reason."""

from __future__ import annotations

from mutant_rules import Mutant

# By file, the line and what takes its place, both without their indentation.
REASONS: dict[tuple[str, str, str], str] = {
    (
        "orchard_ops/_functions/dense.py",
        "if scale is not None or not enable_gqa:",
        "if True:",
    ): "the arguments that are passed are the operator's defaults; it is only slower",
    (
        "orchard_ops/_tune/search.py",
        "failures = suppress(RuntimeError, OrchardError)",
        "failures = suppress(OrchardError, RuntimeError)",
    ): "the order says nothing",
    (
        "orchard_ops/flash_attn/flash_attn_interface.py",
        "q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)",
        "q, k, v = q.transpose(2, 1), k.transpose(1, 2), v.transpose(1, 2)",
    ): "the order says nothing",
    (
        "orchard_ops/flash_attn/_paged.py",
        "rows = (page * page_size + place % page_size).to(caches[0].device)",
        "rows = (page * page_size + place % page_size).to(caches[1].device)",
    ): "caches on two devices are refused before",
    (
        "orchard_ops/distributed/_agreement.py",
        "@dataclass(frozen=True)",
        "@dataclass(frozen=False)",
    ): "nobody writes to an entry, nor asks for its hash",
    (
        "orchard_ops/sdpa.py",
        "if _taught and not is_compiling() and _here.is_left:",
        "if False:",
    ): "PyTorch 2.4's biases call a function that they imported; from 2.5 on they call "
    "ours, and test_causal_biases_too_wide_are_counted_once fails",
    (
        "orchard_ops/_sdpa_call.py",
        "and not _eager_reason(query, key, value)",
        "and not _eager_reason(key, query, value)",
    ): "only whether there is a reason is asked, and of plain tensors",
    (
        "orchard_ops/distributed/_problem.py",
        "if self.ends is None:",
        "if False:",
    ): "without cu_seqlens a part's max_seqlen is not read",
    (
        "orchard_ops/distributed/_layout.py",
        "while unit > 1 and unit * _FEWEST_UNITS * count > length:",
        "while unit > 1 and unit * _FEWEST_UNITS * count >= length:",
    ): "at the limit each chunk is 8 units, or 16 of half their size: the same rows",
    (
        "orchard_ops/_autocast.py",
        "return dtype",
        "return None",
    ): "only PyTorch 2.1 to 2.3 come here: test_float32_is_cast_on_the_device fails",
    (
        "orchard_ops/integrations/_steps.py",
        "return rows, torch.zeros_like(rows[:, 0])",
        "return rows, torch.zeros_like(rows[:, 1])",
    ): "only its shape is taken, and a step has more keys than one",
    (
        "csrc/torch/autograd_ops.cpp",
        "if (!is_recorded || !at::GradMode::is_enabled()) {",
        "if (false) {",
    ): "without gradients apply() records nothing: it is only slower",
    (
        "csrc/torch/cpu_sdpa.cpp",
        "if (!at::GradMode::is_enabled()) return gradients;",
        "if (false) return gradients;",
    ): "what is tied then is never asked for: it is only slower",
    (
        "orchard_ops/integrations/_steps.py",
        'if mask.size(3) < LEAST_KEYS or mask.device.type == "cpu":',
        "if False:",
    ): "a mask whose step goes the dense way is looked at as well: only slower",
    (
        "orchard_ops/_tune/bench.py",
        "NEEDED = [True, True, True, False, False]  # dq, dk and dv",
        "NEEDED = [True, False, True, False, False]  # dq, dk and dv",
    ): "whoever wants dk or dv gets both, of one kernel",
    (
        "csrc/torch/decode_op.cpp",
        "(problem.len_kv + attention::kPageUnit - 1) / attention::kPageUnit;",
        "(problem.len_kv + attention::kPageUnit + 1) / attention::kPageUnit;",
    ): "at most one more split, which has no keys",
    (
        "csrc/torch/cpu_sdpa.cpp",
        "if (settings.scale < std::numeric_limits<float>::min() ||",
        "if (settings.scale <= std::numeric_limits<float>::min() ||",
    ): "of this one scale both ways are right",
    (
        "csrc/torch/packed.cpp",
        "if (is_readable(tensor)) {",
        "if (false) {",
    ): "the numbers are read one by one: only slower",
    (
        "csrc/attention/spill.cpp",
        "return std::min(max_bytes / element_bytes(problem.dtype) / group,",
        "return std::min(max_bytes * element_bytes(problem.dtype) / group,",
    ): "a bound from which follows only whether an index has 64 bits: only slower",
    (
        "csrc/attention/specialisation.cpp",
        "if (problem.mask != MaskKind::none) {",
        "if (true) {",
    ): "without a mask its sizes are 1: nothing is farther",
    (
        "csrc/attention/compiled.cpp",
        "hash = (hash ^ static_cast<uint64_t>(value)) * 0x9E3779B97F4A7C15u;",
        "hash = (hash ^ static_cast<uint64_t>(value)) + 0x9E3779B97F4A7C15u;",
    ): "a worse hash; what it finds is compared as a whole",
    (
        "csrc/attention/tiles.cpp",
        "while (page_size > 0 && page_size % (8 * tile.cols) != 0) tile.cols /= 2;",
        "while (page_size >= 0 && page_size % (8 * tile.cols) != 0) tile.cols /= 2;",
    ): "0 has no remainder, and the loop does not begin",
    (
        "kernels/backward_dkdv.metal",
        "int last = min(first + (SLICES > 1 ? COLS * TILES : COLS), d.len_kv) - 1;",
        "int last = min(first + (SLICES >= 1 ? COLS * TILES : COLS), d.len_kv) - 1;",
    ): "rows that only other tiles see are walked too, and masked: only slower",
    (
        "kernels/forward.metal",
        "int last = min(first + (SLICES > 1 ? ROWS * TILES : ROWS), d.len_q) - 1;",
        "int last = min(first + (SLICES >= 1 ? ROWS * TILES : ROWS), d.len_q) - 1;",
    ): "columns that only other tiles see are walked too, and masked: only slower",
    (
        "kernels/forward.metal",
        "if (place.slice != 0 || place.at.pair != 0) return;",
        "if (place.slice != 0 || place.at.pair == 0) return;",
    ): "the row's other lanes hold the same numbers, and write them three times",
    (
        "kernels/tile/fragment.h",
        ": left >= unit * (MAX_W / 2)                 ? MAX_W / 2",
        ": left > unit * (MAX_W / 2)                 ? MAX_W / 2",
    ): "chunks of any width give the same products: only slower",
    (
        "kernels/tile/dropout.h",
        "if ((d.at_kv & 31) == 0) return is_dropped(draws, p, column0, e);",
        "if ((d.at_kv | 31) == 0) return is_dropped(draws, p, column0, e);",
    ): "each element draws its own, as everywhere but at such a place: only slower",
    (
        "kernels/tile/window.h",
        "column0 >= POSITION(d, row0 + ROWS - 1) + d.offset - p.window_left &&",
        "column0 >= POSITION(d, row0 + ROWS - 1) + d.offset + p.window_left &&",
    ): "fewer blocks are known to be seen as a whole, and are masked: only slower",
    (
        "kernels/tile/window.h",
        "column0 + COLS - 1 <= POSITION(d, row0) + d.offset + p.window_right;",
        "column0 + COLS + 1 <= POSITION(d, row0) + d.offset + p.window_right;",
    ): "fewer blocks are known to be seen as a whole, and are masked: only slower",
    (
        "kernels/tile/unit.h",
        "if (simd_any(largest > LARGEST_HALF)) lower_unit<COUNT>(ds, unit, sums);",
        "if (simd_any(largest >= LARGEST_HALF)) lower_unit<COUNT>(ds, unit, sums);",
    ): "a tile that just fits is made smaller by a power of two, and keeps its digits",
    (
        "csrc/torch/attention_ops.cpp",
        "given.is_wanted[kSinks] && given.call.sinks.defined();",
        "given.is_wanted[kSinks] || given.call.sinks.defined();",
    ): "a gradient that nobody wants is computed and dropped: only slower",
}


def reason_of(mutant: Mutant) -> str:
    """Return why a mutant computes the same, empty if nobody has said so."""
    key = (mutant.file, mutant.old.strip(), mutant.new.strip())
    return REASONS.get(key, "")
