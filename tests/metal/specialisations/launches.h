// tests/metal/specialisations/launches.h: the launches that a problem is cut
// into.
#pragma once

// Reads problems from standard input, one a line:
//   kind dtype head_dim batch heads_q heads_kv len_q len_kv window scratch
//   mask_batches mask_heads mask_rows mask_columns
// kind is "forward", "backward" or "decode"; a window of -1 is open, others are
// of keys to the left and none to the right; without a mask its sizes are 0.
// Prints the launches of each on a GPU of class A, then an empty line:
//   entry tile_rows tile_cols simdgroups slices grid x 3 origin x 3
//   heads from, to, rows from, to, is last part of a walk, columns, seconds
int print_launches();
