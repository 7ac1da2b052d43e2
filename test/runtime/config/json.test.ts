// The JSON reader against JSON.parse on arbitrary values, and its own rules: comments, commas, duplicates, places of errors.
import test from 'ava'
import fc from 'fast-check'
import { ConfigError } from '../../../runtime/config/error.js'
import { parseJson } from '../../../runtime/config/json.js'

test('reads what JSON.stringify writes', (t) => {
  fc.assert(
    fc.property(fc.jsonValue(), fc.constantFrom(undefined, 2), (value, indent) => {
      const text = JSON.stringify(value, null, indent)
      t.deepEqual(parseJson(text, 'x'), JSON.parse(text))
    }),
  )
})

test('refuses what JSON.parse refuses, but for comments and trailing commas', (t) => {
  fc.assert(
    fc.property(
      fc.jsonValue(),
      fc.nat(),
      fc.constantFrom('', '"', '{', '}', '[', ':', '1', 'x', '\\'),
      (value, at, insert) => {
        const whole = JSON.stringify(value)
        const place = at % (whole.length + 1)
        const text = whole.slice(0, place) + insert + whole.slice(place + 1)
        let expected: unknown
        try {
          expected = JSON.parse(text)
        } catch {
          if (/[#/]|,\s*[\]}]/.test(text)) return
          t.throws(() => parseJson(text, 'x'), { instanceOf: ConfigError }, text)
          return
        }
        try {
          t.deepEqual(parseJson(text, 'x'), expected, text)
        } catch (error) {
          t.is((error as ConfigError).code, 'CONFIG_DUPLICATE_KEY', text)
        }
      },
    ),
  )
})

test('comments and trailing commas are tolerated', (t) => {
  const text = '\ufeff// a\n{ # b\n "a": [1, 2,], /* c\n */ "b": {"c": "// no comment",}, }\n# end'
  t.deepEqual(parseJson(text, 'x'), { a: [1, 2], b: { c: '// no comment' } })
})

test('duplicate keys at any level are one error that lists them', (t) => {
  const text = '{"a": 1, "b": {"c": 1, "c": 2},\n "a": 2, "d": [{"e": 1, "e": 1}]}'
  const error = t.throws(() => parseJson(text, 'ds.json'), { instanceOf: ConfigError })
  t.is(error.code, 'CONFIG_DUPLICATE_KEY')
  t.deepEqual(
    error.problems.map((problem) => problem.key),
    ['b.c', 'a', 'd[0].e'],
  )
  t.regex(error.message, /config ds\.json.*\n.*b\.c.*line 1, column 24.*\n.*a, .*line 2, column 2/)
})

const broken: [text: string, place: string, expected: string, got: string][] = [
  ['', 'line 1, column 1', 'a value', 'the end of the file'],
  ['{"a": 1 "b": 2}', 'line 1, column 9', '"," or "}"', '"\\""'],
  ['{\n  "a": tru\n}', 'line 2, column 8', 'a value', '"tru"'],
  ['{\n  a: 1\n}', 'line 2, column 3', 'a quoted key or "}"', '"a"'],
  ['{"a": 01}', 'line 1, column 8', 'a value', '"1}"'],
  ['[1, 2', 'line 1, column 6', '"," or "]"', 'the end of the file'],
  ['{} x', 'line 1, column 4', 'the end of the file', '"x"'],
]
for (const [text, place, expected, got] of broken) {
  test(`broken JSON names file, line and column: ${JSON.stringify(text)}`, (t) => {
    const error = t.throws(() => parseJson(text, 'ds.json'), { instanceOf: ConfigError })
    t.is(error.message, `config ds.json: JSON at ${place}, expected ${expected}, got ${got}`)
    t.is(error.code, 'CONFIG_SYNTAX')
  })
}
