// tests/metal/runtime/streams/mps.h: PyTorch's MPS streams over the stand-in,
// to see from where they are used.  ORCHARD_TORCH_MINOR says whose: one stream
// of the process before 2.14, several with one current in each thread from then
// on.
#pragma once

namespace standin {

// How many streams there are; stream 0 is the default one.
int stream_count();

// Makes a stream the calling thread's current one.
void use_stream(int index);

// Whether torch::mps::synchronize() throws when a command buffer has failed.
bool pytorch_reports_gpu_errors();

// Commits a stream's work and waits for it; false if it failed on the GPU.
bool synchronize_stream(int index);

// Whether the calling thread runs a block of the queue of its current stream.
bool is_on_queue();

// Calls of the streams' members that were made off their queue.
int calls_off_queue();

}  // namespace standin
