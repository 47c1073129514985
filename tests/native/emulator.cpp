// What the emulator does for every kernel: see emulator.h.
#include "cuda/emulator.h"

#include <algorithm>
#include <cstdio>
#include <string>

namespace front::cuda {

Emulation::Emulation(EmulatorReport& report)
    : report_(report), random_(report.seed), halves_(static_cast<size_t>(report.buffer_count)) {}

Emulation::~Emulation() {
  std::string lines;
  for (const auto& [key, count] : banks_)
    lines += key + '|' + std::to_string(count.wavefronts) + '|' + std::to_string(count.ideal) + '\n';
  std::snprintf(report_.banks, sizeof report_.banks, "%s", lines.c_str());
}

void Emulation::start_block(i64 block) {
  block_ = block;
  ++phase_;
  shared_.assign(report_.shared_bytes, static_cast<char>(0xff));  // NaN in every type
  words_.assign((report_.shared_bytes + 3) / 4, {});
}

// The order of the threads.
const int* Emulation::start_phase(const char* name, int threads) {
  name_ = name;
  order_.resize(threads);
  for (int t = 0; t < threads; ++t) order_[t] = t;
  if (report_.seed) std::shuffle(order_.begin(), order_.end(), random_);
  if (report_.statistics) {
    shared_count_.assign(2 * threads, 0);
    memory_count_.assign(2 * threads, 0);
  }
  return order_.data();
}

void Emulation::end_phase(bool barrier) {
  if (report_.statistics) count_requests();
  if (barrier) ++phase_;
}

// Where element i of `size` bytes of an array of shared memory lies.
char* Emulation::shared(u32 offset, u32 count, u32 i, u32 size, bool write) {
  if (i >= count || offset + static_cast<i64>(i + 1) * static_cast<i64>(size) > report_.shared_bytes) {
    finding(report_.bounds, "index out of range of shared memory", i);
    i = 0;
  }
  const u32 at = offset + i * size;
  for (u32 w = at / 4; w < (at + size) / 4; ++w) {
    Word& word = words_[w];
    if (write) {
      if (word.write_phase == phase_ && word.writer != thread_)
        finding(report_.races, "writes what another thread writes in the same phase", i);
      if (word.read_phase == phase_ && word.reader != thread_)
        finding(report_.races, "writes what another thread reads in the same phase", i);
      word.write_phase = phase_;
      word.writer = thread_;
    } else {
      if (word.write_phase < 0) finding(report_.uninitialised, "reads shared memory that was never written", i);
      if (word.write_phase == phase_ && word.writer != thread_)
        finding(report_.races, "reads what another thread writes in the same phase", i);
      if (word.read_phase != phase_) {
        word.read_phase = phase_;
        word.reader = thread_;
      } else if (word.reader != thread_) {
        word.reader = kMany;
      }
    }
  }
  note(shared_requests_, shared_count_, at, static_cast<int>(size), 0, write);
  return shared_.data() + at;
}

bool Emulation::may_load(const void* p, i64 size, bool table) {
  EmulatedBuffer* buffer = owner(p, size);
  if (!buffer) return false;
  const i64 at = static_cast<const char*>(p) - buffer->base;
  for (i64 b = at; b < at + size; ++b) {
    const bool written = buffer->writes && buffer->writes[b];
    if (buffer->valid && !buffer->valid[b] && !written) {
      finding(report_.uninitialised, "reads memory that was never written", at);
      break;
    }
    if (buffer->reads && buffer->reads[b] < 255) ++buffer->reads[b];
  }
  if (buffer->writes) watch(*buffer, at, size, false);
  if (!table) note(memory_requests_, memory_count_, at, static_cast<int>(size), buffer - report_.buffers, false);
  return true;
}

void Emulation::prefetch(const void* p, i64 size) { owner(p, size); }

bool Emulation::may_store(const void* p, i64 size) {
  EmulatedBuffer* buffer = owner(p, size);
  if (!buffer) return false;
  const i64 at = static_cast<const char*>(p) - buffer->base;
  for (i64 b = at; b < at + size; ++b) {
    if (!buffer->writes) {
      finding(report_.bounds, "writes to an input", at);
      return false;
    }
    if (buffer->writes[b] < 255) ++buffer->writes[b];
  }
  watch(*buffer, at, size, true);
  note(memory_requests_, memory_count_, at, static_cast<int>(size), buffer - report_.buffers, true);
  return true;
}

// Barriers order what the threads of a block do; nothing orders the blocks of a launch.
void Emulation::watch(const EmulatedBuffer& buffer, i64 at, i64 size, bool write) {
  auto& halves = halves_[static_cast<size_t>(&buffer - report_.buffers)];
  if (halves.empty()) halves.resize(static_cast<size_t>(buffer.bytes + 1) / 2);
  const char *doing = write ? "writes memory that another " : "reads memory that another ", *found = nullptr;
  const auto race = [&](const char* what) {
    if (!found) found = what;
  };
  for (i64 i = at / 2; i < (at + size + 1) / 2; ++i) {
    Half& half = halves[static_cast<size_t>(i)];
    if (half.write_block >= 0 && half.write_block != block_) race("block writes");
    if (half.write_phase == phase_ && half.writer != thread_) race("thread writes in the same phase");
    if (write) {
      if (half.read_block == kMany || (half.read_block >= 0 && half.read_block != block_)) race("block reads");
      if (half.read_phase == phase_ && half.reader != thread_) race("thread reads in the same phase");
      half.write_phase = phase_, half.write_block = block_, half.writer = thread_;
    } else {
      half.read_block = half.read_block == -1 || half.read_block == block_ ? block_ : kMany;
      half.reader = half.read_phase != phase_ || half.reader == thread_ ? thread_ : kMany;
      half.read_phase = phase_;
    }
  }
  if (found) finding(report_.races, (std::string(doing) + found).c_str(), at);
}

void Emulation::finding(i64& counter, const char* what, i64 at) {
  if (report_.races + report_.bounds + report_.uninitialised == 0)
    std::snprintf(report_.first, sizeof report_.first, "block %lld, phase '%s', thread %d: %s, at %lld", block_, name_,
                  thread_, what, at);
  ++counter;
}

EmulatedBuffer* Emulation::owner(const void* p, i64 size) {
  const char* c = static_cast<const char*>(p);
  for (i64 i = 0; i < report_.buffer_count; ++i) {
    EmulatedBuffer& b = report_.buffers[i];
    if (c >= b.base && c + size <= b.base + b.bytes) {
      if (reinterpret_cast<std::uintptr_t>(c) % std::min<i64>(size, 16))
        finding(report_.bounds, "an access that is not aligned", c - b.base);
      return &b;
    }
  }
  finding(report_.bounds, "address outside of every buffer", 0);
  return nullptr;
}

void Emulation::note(Requests& requests, std::vector<int>& count, i64 at, int bytes, i64 buffer, bool write) {
  if (!report_.statistics) return;
  Request& r = requests[{{thread_ / 32, count[2 * thread_ + write]++}, {2 * bytes + write, static_cast<int>(buffer)}}];
  r.at[thread_ % 32] = at;
  r.lanes |= u32{1} << (thread_ % 32);
}

void Emulation::count_requests() {
  for (const auto& [key, r] : shared_requests_) {
    const int bytes = key.second.first / 2;
    Count& count = banks_[std::string(name_) + (key.second.first % 2 ? "|store " : "|load ") + std::to_string(bytes)];
    // A warp's request is served in parts of 128 bytes; each takes as many wavefronts as a bank has different words.
    const int part = std::min(32, 128 / bytes);
    for (int first = 0; first < 32; first += part) {
      std::vector<i64> bank[32];
      size_t most = 0;
      for (int lane = first; lane < first + part; ++lane) {
        if (!(r.lanes >> lane & 1)) continue;
        for (int b = 0; b < bytes; b += 4) {
          const i64 word = (r.at[lane] + b) / 4;
          auto& words = bank[word % 32];
          if (std::find(words.begin(), words.end(), word) == words.end()) words.push_back(word);
          most = std::max(most, words.size());
        }
      }
      count.wavefronts += most;
      count.ideal += most > 0;
    }
  }
  for (const auto& [key, r] : memory_requests_) {
    const int bytes = key.second.first / 2;
    EmulatedBuffer& buffer = report_.buffers[key.second.second];
    std::vector<i64> sectors;
    for (int lane = 0; lane < 32; ++lane) {
      if (!(r.lanes >> lane & 1)) continue;
      buffer.requested += bytes;
      sectors.push_back(r.at[lane] / 32);
    }
    std::sort(sectors.begin(), sectors.end());
    buffer.sectors += std::unique(sectors.begin(), sectors.end()) - sectors.begin();
  }
  shared_requests_.clear();
  memory_requests_.clear();
}

}  // namespace front::cuda
