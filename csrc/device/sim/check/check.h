// csrc/device/sim/check/check.h: the rules of Metal that need no types.  Each
// refuses what breaks one, with the place and what to write instead, and notes
// how its own words are said in C++ for OpenCL.
#pragma once

#include <set>
#include <string>
#include <string_view>

#include "device/sim/check/unit.h"

namespace orchard::sim::check {

// Address spaces, as words before or behind a type.
bool is_space(std::string_view word);
// Types of one word: numbers, vectors and matrices of them.
bool is_plain_type(std::string_view word);

// Functions of Metal's library on numbers.
bool is_library_function(std::string_view word);

// Names of function constants, and of what is computed from them.
std::set<std::string> function_constants(Unit& unit);

// Keywords as names, and words that Metal lacks.
void check_words(Unit& unit);
// Every pointer and reference names an address space.
void check_pointers(Unit& unit);
// Signatures: what is bound to which slot, attributes and their types.
void check_kernels(Unit& unit);
// Variables outside functions, in kernels and in helpers; function constants.
void check_variables(Unit& unit);
// Statements and declarations of C++ that the version lacks.
void check_language(Unit& unit);
// What a constexpr function calls.
void check_constants(Unit& unit);

}  // namespace orchard::sim::check
