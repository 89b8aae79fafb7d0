// Python bindings of storage.h; addresses are integers, as in bindings.cpp. ../storage.py knows the sizes of buffers.
#include <nanobind/nanobind.h>
#include <nanobind/stl/tuple.h>

#include <stdexcept>
#include <string>
#include <tuple>

#include "storage.h"

namespace nb = nanobind;

namespace robustq {
namespace {

constexpr int64_t kMost = int64_t(1) << 40;

void need(bool ok, const char* what, int64_t value) {
  if (!ok) throw std::invalid_argument(std::string("robustq storage: ") + what + " = " + std::to_string(value));
}

template <class T>
T* address(uintptr_t at, const char* what) {
  need(at != 0, what, 0);
  return reinterpret_cast<T*>(at);
}

void need_count(int64_t n) { need(n > 0 && n < kMost, "the number of codes is out of range; n", n); }

Coding coding_of(int width, int levels) {
  need(width == 1 || width == 3 || width == 4 || width == 5 || width == 8, "no such encoding; width", width);
  const int highest = width == 3 ? 3 : width == 4 ? 7 : width == 8 ? 127 : 1;
  need(levels >= 1 && levels <= highest, "the encoding has no such levels; levels", levels);
  return Coding(width);
}

void need_bytes(Coding coding, int64_t n, int64_t bytes) {
  need(bytes == stored_bytes(coding, n), "the codes take another number of bytes; bytes", bytes);
}

// codes i8 (n,) -> bitmap u8 (ceil(n / 8),)
void bind_keep(uintptr_t codes, int64_t n, uintptr_t bitmap) {
  need_count(n);
  storage_current().keep(address<const int8_t>(codes, "bad address of the codes"), n,
                         address<uint8_t>(bitmap, "bad address of the bitmap"));
}

// codes i8 (n,), bitmap of them that keeps `kept`, or 0 with kept = n -> out u8 (bytes,)
void bind_store(int width, uintptr_t codes, uintptr_t bitmap, int64_t kept, int64_t n, int levels, uintptr_t out,
                int64_t bytes) {
  const Coding coding = coding_of(width, levels);
  need_count(n);
  need(kept >= 0 && kept <= n && (bitmap || kept == n), "the number of kept codes is out of range; kept", kept);
  need_bytes(coding, kept, bytes);
  if (kept == 0) return;
  const uint8_t* map = reinterpret_cast<const uint8_t*>(bitmap);
  if (map) {
    const Gaps found = storage_current().survey(map, n, 0);
    need(found.kept == kept && found.last < n, "the bitmap keeps another number of codes; kept", found.kept);
  }
  storage_current().store(coding, address<const int8_t>(codes, "bad address of the codes"), map, n, levels,
                          address<uint8_t>(out, "bad address of the bytes"));
}

// data u8 (bytes,), bitmap as above -> codes i8 (n,); False for what `store` does not write
bool bind_restore(int width, uintptr_t data, int64_t bytes, uintptr_t bitmap, int64_t kept, int64_t n, int levels,
                  uintptr_t codes) {
  const Coding coding = coding_of(width, levels);
  need_count(n);
  need(kept >= 0 && kept <= n && (bitmap || kept == n), "the number of kept codes is out of range; kept", kept);
  need_bytes(coding, kept, bytes);
  const uint8_t* from = kept ? address<const uint8_t>(data, "bad address of the bytes") : nullptr;
  return storage_current().restore(coding, from, reinterpret_cast<const uint8_t*>(bitmap), kept, n, levels,
                                   address<int8_t>(codes, "bad address of the codes"));
}

// bitmap -> (kept, r, bits of the unary part); r = -1 if the gaps take `enough` bytes or more
std::tuple<int64_t, int, int64_t> bind_survey(uintptr_t bitmap, int64_t n, int64_t enough) {
  need_count(n);
  const Gaps found = storage_current().survey(address<const uint8_t>(bitmap, "bad address of the bitmap"), n, enough);
  need(found.last < n, "the bitmap keeps codes beyond the last; place", found.last);
  return {found.kept, found.r, found.unary};
}

// bitmap -> low u8 (low_bytes,), unary u8 (unary_bytes,), whose sizes follow from what `survey` gave
void bind_store_gaps(uintptr_t bitmap, int64_t n, int r, uintptr_t low, int64_t low_bytes, uintptr_t unary,
                     int64_t unary_bytes) {
  need_count(n);
  need(r >= 0 && r < 32, "no such parameter; r", r);
  const uint8_t* map = address<const uint8_t>(bitmap, "bad address of the bitmap");
  const Gaps found = storage_current().survey(map, n, 0);
  need(found.last < n, "the bitmap keeps codes beyond the last; place", found.last);
  need(low_bytes == (found.kept * r + 7) / 8, "the low bits take another number of bytes; bytes", low_bytes);
  need(unary_bytes >= 0 && unary_bytes <= n && (unary_bytes == 0) == (found.kept == 0),
       "the unary part takes another number of bytes; bytes", unary_bytes);
  if (found.kept == 0) return;
  uint8_t* bits = r ? address<uint8_t>(low, "bad address of the low bits") : nullptr;
  uint8_t* ends = address<uint8_t>(unary, "bad address of the unary part");
  need(storage_current().store_gaps(map, n, r, bits, ends, unary_bytes),
       "the unary part takes another number of bytes; bytes", unary_bytes);
}

// low u8 (ceil(kept r / 8),), unary u8 (unary_bytes,) -> bitmap, which must be 0; False for what is not so written
bool bind_restore_gaps(uintptr_t low, uintptr_t unary, int64_t unary_bytes, int64_t kept, int r, int64_t n,
                       uintptr_t bitmap) {
  need_count(n);
  need(kept >= 0 && kept <= n, "the number of kept codes is out of range; kept", kept);
  need(r >= 0 && r < 32, "no such parameter; r", r);
  need(unary_bytes >= 0 && unary_bytes < kMost, "the unary part is out of range; bytes", unary_bytes);
  const uint8_t* bits = kept && r ? address<const uint8_t>(low, "bad address of the low bits") : nullptr;
  const uint8_t* ends = unary_bytes ? address<const uint8_t>(unary, "bad address of the unary part") : nullptr;
  return storage_current().restore_gaps(bits, ends, unary_bytes, kept, r, n,
                                        address<uint8_t>(bitmap, "bad address of the bitmap"));
}

}  // namespace

void bind_storage(nb::module_& m) {
  m.def("keep", &bind_keep, nb::call_guard<nb::gil_scoped_release>());
  m.def("store", &bind_store, nb::call_guard<nb::gil_scoped_release>());
  m.def("restore", &bind_restore, nb::call_guard<nb::gil_scoped_release>());
  m.def("survey", &bind_survey, nb::call_guard<nb::gil_scoped_release>());
  m.def("store_gaps", &bind_store_gaps, nb::call_guard<nb::gil_scoped_release>());
  m.def("restore_gaps", &bind_restore_gaps, nb::call_guard<nb::gil_scoped_release>());
}

}  // namespace robustq
