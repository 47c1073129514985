#include "roots.h"

#include <cmath>

namespace front::cpu {

// Exact to double rounding: the turn is reduced in integers and the angle kept below pi / 4.
ComplexDouble unit(int64_t num, int64_t den) {
  num %= den;
  if (num < 0) num += den;
  const int64_t eighth = (8 * num) / den;         // octant
  const int64_t from = ((eighth + 1) / 2) * den;  // nearest multiple of a quarter turn, times 4
  const double angle = 2 * kPi * (static_cast<double>(4 * num - from) / (4 * static_cast<double>(den)));
  const double c = std::cos(angle), s = std::sin(angle);
  switch (((eighth + 1) / 2) % 4) {
    case 0:
      return {c, -s};
    case 1:
      return {-s, -c};
    case 2:
      return {-c, s};
    default:
      return {s, c};
  }
}

}  // namespace front::cpu
