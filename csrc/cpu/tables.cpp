#include "tables.h"

#include <cmath>
#include <complex>
#include <list>
#include <map>
#include <mutex>
#include <tuple>

namespace front::cpu {
namespace {

constexpr double kPi = 3.14159265358979323846264338327950288;
constexpr int64_t kCacheBytes = int64_t{64} << 20;

// exp(-2 pi i num / den), exact to double rounding: the turn is reduced in integers and the angle kept below pi / 4.
std::complex<double> unit(int64_t num, int64_t den) {
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

// Plain recursive DFT in double, for tables only.
void exact_dft(const std::complex<double>* x, int64_t stride, int64_t n, std::complex<double>* y) {
  if (n == 1) {
    *y = *x;
    return;
  }
  int64_t p = 2;
  while (n % p) ++p;
  const int64_t m = n / p;
  std::vector<std::complex<double>> parts(n);
  for (int64_t q = 0; q < p; ++q) exact_dft(x + q * stride, stride * p, m, parts.data() + q * m);
  for (int64_t k = 0; k < n; ++k) {
    std::complex<double> sum = 0;
    for (int64_t q = 0; q < p; ++q) sum += unit(q * k, n) * parts[q * m + k % m];
    y[k] = sum;
  }
}

template <class T>
void put(std::vector<T>& v, std::complex<double> z) {
  v.push_back(static_cast<T>(z.real()));
  v.push_back(static_cast<T>(z.imag()));
}

}  // namespace

template <class T>
Fft<T>::Fft(int64_t n, const std::vector<int32_t>& radices) : n_(n), slot_(n) {
  std::vector<size_t> twiddles, rotations;
  int64_t span = 1;
  for (int32_t r : radices) {
    twiddles.push_back(values_.size());
    for (int64_t k = 0; k < span; ++k)
      for (int32_t j = 1; j < r; ++j) put(values_, unit(j * k, r * span));
    rotations.push_back(values_.size());
    if (r > 8) {
      const int32_t h = (r - 1) / 2;
      for (int part = 0; part < 2; ++part)
        for (int32_t q = 1; q <= h; ++q)
          for (int32_t j = 1; j <= h; ++j) {
            const auto w = unit(int64_t{q} * j, r);
            values_.push_back(static_cast<T>(part == 0 ? w.real() : -w.imag()));
          }
    }
    span *= r;
  }
  span = 1;
  for (size_t i = 0; i < radices.size(); ++i) {  // pointers only now: values_ no longer moves
    stages_.push_back({radices[i], span, values_.data() + twiddles[i], values_.data() + rotations[i]});
    span *= radices[i];
  }
  for (int64_t j = 0; j < n; ++j) {  // decimation in time: the outermost stage splits by the lowest digit
    int64_t rest = j, block = n, slot = 0;
    for (auto r = radices.rbegin(); r != radices.rend(); ++r) {
      block /= *r;
      slot += (rest % *r) * block;
      rest /= *r;
    }
    slot_[j] = static_cast<int32_t>(slot);
  }
}

template <class T>
AxisTables<T>::AxisTables(const AxisPlan& plan, Scale scale)
    : plan_(plan),
      fft_(plan.dft.conv ? plan.dft.conv : plan.dft.n, plan.dft.radices),
      position_(plan.n),
      result_(plan.n) {
  const int64_t n = plan.n, split = plan.split, half = plan.dft.n;
  const bool even = n % 2 == 0;

  for (int64_t i = 0; i < n; ++i) {
    const int64_t v = i % 2 == 0 ? i / 2 : n - 1 - i / 2;  // Makhoul: even indices up, odd ones down
    int64_t sequence = 0, point = v, part = 0;
    if (even) sequence = v % split, part = v / split % 2, point = v / (2 * split);
    const int64_t slot = plan.dft.conv ? point : fft_.slot()[point];
    position_[i] = static_cast<int32_t>(2 * (sequence * half + slot) + part);
    result_[i] = static_cast<int32_t>(2 * (sequence * half + point) + part);
  }

  // X_k = sum_s Re(a_s E_s[k] + b_s O_s[k]) with E, O the spectra of the even and odd points of subsequence s, both
  // from Z = E + iO and its mirror Y_k = Z_{half - k}: four real products per subsequence.
  const double dn = static_cast<double>(n);
  for (int64_t k = 0; k < plan.kept; ++k) {
    const double f = k == 0 ? std::sqrt(1 / dn) * scale.first : std::sqrt(2 / dn) * scale.other;
    if (!even) {
      const auto w = unit(k, 4 * n);
      combine_.push_back(static_cast<T>(f * w.real()));
      combine_.push_back(static_cast<T>(-f * w.imag()));
      continue;
    }
    for (int64_t s = 0; s < split; ++s) {
      const auto a = unit(k * (4 * s + 1), 4 * n), b = unit(k * (4 * (s + split) + 1), 4 * n);
      combine_.push_back(static_cast<T>(f / 2 * (a.real() + b.imag())));  // Re Z
      combine_.push_back(static_cast<T>(f / 2 * (a.real() - b.imag())));  // Re Y
      combine_.push_back(static_cast<T>(f / 2 * (b.real() - a.imag())));  // Im Z
      combine_.push_back(static_cast<T>(f / 2 * (b.real() + a.imag())));  // Im Y
    }
  }

  if (const int64_t conv = plan.dft.conv) {
    std::vector<std::complex<double>> conjugate(conv), spectrum(conv);
    for (int64_t j = 0; j < half; ++j) {
      const auto w = unit(j * j % (2 * half), 2 * half);
      put(chirp_, w);
      conjugate[j] = std::conj(w) / static_cast<double>(conv);
      if (j > 0) conjugate[conv - j] = conjugate[j];
    }
    exact_dft(conjugate.data(), 1, conv, spectrum.data());
    for (const auto& z : spectrum) put(kernel_, z);
  }
}

template <class T>
AxisView<T> AxisTables<T>::view() const {
  const bool bluestein = plan_.dft.conv != 0;
  const DftView<T> dft{plan_.dft.n, fft_.view(), bluestein ? chirp_.data() : nullptr,
                       bluestein ? kernel_.data() : nullptr};
  return {plan_.n,
          plan_.kept,
          plan_.split,
          plan_.dft.n,
          dft,
          position_.data(),
          result_.data(),
          combine_.data(),
          plan_.split * plan_.dft.n + 2 * plan_.dft.conv};
}

template <class T>
int64_t AxisTables<T>::bytes() const {
  const int64_t fft = plan_.dft.conv ? plan_.dft.conv : plan_.dft.n;
  return static_cast<int64_t>(sizeof(T)) *
             (2 * fft + static_cast<int64_t>(chirp_.size() + kernel_.size() + combine_.size())) +
         4 * (2 * plan_.n + fft);
}

namespace {

template <class T>
class Cache {
 public:
  using Key = std::tuple<int64_t, int64_t, double, double>;
  using Value = std::shared_ptr<const AxisTables<T>>;

  Value get(int64_t n, int64_t kept, Scale scale) {
    const Key key{n, kept, scale.first, scale.other};
    {
      std::lock_guard<std::mutex> lock(mutex_);
      if (auto found = index_.find(key); found != index_.end()) {
        order_.splice(order_.begin(), order_, found->second);
        return found->second->second;
      }
    }
    // Built outside the lock: two threads may build the same tables, one wins, neither waits for a third's.
    Value value = std::make_shared<const AxisTables<T>>(plan_axis(n, kept), scale);
    std::lock_guard<std::mutex> lock(mutex_);
    if (auto found = index_.find(key); found != index_.end()) return found->second->second;
    order_.emplace_front(key, value);
    index_[key] = order_.begin();
    bytes_ += value->bytes();
    while (bytes_ > kCacheBytes && order_.size() > 1) {
      bytes_ -= order_.back().second->bytes();
      index_.erase(order_.back().first);
      order_.pop_back();
    }
    return value;
  }

 private:
  std::mutex mutex_;
  std::list<std::pair<Key, Value>> order_;  // most recently used first
  std::map<Key, typename std::list<std::pair<Key, Value>>::iterator> index_;
  int64_t bytes_ = 0;
};

}  // namespace

template <class T>
std::shared_ptr<const AxisTables<T>> axis_tables(int64_t n, int64_t kept, Scale scale) {
  static Cache<T>* cache = new Cache<T>;  // never destroyed: ops may run while the process exits
  return cache->get(n, kept, scale);
}

template class Fft<float>;
template class Fft<double>;
template class AxisTables<float>;
template class AxisTables<double>;
template std::shared_ptr<const AxisTables<float>> axis_tables<float>(int64_t, int64_t, Scale);
template std::shared_ptr<const AxisTables<double>> axis_tables<double>(int64_t, int64_t, Scale);

}  // namespace front::cpu
