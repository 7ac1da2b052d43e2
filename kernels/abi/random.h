// Random numbers that every backend draws with the same bits: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as
// 1, 2, 3", SC 2011), a pure function of a 128-bit counter and a 64-bit key, and normal draws from its words. The logarithm, sine
// and cosine are written out in IEEE operations of float64, so that no mathematical library decides on a bit of an initial value.
#pragma once

#include <cmath>
#include <cstdint>

#include "tensor.h"

namespace deeptroupe {

namespace philox {
inline constexpr uint32_t multiplier0 = 0xD2511F53, multiplier1 = 0xCD9E8D57;
inline constexpr uint32_t weyl0 = 0x9E3779B9, weyl1 = 0xBB67AE85;
inline constexpr int rounds = 10;
}  // namespace philox

DT_ANYWHERE void philox4x32(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4]) {
  uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3], k0 = key[0], k1 = key[1];
  for (int round = 0; round < philox::rounds; ++round) {
    const uint64_t p0 = uint64_t{philox::multiplier0} * c0, p1 = uint64_t{philox::multiplier1} * c2;
    c0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ k0;
    c1 = static_cast<uint32_t>(p1);
    c2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ k1;
    c3 = static_cast<uint32_t>(p0);
    k0 += philox::weyl0;
    k1 += philox::weyl1;
  }
  out[0] = c0, out[1] = c1, out[2] = c2, out[3] = c3;
}

/// First word of the counters of stochastic rounding (`adam` in kernels/ops/optimizer.ts).
inline constexpr uint32_t rounding_counter = 0x726f756e;

/// ln x of a positive normal number, to 2 ulp: x = 2^k m with m near 1, ln m = 2 artanh((m - 1) / (m + 1)) by its series.
DT_ANYWHERE double natural_logarithm(double x) {
  uint64_t bits;
  __builtin_memcpy(&bits, &x, sizeof bits);
  int k = static_cast<int>(bits >> 52) - 1023;
  bits = (bits & 0xfffffffffffffu) | 0x3ff0000000000000u;
  double m;
  __builtin_memcpy(&m, &bits, sizeof m);
  if (m > 1.4142135623730951) {
    m *= 0.5;
    ++k;
  }
  const double s = (m - 1.0) / (m + 1.0), z = s * s;
  double q = 1.0 / 23;
  q = q * z + 1.0 / 21;
  q = q * z + 1.0 / 19;
  q = q * z + 1.0 / 17;
  q = q * z + 1.0 / 15;
  q = q * z + 1.0 / 13;
  q = q * z + 1.0 / 11;
  q = q * z + 1.0 / 9;
  q = q * z + 1.0 / 7;
  q = q * z + 1.0 / 5;
  q = q * z + 1.0 / 3;
  // ln 2 in two parts, so that k times the first is exact.
  const double high = 6.93147180369123816490e-01, low = 1.90821492927058770002e-10;
  return k * high + (k * low + (2.0 * s + 2.0 * s * (z * q)));
}

/// The sine and cosine of 2 pi u, 0 <= u <= 1 with at most 50 significant bits: exact to a quarter turn, then Taylor's series.
DT_ANYWHERE void turn(double u, double& sine, double& cosine) {
  const int quarter = static_cast<int>(4.0 * u + 0.5);
  const double x = (4.0 * u - quarter) * 1.5707963267948966, z = x * x;
  double s = 1.0 / 355687428096000;
  s = s * z - 1.0 / 1307674368000;
  s = s * z + 1.0 / 6227020800;
  s = s * z - 1.0 / 39916800;
  s = s * z + 1.0 / 362880;
  s = s * z - 1.0 / 5040;
  s = s * z + 1.0 / 120;
  s = s * z - 1.0 / 6;
  s = x + x * (z * s);
  double c = 1.0 / 20922789888000;
  c = c * z - 1.0 / 87178291200;
  c = c * z + 1.0 / 479001600;
  c = c * z - 1.0 / 3628800;
  c = c * z + 1.0 / 40320;
  c = c * z - 1.0 / 720;
  c = c * z + 1.0 / 24;
  c = (1.0 - 0.5 * z) + z * (z * c);
  const double even_sine = quarter & 1 ? c : s, even_cosine = quarter & 1 ? -s : c;
  sine = quarter & 2 ? -even_sine : even_sine;
  cosine = quarter & 2 ? -even_cosine : even_cosine;
}

/// Four standard normal draws of one counter of kernels/ops/fill.ts, by Box and Muller in float64.
DT_ANYWHERE void normal_draws(uint64_t counter, const uint32_t key[2], double out[4]) {
  const uint32_t words[4] = {static_cast<uint32_t>(counter), static_cast<uint32_t>(counter >> 32), 0, 0x696e6974};
  uint32_t random[4];
  philox4x32(words, key, random);
  for (int pair = 0; pair < 4; pair += 2) {
    const double u0 = (random[pair] + 0.5) * 0x1p-32, u1 = (random[pair + 1] + 0.5) * 0x1p-32;
    const double radius = sqrt(-2.0 * natural_logarithm(u0));
    double sine, cosine;
    turn(u1, sine, cosine);
    out[pair] = radius * cosine;
    out[pair + 1] = radius * sine;
  }
}

}  // namespace deeptroupe
