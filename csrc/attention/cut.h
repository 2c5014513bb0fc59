// csrc/attention/cut.h: launches cut by their work, so that none is predicted
// to keep the slowest GPU longer than device/longest.h says: into parts of the
// grid and, where one wave of threadgroups would take too long, into parts of
// what each threadgroup adds up.
#pragma once

#include "attention/specialisation.h"

namespace orchard::attention {

// What each threadgroup of a launch goes through.
struct Walk {
  double row_seconds = 0.0;  // predicted, of a row of one head
  int64_t heads = 1;
  int64_t rows = 1;      // of each head, at most
  int64_t row_end = 0;   // of the rows that may be cut; 0: the walk cannot be
  int64_t row_unit = 0;  // multiples of which rows are cut at; 0: heads only

  double seconds() const {
    return row_seconds * static_cast<double>(heads * rows);
  }
};

// Of a launch over `columns` columns of the scores: all, or those of a chunk.
Walk walk_of(const Specialisation& s, const Problem& problem, int64_t columns);

// A box of the grid, and the part of the walk, that one launch does.
struct Piece {
  device::Size3 origin{0, 0, 0};
  device::Size3 size{1, 1, 1};
  int64_t head = 0;
  int64_t head_end = 1;
  int64_t row = 0;
  int64_t row_end = 0;
  bool is_last = true;  // of the walk
  double seconds = 0.0;
};

// In the order that the launches must have: the parts of a walk one after the
// other.  One piece where nothing is cut.
using Pieces = device::SmallVector<Piece, 1>;
Pieces cut(const device::Size3& grid, uint32_t threads, const Walk& walk);

// Whether a launch over all columns must be cut in its walk.
bool is_walk_cut(const Specialisation& s, const Problem& problem);

// Of the scratch in which launches leave their sums to the next (tile/carry.h).
int64_t walk_sums_bytes(const Specialisation& s, const Pieces& pieces);

}  // namespace orchard::attention
