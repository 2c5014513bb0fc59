// tests/metal_runtime/mps.h: a PyTorch MPS stream over the stand-in, to see
// from where it is used.
#pragma once

namespace standin {

// Whether the calling thread runs a block of the stream's queue.
bool is_on_queue();

// Calls of the stream's members that were made off its queue.
int calls_off_queue();

}  // namespace standin
