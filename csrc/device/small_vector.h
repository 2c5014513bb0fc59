// csrc/device/small_vector.h: a vector that keeps its first elements inside
// itself, so that a launch of the usual size allocates nothing.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <initializer_list>
#include <utility>
#include <vector>

namespace orchard::device {

template <class T, size_t kInside>
class SmallVector {
 public:
  SmallVector() = default;
  SmallVector(std::initializer_list<T> values) {
    for (const T& value : values) push_back(value);
  }

  void push_back(T value) {
    if (size_ == kInside) {  // all must lie side by side
      outside_.resize(kInside);
      std::move(inside_.begin(), inside_.end(), outside_.begin());
    }
    if (size_ < kInside) {
      inside_[size_] = std::move(value);
    } else {
      outside_.push_back(std::move(value));
    }
    ++size_;
  }
  void clear() { *this = SmallVector(); }

  size_t size() const { return size_; }
  bool empty() const { return size_ == 0; }
  T* data() { return size_ <= kInside ? inside_.data() : outside_.data(); }
  const T* data() const {
    return size_ <= kInside ? inside_.data() : outside_.data();
  }
  T* begin() { return data(); }
  T* end() { return data() + size_; }
  const T* begin() const { return data(); }
  const T* end() const { return data() + size_; }
  T& back() { return data()[size_ - 1]; }
  T& operator[](size_t i) { return data()[i]; }
  const T& operator[](size_t i) const { return data()[i]; }

 private:
  std::array<T, kInside> inside_{};
  std::vector<T> outside_;
  size_t size_ = 0;
};

}  // namespace orchard::device
