// The safetensors reader against bytes of the format's own library and against headers that lie; the writer against the reader.
import { mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test from 'ava'
import fc from 'fast-check'
import { CheckpointError } from '../../../runtime/checkpoint/error.js'
import {
  planSafetensors,
  SafetensorsFile,
  safetensorsBytes,
  type TensorData,
  writeSafetensors,
} from '../../../runtime/checkpoint/safetensors.js'

const folder = mkdtempSync(join(tmpdir(), 'safetensors-'))
test.after.always(() => rmSync(folder, { recursive: true }))

let files = 0
const fresh = (): string => join(folder, `${files++}.safetensors`)

function fileOf(bytes: Uint8Array): string {
  const path = fresh()
  writeFileSync(path, bytes)
  return path
}

/** A file with this header, its length stated truly, and `dataBytes` zeros. */
function withHeader(header: string, dataBytes: number): Uint8Array {
  const text = Buffer.from(header)
  const bytes = Buffer.alloc(8 + text.length + dataBytes)
  bytes.writeBigUInt64LE(BigInt(text.length))
  text.copy(bytes, 8)
  return bytes
}

// safetensors.torch.save of safetensors with PyTorch 2.13: half [1.5, -2, 65504] f16, bf [[3.140625, -0.5]] bf16, single [0.1, -7.25]
// f32, ids [[1, -2], [2^31 - 1, 7]] i64, double [0.1] f64, empty [0, 3] f32, metadata {format: pt}.
const fromPython = Buffer.from(
  'iAEAAAAAAAB7Il9fbWV0YWRhdGFfXyI6eyJmb3JtYXQiOiJwdCJ9LCJpZHMiOnsiZHR5cGUiOiJJNjQiLCJzaGFwZSI6WzIsMl0sImRhdGFfb2Zmc2V0cyI6WzAsMzJdfSwiZG91YmxlIjp7ImR0eXBlIjoiRjY0Iiwic2hhcGUiOlsxXSwiZGF0YV9vZmZzZXRzIjpbMzIsNDBdfSwiZW1wdHkiOnsiZHR5cGUiOiJGMzIiLCJzaGFwZSI6WzAsM10sImRhdGFfb2Zmc2V0cyI6WzQwLDQwXX0sInNpbmdsZSI6eyJkdHlwZSI6IkYzMiIsInNoYXBlIjpbMl0sImRhdGFfb2Zmc2V0cyI6WzQwLDQ4XX0sImJmIjp7ImR0eXBlIjoiQkYxNiIsInNoYXBlIjpbMSwyXSwiZGF0YV9vZmZzZXRzIjpbNDgsNTJdfSwiaGFsZiI6eyJkdHlwZSI6IkYxNiIsInNoYXBlIjpbM10sImRhdGFfb2Zmc2V0cyI6WzUyLDU4XX19ICAgIAEAAAAAAAAA/v////////////9/AAAAAAcAAAAAAAAAmpmZmZmZuT/NzMw9AADowElAAL8APgDA/3s=',
  'base64',
)

const floats = (file: SafetensorsFile, name: string, start: number, count: number): number[] => {
  const target = new Float32Array(count)
  file.readFloats(name, start, target)
  return [...target]
}

test('reads what the Python library wrote', (t) => {
  const file = new SafetensorsFile(fileOf(fromPython))
  t.deepEqual(file.metadata, { format: 'pt' })
  t.deepEqual([...file.tensors.keys()].sort(), ['bf', 'double', 'empty', 'half', 'ids', 'single'])
  t.deepEqual(floats(file, 'half', 0, 3), [1.5, -2, 65504])
  t.deepEqual(floats(file, 'bf', 0, 2), [3.140625, -0.5])
  t.deepEqual(floats(file, 'single', 0, 2), [Math.fround(0.1), -7.25])
  t.deepEqual(floats(file, 'single', 1, 1), [-7.25])
  t.deepEqual(floats(file, 'double', 0, 1), [Math.fround(0.1)])
  t.deepEqual(floats(file, 'empty', 0, 0), [])
  const ids = new Int32Array(3)
  file.readIntegers('ids', 1, ids)
  t.deepEqual([...ids], [-2, 2 ** 31 - 1, 7])
  file.close()
})

test('refuses ranges, dtypes and values that do not fit', (t) => {
  const path = fresh()
  writeSafetensors(path, [{ name: 'big', dtype: 'I64', shape: [2], data: BigInt64Array.of(5n, 2n ** 31n) }])
  const file = new SafetensorsFile(path)
  t.throws(() => file.readIntegers('big', 0, new Int32Array(2)), {
    instanceOf: CheckpointError,
    message: `safetensors: element 1 of big of ${path}, expected 32 bits, got 2147483648`,
  })
  t.throws(() => file.readIntegers('big', 1, new Int32Array(2)), {
    message: /range of big .* within 16 bytes, got 8 to 24/,
  })
  t.throws(() => file.readFloats('big', 0, new Float32Array(1)), {
    message: /dtype of big .*, expected a float, got I64/,
  })
  t.throws(() => file.readBytes('small', 0, new Uint8Array(1)), {
    code: 'CHECKPOINT_MISSING',
    message: `safetensors: tensor small of ${path}, expected to be there, got 1 others`,
  })
  file.close()
})

const entry = fc.record({
  dtype: fc.constantFrom(...(Object.keys(safetensorsBytes) as (keyof typeof safetensorsBytes)[])),
  shape: fc.array(fc.nat(4), { maxLength: 3 }),
})

test('what is written is read back, whole and in ranges', (t) => {
  fc.assert(
    fc.property(
      fc.dictionary(fc.string(), entry, { maxKeys: 6 }),
      fc.dictionary(fc.string(), fc.string(), { maxKeys: 3 }),
      fc.nat(255),
      (entries, metadata, salt) => {
        const tensors: TensorData[] = Object.entries(entries)
          .filter(([name]) => name !== '__metadata__')
          .map(([name, { dtype, shape }], k) => {
            const length = shape.reduce((a, b) => a * b, 1) * safetensorsBytes[dtype]
            return { name, dtype, shape, data: Uint8Array.from({ length }, (_, i) => (i * 7 + k + salt) % 256) }
          })
        const path = fresh()
        writeSafetensors(path, tensors, metadata)
        const plan = planSafetensors(tensors, metadata)
        const bytes = readFileSync(path)
        t.is(bytes.length, plan.totalBytes)
        t.deepEqual(bytes.subarray(0, plan.header.length), Buffer.from(plan.header))
        t.is(plan.header.length % 8, 0)
        const file = new SafetensorsFile(path)
        t.deepEqual(Object.entries(file.metadata), Object.entries(metadata))
        t.is(file.tensors.size, tensors.length)
        for (const { name, dtype, shape, data } of tensors) {
          const stored = file.tensor(name)
          t.deepEqual([stored.dtype, stored.shape], [dtype, shape])
          t.deepEqual(stored, plan.tensors.get(name)!)
          t.is(stored.byteOffset % safetensorsBytes[dtype], 0)
          const half = stored.byteLength >> 1
          const target = new Uint8Array(stored.byteLength - half)
          file.readBytes(name, half, target)
          t.deepEqual(target, (data as Uint8Array).subarray(half))
        }
        file.close()
      },
    ),
    { numRuns: 60 },
  )
})

test('conversions read in chunks agree with the whole', (t) => {
  const count = 2_500_000
  const data = Uint16Array.from({ length: count }, (_, i) => (i * 40503) % 0x7f80)
  const path = fresh()
  writeSafetensors(path, [{ name: 'w', dtype: 'BF16', shape: [count], data: () => data }])
  const file = new SafetensorsFile(path)
  const whole = new Float32Array(count)
  file.readFloats('w', 0, whole)
  const bits = new Uint32Array(whole.buffer)
  t.is(
    bits.findIndex((value, i) => value !== data[i]! << 16),
    -1,
  )
  t.deepEqual(floats(file, 'w', 2_400_001, 3), [...whole.subarray(2_400_001, 2_400_004)])
  file.close()
})

test('every lie of a header is one clear error that names the file', (t) => {
  const good = '{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
  const file = new SafetensorsFile(fileOf(withHeader(good, 8)))
  t.is(file.tensor('a').byteLength, 8)
  file.close()
  const huge = Buffer.from(withHeader(good, 8))
  huge.writeBigUInt64LE(2n ** 63n)
  const deep = `{"a":{"dtype":"F32","shape":${'['.repeat(200_000)}${']'.repeat(200_000)},"data_offsets":[0,8]}}`
  for (const [bytes, expected] of [
    [Buffer.alloc(0), /size of .*, expected at least 8 bytes, got 0/],
    [huge, /header length of .*, expected at most 62, got 9223372036854775808/],
    [withHeader('{"a":', 8), /header of .*, expected JSON in UTF-8/],
    [withHeader('[1]', 0), /header of .*, expected a JSON object, got \[1\]/],
    [withHeader('{"a":7}', 0), /entry of a of .*, expected an object, got 7/],
    [withHeader(deep, 8), /shape of a of .*, expected a list of whole numbers, got a list/],
    [withHeader('{"__metadata__":{"k":1}}', 0), /metadata k of .*, expected a string, got 1/],
    [withHeader(good.replace('F32', 'F33'), 8), /dtype of a of .*, expected one of F64, .*, got "F33"/],
    [withHeader(good.replace('F32', 'toString'), 8), /dtype of a of .*, got "toString"/],
    [withHeader(good.replace('[2]', '[-2]'), 8), /shape of a of .*, expected a list of whole numbers, got \[-2\]/],
    [withHeader(good.replace('[2]', '[9007199254740991,9007199254740991]'), 8), /bytes of a of .*, got 8/],
    [withHeader(good.replace('[0,8]', '[8,0]'), 8), /data_offsets of a of .*, expected \[begin, end\], got \[8,0\]/],
    [
      withHeader(good.replace('[0,8]', '[0,16]'), 8),
      /data_offsets of a of .*, expected an end of at most 8, got \[0,16\]/,
    ],
    [withHeader(good.replace('[2]', '[3]'), 8), /bytes of a of .*, expected 12 for F32\[3\], got 8/],
    [withHeader(good.replace('[0,8]', '[4,12]'), 12), /begin of a of .*, expected 0, .*, got 4/],
    [
      withHeader(`${good.slice(0, -1)},"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}`, 12),
      /begin of b of .*, got 4/,
    ],
    [withHeader(good, 9), /size of .*, expected 70 bytes by its header, got 71/],
  ] as const) {
    const path = fileOf(bytes)
    const error = t.throws(() => new SafetensorsFile(path), { instanceOf: CheckpointError, message: expected })
    t.true(error?.message.startsWith('safetensors: ') && error.message.includes(path))
  }
  t.throws(() => new SafetensorsFile(join(folder, 'absent')), {
    instanceOf: CheckpointError,
    code: 'CHECKPOINT_MISSING',
  })
  t.throws(() => new SafetensorsFile(folder), { instanceOf: CheckpointError, message: /type of .*, expected a file/ })
})

test('changed, cut and lengthened files are read within their bounds or refused', (t) => {
  const path = fresh()
  fc.assert(
    fc.property(
      fc.array(fc.tuple(fc.nat(fromPython.length - 1), fc.nat(255)), { minLength: 1, maxLength: 4 }),
      fc.integer({ min: -20, max: 20 }),
      (changes, growth) => {
        const bytes = Buffer.from(fromPython)
        for (const [at, value] of changes) bytes[at] = value
        writeFileSync(path, bytes)
        truncateSync(path, bytes.length + growth)
        let file: SafetensorsFile
        try {
          file = new SafetensorsFile(path)
        } catch (error) {
          t.true(error instanceof CheckpointError && error.message.includes(path), String(error))
          return
        }
        let next = 8 + Number(bytes.readBigUInt64LE())
        for (const [name, { byteOffset, byteLength }] of file.tensors) {
          t.is(byteOffset, next)
          next += byteLength
          file.readBytes(name, 0, new Uint8Array(byteLength))
        }
        t.is(next, bytes.length + growth)
        file.close()
      },
    ),
    { numRuns: 300 },
  )
})

test('the writer refuses two tensors of one name, wrong sizes and places that it cannot write to', (t) => {
  const tensor = { name: 'w', dtype: 'F32', shape: [2], data: new Float32Array(2) } as const
  t.throws(() => planSafetensors([tensor, tensor]), {
    instanceOf: CheckpointError,
    message: /name w, expected one tensor/,
  })
  t.throws(() => writeSafetensors(fresh(), [{ ...tensor, shape: [3] }]), {
    message: /bytes of w for .*, expected 12, got 8/,
  })
  t.throws(() => writeSafetensors(join(folder, 'no', 'where'), [tensor]), {
    instanceOf: CheckpointError,
    message: /^safetensors: write .*where, expected success, got ENOENT/,
  })
})
