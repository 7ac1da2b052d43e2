// The stored table of how products are computed: one choice a line, in four fields with tabs between them: the device's name, the
// library's name and version, the product, the algorithm's bytes in hexadecimal. Lines that begin with # say something else.
#pragma once

#include <sstream>
#include <string>
#include <unordered_map>

namespace deeptroupe::gpu {

inline std::string choice_line(const std::string& device, const std::string& library, const std::string& product,
                               const std::string& algorithm) {
  return device + '\t' + library + '\t' + product + '\t' + algorithm;
}

/// The table's algorithms for one device and library, by product.
inline std::unordered_map<std::string, std::string> choices_for(const std::string& table, const std::string& device,
                                                                const std::string& library) {
  std::unordered_map<std::string, std::string> choices;
  std::istringstream lines(table);
  const std::string prefix = device + '\t' + library + '\t';
  for (std::string line; std::getline(lines, line);) {
    const size_t border = line.rfind('\t');
    if (!line.starts_with(prefix) || border < prefix.size()) continue;
    choices[line.substr(prefix.size(), border - prefix.size())] = line.substr(border + 1);
  }
  return choices;
}

inline std::string choice_bytes(const void* data, size_t bytes) {
  static constexpr char digits[] = "0123456789abcdef";
  std::string text;
  for (size_t i = 0; i < bytes; ++i) {
    const unsigned char byte = static_cast<const unsigned char*>(data)[i];
    text += digits[byte >> 4], text += digits[byte & 15];
  }
  return text;
}

/// False where the text is not that many bytes.
inline bool read_choice_bytes(const std::string& text, void* data, size_t bytes) {
  if (text.size() != 2 * bytes || text.find_first_not_of("0123456789abcdef") != std::string::npos) return false;
  for (size_t i = 0; i < bytes; ++i) static_cast<unsigned char*>(data)[i] = static_cast<unsigned char>(std::stoi(text.substr(2 * i, 2), nullptr, 16));
  return true;
}

}  // namespace deeptroupe::gpu
