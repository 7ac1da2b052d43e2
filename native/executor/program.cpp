// Decodes and checks a program. Nothing is trusted: every offset, count and size is compared before it is used.
#include "program.h"

#include <cstring>

namespace deeptroupe {
namespace {

using abi::OpInfo;

static_assert(sizeof(DType) == 4 && static_cast<uint32_t>(DType::u8) == abi::dtype_count - 1);

[[noreturn]] void fail(const std::string& what, const std::string& expected, const std::string& got) {
  throw ProgramError("program: " + what + ", expected " + expected + ", got " + got);
}
std::string text(uint64_t n) { return std::to_string(n); }
std::string text(int64_t n) { return std::to_string(n); }

const OpInfo* find_op(uint16_t opcode) {
  for (const OpInfo& op : abi::op_table)
    if (static_cast<uint16_t>(op.opcode) == opcode) return &op;
  return nullptr;
}

class Decoder {
 public:
  Decoder(Program& program, const ProgramTarget& target)
      : program_(program),
        target_(target),
        data_(reinterpret_cast<const std::byte*>(program.bytes.data())) {}

  void decode(uint64_t size) {
    if (size < abi::header::head_bytes)
      fail("length", "at least " + text(uint64_t{abi::header::head_bytes}) + " bytes", text(size));
    expect_u32("magic number", abi::header::magic, abi::program_magic);
    expect_u32("ABI version", abi::header::version, abi::abi_version);
    if (read<uint64_t>(abi::header::op_table_hash) != abi::op_table_hash)
      fail("op table", "that of this build", "another");
    if (read<uint64_t>(abi::header::total_bytes) != size)
      fail("length", text(read<uint64_t>(abi::header::total_bytes)), text(size));
    expect_u32("ranks", abi::header::ranks, static_cast<uint32_t>(target_.ranks));
    size_ = size;
    program_.scalar_count = read<uint32_t>(abi::header::scalar_count);
    // A slot that no instruction could name is a damaged count, and the executor allocates by it.
    if (program_.scalar_count > 65535) fail("scalars", "at most 65535", text(uint64_t{program_.scalar_count}));
    tensors();
    instructions();
  }

 private:
  template <class T>
  T read(uint64_t at) const {
    T value;
    std::memcpy(&value, data_ + at, sizeof value);
    return value;
  }

  void expect_u32(const char* what, uint64_t at, uint32_t expected) const {
    const uint32_t got = read<uint32_t>(at);
    if (got != expected) fail(what, text(uint64_t{expected}), text(uint64_t{got}));
  }

  void expect_inside(const std::string& what, uint64_t at, uint64_t length) const {
    if (at > size_ || length > size_ - at)
      fail(what, "a record inside " + text(size_) + " bytes", "one of " + text(length) + " at " + text(at));
    if (at % 8) fail(what, "an offset on an 8-byte border", text(at));
  }

  void tensors() {
    const uint64_t start = read<uint64_t>(abi::header::tensors_offset);
    const uint64_t count = read<uint32_t>(abi::header::tensor_count);
    expect_inside("tensor records", start, count * abi::tensor::head_bytes);
    program_.tensors.resize(count);
    for (uint64_t i = 0; i < count; ++i) tensor(i, start + i * abi::tensor::head_bytes);
  }

  void tensor(uint64_t index, uint64_t at) {
    const std::string name = "tensor " + text(index);
    Place place;
    place.arena = read<uint32_t>(at + abi::tensor::arena);
    place.dtype = read<uint32_t>(at + abi::tensor::dtype);
    place.offset = read<uint64_t>(at + abi::tensor::offset);
    const uint32_t rank = read<uint32_t>(at + abi::tensor::rank);
    if (place.arena >= abi::arena_count)
      fail("arena of " + name, "below " + text(uint64_t{abi::arena_count}), text(uint64_t{place.arena}));
    if (place.dtype >= abi::dtype_count)
      fail("dtype of " + name, "below " + text(uint64_t{abi::dtype_count}), text(uint64_t{place.dtype}));
    if (rank > abi::max_dims) fail("dims of " + name, "at most " + text(uint64_t{abi::max_dims}), text(uint64_t{rank}));

    Tensor tensor{nullptr, static_cast<DType>(place.dtype), rank, {}};
    // Zeros are taken as ones here, so that the product of any of the dims fits too.
    int64_t bound = abi::dtype_bytes[place.dtype];
    for (uint32_t d = 0; d < rank; ++d) {
      const int64_t dim = read<int64_t>(at + abi::tensor::dims + 8 * d);
      if (dim < 0 || __builtin_mul_overflow(bound, dim ? dim : 1, &bound))
        fail("dim of " + name, "a size that memory can have", text(dim));
      tensor.dims[d] = dim;
    }
    place.elements = tensor.elements();
    const Arena& arena = target_.memory[place.arena];
    const std::string arena_name = std::string("arena ") + abi::arena_names[place.arena];
    if (!arena.reserved())
      fail(arena_name + " of " + name, "it to be allocated on rank " + std::to_string(target_.rank), "nothing");
    if (place.offset > arena.live() || place.bytes() > arena.live() - place.offset)
      fail(name, "a place inside the " + text(uint64_t{arena.live()}) + " bytes of " + arena_name,
           text(place.bytes()) + " bytes at " + text(place.offset));
    if (place.offset % abi::dtype_bytes[place.dtype])
      fail("offset of " + name, std::string("a multiple of the size of ") + abi::dtype_names[place.dtype],
          text(place.offset));
    tensor.data = arena.base() + place.offset;
    program_.tensors[index] = {place, tensor};
  }

  void instructions() {
    const uint64_t count = read<uint32_t>(abi::header::instruction_count);
    uint64_t at = read<uint64_t>(abi::header::instructions_offset);
    expect_inside("instruction records", at, count * abi::instruction::head_bytes);
    program_.instructions.resize(count);
    for (uint64_t i = 0; i < count; ++i) {
      const std::string name = "instruction " + text(i);
      expect_inside(name, at, abi::instruction::head_bytes);
      const uint64_t length = read<uint32_t>(at + abi::instruction::bytes);
      expect_inside(name, at, length);
      instruction(program_.instructions[i], name, at, length);
      at += length;
    }
  }

  void instruction(ProgramInstruction& target, std::string name, uint64_t at, uint64_t length) {
    const uint16_t opcode = read<uint16_t>(at + abi::instruction::opcode);
    const OpInfo* op = find_op(opcode);
    if (!op) fail("opcode of " + name, "one of the op table", text(uint64_t{opcode}));
    name += std::string(" (") + op->name + ")";
    const uint64_t inputs = read<uint8_t>(at + abi::instruction::inputs);
    const uint64_t outputs = read<uint8_t>(at + abi::instruction::outputs);
    const uint64_t scalars = read<uint16_t>(at + abi::instruction::scalars);
    const uint64_t words = read<uint16_t>(at + abi::instruction::attribute_words);
    if (inputs > op->inputs) fail("inputs of " + name, "at most " + text(uint64_t{op->inputs}), text(inputs));
    if (outputs > op->outputs) fail("outputs of " + name, "at most " + text(uint64_t{op->outputs}), text(outputs));
    if (scalars != op->scalars) fail("scalars of " + name, text(uint64_t{op->scalars}), text(scalars));
    const uint64_t operand_bytes = (4 * (inputs + outputs + scalars) + 7) & ~uint64_t{7};
    const uint64_t expected = abi::instruction::head_bytes + operand_bytes + 8 * words;
    if (length != expected) fail("bytes of " + name, text(expected), text(length));

    uint64_t next = at + abi::instruction::head_bytes;
    target.op = op;
    for (uint64_t i = 0; i < op->inputs; ++i) {
      const uint32_t operand = i < inputs ? read<uint32_t>(next + 4 * i) : abi::absent;
      if (operand == abi::absent && !(op->optional_inputs >> i & 1))
        fail("input " + text(i) + " of " + name, "a tensor", "nothing");
      target.inputs.push_back(tensor_at("input " + text(i) + " of " + name, operand));
      target.input_tensors.push_back(target.inputs.back() ? &target.inputs.back()->tensor : nullptr);
    }
    next += 4 * inputs;
    for (uint64_t i = 0; i < op->outputs; ++i) {
      const uint32_t operand = i < outputs ? read<uint32_t>(next + 4 * i) : abi::absent;
      target.outputs.push_back(tensor_at("output " + text(i) + " of " + name, operand));
      target.output_tensors.push_back(target.outputs.back() ? &target.outputs.back()->tensor : nullptr);
    }
    next += 4 * outputs;
    for (uint64_t i = 0; i < scalars; ++i) {
      target.scalars.push_back(read<uint32_t>(next + 4 * i));
      if (target.scalars.back() >= program_.scalar_count)
        fail("scalar " + text(i) + " of " + name, "below " + text(uint64_t{program_.scalar_count}),
            text(uint64_t{target.scalars.back()}));
    }
    attributes(target, name, at + abi::instruction::head_bytes + operand_bytes, words);
    target.workspace = tensor_at("workspace of " + name, read<uint32_t>(at + abi::instruction::workspace));
    if (target.workspace && reinterpret_cast<uintptr_t>(target.workspace->tensor.data) % target_.alignment)
      fail("offset of the workspace of " + name, "a multiple of " + text(target_.alignment),
           text(target.workspace->place.offset));
    expect_kernel(target, name);
  }

  const ProgramTensor* tensor_at(const std::string& what, uint32_t index) const {
    if (index == abi::absent) return nullptr;
    if (index >= program_.tensors.size())
      fail(what, "below " + text(uint64_t{program_.tensors.size()}), text(uint64_t{index}));
    return &program_.tensors[index];
  }

  void attributes(ProgramInstruction& target, const std::string& name, uint64_t at, uint64_t words) {
    uint64_t expected = target.op->attribute_words;
    if (target.op->has_list) {
      if (words <= expected) fail("attribute words of " + name, "at least " + text(expected + 1), text(words));
      const uint64_t list = read<uint64_t>(at + 8 * expected);
      if (list > words) fail("list length of " + name, "at most " + text(words), text(list));
      expected += 1 + list;
    }
    if (words != expected) fail("attribute words of " + name, text(expected), text(words));
    target.attributes = data_ + at;
  }

  void expect_kernel(ProgramInstruction& target, const std::string& name) {
    target.collective = is_collective(target.op->opcode);
    if (!target.collective) {
      if (!target_.has_kernel(target.op->opcode)) fail("kernel of " + name, std::string("one for ") + target_.backend, "none");
      return;
    }
    for (const ProgramTensor* output : target.outputs)
      if (!output) fail("output of " + name, "a tensor", "nothing");
    const std::string wrong = check_collective(collective_call(target), target_.ranks);
    if (!wrong.empty()) throw ProgramError("program: " + name + ": " + wrong);
  }

  Program& program_;
  const ProgramTarget& target_;
  const std::byte* data_;
  uint64_t size_ = 0;
};

}  // namespace

CollectiveCall collective_call(const ProgramInstruction& instruction) {
  const auto place = [](const std::vector<const ProgramTensor*>& list, size_t i) {
    return i < list.size() && list[i] ? &list[i]->place : nullptr;
  };
  return {instruction.op->opcode, instruction.attributes, place(instruction.inputs, 0), place(instruction.inputs, 1),
          place(instruction.outputs, 0)};
}

void decode_program(Program& program, std::span<const std::byte> bytes, const ProgramTarget& target) {
  program.bytes.resize((bytes.size() + 7) / 8);
  std::memcpy(program.bytes.data(), bytes.data(), bytes.size());
  Decoder(program, target).decode(bytes.size());
}

}  // namespace deeptroupe
