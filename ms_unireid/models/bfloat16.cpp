// Products of float32 matrices whose elements are rounded to bfloat16 where they are multiplied; the sums are float32.
// MindSpore calls the functions at the end as custom operators of a CPU; `bfloat16.py` compiles the file.

#include <sched.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

namespace {

using Count = int64_t;
using Pair = uint32_t;  // two neighbours along the depth, in bfloat16

// Rows and columns of the result that the kernel keeps in registers: 24 of 32 with AVX-512.
constexpr Count kRows = 12, kColumns = 32;
constexpr Count kPanels = 8;               // of rows that pass a panel of columns while it is in the cache
constexpr Count kSerial = Count{1} << 20;  // products with fewer operations take one thread

// To the nearest, ties to even; NaN stays NaN.
inline Pair Rounded(float value) {
  Pair bits;
  std::memcpy(&bits, &value, sizeof bits);
  Pair rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  return (bits & 0x7fffffff) > 0x7f800000 ? (bits >> 16) | 0x40 : rounded;
}

// Packs panels [begin, end) of kWide lines of a matrix (lines, depth), or (depth, lines) if it is given transposed:
// to[panel][pair][line]. What is behind the matrix is zero.
template <Count kWide>
void Pack(const float *from, Count lines, Count depth, bool transposed, Count begin, Count end, Pair *to) {
  Count pairs = (depth + 1) / 2, size = pairs * kWide;
  if (end * kWide > lines) std::fill(to + (end - 1) * size, to + end * size, 0);
  if (!transposed) {
    std::vector<Pair> row(pairs);
    for (Count i = begin * kWide; i < std::min(end * kWide, lines); i++) {
      const float *line = from + i * depth;
      for (Count pair = 0; pair < depth / 2; pair++) {
        row[pair] = Rounded(line[2 * pair]) | Rounded(line[2 * pair + 1]) << 16;
      }
      if (depth % 2) row[pairs - 1] = Rounded(line[depth - 1]);
      Pair *out = to + i / kWide * size + i % kWide;
      for (Count pair = 0; pair < pairs; pair++) out[pair * kWide] = row[pair];
    }
    return;
  }
  // Several panels at once take whole cache lines of each row.
  for (Count first = begin; first < end; first += kPanels) {
    for (Count pair = 0; pair < pairs; pair++) {
      const float *low = from + 2 * pair * lines, *high = 2 * pair + 1 < depth ? low + lines : nullptr;
      for (Count panel = first; panel < std::min(first + kPanels, end); panel++) {
        Pair *out = to + panel * size + pair * kWide;
        Count start = panel * kWide, there = std::min(kWide, lines - start);
        for (Count i = 0; i < there; i++) out[i] = Rounded(low[start + i]);
        for (Count i = 0; high && i < there; i++) out[i] |= Rounded(high[start + i]) << 16;
      }
    }
  }
}

// Multiplies a panel of rows by one of columns; `to` has room for kRows x kColumns, its rows `stride` apart.
void Multiply(Count pairs, const Pair *rows, const Pair *columns, float *to, Count stride) {
#ifdef __AVX512BF16__
  __m512 sums[kRows][2];
  for (auto &sum : sums) sum[0] = sum[1] = _mm512_setzero_ps();
  for (Count pair = 0; pair < pairs; pair++, rows += kRows, columns += kColumns) {
    auto left = (__m512bh)_mm512_loadu_si512(columns), right = (__m512bh)_mm512_loadu_si512(columns + 16);
#pragma GCC unroll 12
    for (Count i = 0; i < kRows; i++) {
      auto row = (__m512bh)_mm512_set1_epi32(static_cast<int>(rows[i]));
      sums[i][0] = _mm512_dpbf16_ps(sums[i][0], row, left);
      sums[i][1] = _mm512_dpbf16_ps(sums[i][1], row, right);
    }
  }
  for (Count i = 0; i < kRows; i++) {
    _mm512_storeu_ps(to + i * stride, sums[i][0]);
    _mm512_storeu_ps(to + i * stride + 16, sums[i][1]);
  }
#else  // for tests on other processors
  auto low = [](Pair pair) { float value; pair <<= 16; std::memcpy(&value, &pair, sizeof value); return value; };
  auto high = [](Pair pair) { float value; pair &= 0xffff0000; std::memcpy(&value, &pair, sizeof value); return value; };
  for (Count i = 0; i < kRows; i++) {
    for (Count j = 0; j < kColumns; j++) {
      float sum = 0;
      for (Count pair = 0; pair < pairs; pair++) {
        Pair row = rows[pair * kRows + i], column = columns[pair * kColumns + j];
        sum += low(row) * low(column) + high(row) * high(column);
      }
      to[i * stride + j] = sum;
    }
  }
#endif
}

// Memory that stays for the next product.
class Memory {
 public:
  Pair *Get(Count count) {
    if (count > size_) {
      memory_.reset(static_cast<Pair *>(std::aligned_alloc(64, (count * sizeof(Pair) + 63) / 64 * 64)));
      size_ = memory_ ? count : 0;
    }
    return memory_.get();
  }

 private:
  struct Free {
    void operator()(Pair *memory) const { std::free(memory); }
  };
  std::unique_ptr<Pair, Free> memory_;
  Count size_ = 0;
};

// The cores that this process may run on.
Count Cores() {
  cpu_set_t found;
  return sched_getaffinity(0, sizeof found, &found) ? 1 : std::max(1, CPU_COUNT(&found));
}

// Splits [0, count) among threads.
void Share(Count count, Count threads, const std::function<void(Count, Count)> &work) {
  std::vector<std::thread> others;
  for (Count i = 1; i < threads; i++) others.emplace_back(work, count * i / threads, count * (i + 1) / threads);
  work(0, count / threads);
  for (auto &other : others) other.join();
}

// c (m, n) = a (m, k) b (k, n); either may be given transposed.
int Product(void **params, int64_t **shapes, bool a_transposed, bool b_transposed) {
  auto a = static_cast<const float *>(params[0]), b = static_cast<const float *>(params[1]);
  auto c = static_cast<float *>(params[2]);
  Count m = shapes[0][a_transposed], k = shapes[0][!a_transposed], n = shapes[1][!b_transposed];
  Count pairs = (k + 1) / 2, down = (m + kRows - 1) / kRows, across = (n + kColumns - 1) / kColumns;
  static thread_local Memory of_rows, of_columns;
  Pair *rows = of_rows.Get(down * kRows * pairs), *columns = of_columns.Get(across * kColumns * pairs);
  if (!rows || !columns) return 1;
  Count threads = m * n * k < kSerial ? 1 : std::min(Cores(), std::max(down, across));
  Share(down, threads, [&](Count begin, Count end) { Pack<kRows>(a, m, k, a_transposed, begin, end, rows); });
  Share(across, threads, [&](Count begin, Count end) { Pack<kColumns>(b, n, k, !b_transposed, begin, end, columns); });
  auto block = [&](Count top, Count bottom, Count left, Count right) {
    float edge[kRows * kColumns];
    for (Count first = top; first < bottom; first += kPanels) {
      for (Count j = left; j < right; j++) {
        for (Count i = first; i < std::min(first + kPanels, bottom); i++) {
          float *to = c + i * kRows * n + j * kColumns;
          Count height = std::min(kRows, m - i * kRows), width = std::min(kColumns, n - j * kColumns);
          bool whole = height == kRows && width == kColumns;
          auto left_panel = rows + i * kRows * pairs, right_panel = columns + j * kColumns * pairs;
          Multiply(pairs, left_panel, right_panel, whole ? to : edge, whole ? n : kColumns);
          for (Count row = 0; !whole && row < height; row++) {
            std::memcpy(to + row * n, edge + row * kColumns, width * sizeof(float));
          }
        }
      }
    }
  };
  if (down >= across) {
    Share(down, threads, [&](Count begin, Count end) { block(begin, end, 0, across); });
  } else {
    Share(across, threads, [&](Count begin, Count end) { block(0, down, begin, end); });
  }
  return 0;
}

}  // namespace

// Each operator and, for shapes that are open when a graph is compiled, the shape of its result.
#define OPERATOR(name, a_transposed, b_transposed)                                                            \
  extern "C" int name(int, void **params, int *, int64_t **shapes, const char **, void *, void *) {           \
    return Product(params, shapes, a_transposed, b_transposed);                                               \
  }                                                                                                           \
  extern "C" std::vector<int64_t> name##InferShape(int *, int64_t **shapes, void *) {                         \
    return {shapes[0][a_transposed], shapes[1][!b_transposed]};                                               \
  }

OPERATOR(Plain, false, false)
OPERATOR(ByTransposed, false, true)
OPERATOR(OfTransposed, true, false)
