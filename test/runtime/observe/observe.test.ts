// What people see: numbers, the live line, the curve, the trace and the log, against what they must show.
import { Writable } from 'node:stream'
import test from 'ava'
import fc from 'fast-check'
import {
  chromeTrace,
  createLogger,
  eventLine,
  formatBytes,
  formatCount,
  formatDuration,
  lossChart,
  Progress,
  progressLine,
  type StepEvent,
} from '../../../runtime/observe/index.js'

test('sizes', (t) => {
  t.deepEqual([0, 5, 1023, 1024, 1536, 1048575, 12 * 2 ** 20, 5 * 2 ** 40].map(formatBytes), [
    '0 B',
    '5 B',
    '1023 B',
    '1.00 KiB',
    '1.50 KiB',
    '1.00 MiB',
    '12.0 MiB',
    '5.00 TiB',
  ])
  t.deepEqual([0, 999, 999.7, 1234, 124_439_808, -2e9].map(formatCount), [
    '0',
    '999',
    '1.00k',
    '1.23k',
    '124M',
    '-2.00G',
  ])
  t.deepEqual(
    [0, 0.085, 0.9996, 12.34, 59.96, 61, 3599.6, 7620, 90_000, Number.POSITIVE_INFINITY].map(formatDuration),
    ['0 ms', '85 ms', '1.0 s', '12.3 s', '1 m 00 s', '1 m 01 s', '1 h 00 m', '2 h 07 m', '1 d 01 h', '-'],
  )
})

test('formatted counts are right to half a percent', (t) => {
  fc.assert(
    fc.property(fc.double({ min: 1, max: 1e17, noNaN: true }), (count) => {
      const [, digits, unit] = /^([\d.]+)([kMGTP]?)$/.exec(formatCount(count))!
      const value = Number(digits) * 1000 ** ' kMGTP'.indexOf(unit || ' ')
      t.true(Math.abs(value - count) <= 0.0051 * count, `${count}: ${digits}${unit}`)
    }),
  )
})

const event = (step: number, seconds = 2): StepEvent => ({
  type: 'step',
  step,
  loss: 1 / 3,
  grad_norm: 0.1,
  lr: 1e-3,
  skipped: false,
  skipped_steps: 0,
  tokens: 1000,
  tokens_per_second: 1000 / seconds,
  seconds,
  native_seconds: 0.9 * seconds,
})

test('an event is one line of JSON in full precision', (t) => {
  const line = eventLine(event(1))
  t.true(line.endsWith('}\n'))
  t.deepEqual(JSON.parse(line), event(1))
  t.deepEqual(Object.keys(JSON.parse(line)), [
    'type',
    'step',
    'loss',
    'grad_norm',
    'lr',
    'skipped',
    'skipped_steps',
    'tokens',
    'tokens_per_second',
    'seconds',
    'native_seconds',
  ])
})

test('the live line shows step, loss, speed and time to go, and fits its terminal', (t) => {
  const state = { step: 50, steps: 200, loss: 2.34567, tokensPerSecond: 12_345, secondsLeft: 71 }
  t.is(progressLine(state), '█████░░░░░░░░░░░░░░░ step  50/200  loss 2.3457  12.3k tokens/s  1 m 11 s to go')
  for (let width = 1; width < 120; width++) t.true(progressLine(state, width).length <= width)
})

function collect(terminal: boolean, steps: number, every?: number): { progress: Progress; text: () => string } {
  let text = ''
  const stream = { isTTY: terminal, columns: 100, write: (part: string) => (text += part) }
  return { progress: new Progress(stream, { steps, ...(every === undefined ? {} : { every }) }), text: () => text }
}

test('a terminal redraws one line', (t) => {
  const { progress, text } = collect(true, 4)
  for (let step = 1; step <= 2; step++) progress.step(event(step))
  progress.note('saved')
  progress.step(event(3))
  progress.end()
  progress.end()
  const parts = text().split('\r\u001b[2K')
  t.is(parts.length, 5)
  t.regex(parts[2]!, /step 2\/4 {2}loss 0\.3333 {2}500 tokens\/s {2}4\.0 s to go$/)
  t.is(parts[3], 'saved\n')
  t.true(text().endsWith('to go\n'))
})

test('elsewhere a line comes every so many steps, and at both ends', (t) => {
  const { progress, text } = collect(false, 25, 10)
  for (let step = 1; step <= 25; step++) progress.step(event(step))
  progress.end()
  t.false(text().includes('\r'))
  t.deepEqual(text().match(/step +\d+/g), ['step  1', 'step 10', 'step 20', 'step 25'])
})

/** Height, in dots from the top, of the topmost dot in each column of the plot. */
function tops(chart: string): number[] {
  const lines = chart.split('\n').filter((line) => /[│┤]/.test(line))
  const bits = [
    [0x01, 0x08],
    [0x02, 0x10],
    [0x04, 0x20],
    [0x40, 0x80],
  ]
  const found: number[] = []
  lines.forEach((line, row) => {
    const plot = line.slice(line.search(/[│┤]/) + 1)
    for (let x = 0; x < 2 * plot.length; x++) {
      const code = plot.charCodeAt(x >> 1)
      if (code < 0x2800) continue
      for (let y = 0; y < 4; y++) if (code & bits[y]![x & 1]!) found[x] ??= 4 * row + y
    }
  })
  return found
}

test('a falling curve falls from the top left to the bottom right, within its size', (t) => {
  fc.assert(
    fc.property(
      fc.integer({ min: 2, max: 500 }),
      fc.integer({ min: 30, max: 120 }),
      fc.integer({ min: 2, max: 20 }),
      (count, width, height) => {
        const values = Array.from({ length: count }, (_, i) => 5 - (4 * i) / (count - 1))
        const chart = lossChart(values, { width, height })
        const lines = chart.split('\n')
        t.is(lines.length, height + 4)
        t.true(lines.every((line) => line.length <= width))
        const line = tops(chart)
        t.is(line.length, 2 * (width - 10))
        t.is(line[0], 0)
        t.true(line.at(-1)! >= 4 * height - 2 - Math.ceil((4 * height) / count))
        t.true(line.every((top, x) => x === 0 || top >= line[x - 1]!))
      },
    ),
    { numRuns: 60 },
  )
})

test('the axes name the range and the steps', (t) => {
  const chart = lossChart([4, 3, 2, 1], { firstStep: 11, title: 'loss of x' })
  t.regex(chart, /^ +loss of x\n +4\.000 ┤/)
  t.regex(chart, / 1\.000 ┤/)
  t.regex(chart, /\n +11 +step 14\n$/)
})

test('odd curves: one value, a flat one, gaps, nothing', (t) => {
  t.regex(lossChart([2]), /2\.000 ┤/)
  t.regex(lossChart([2, 2, 2]), /2\.000 ┤⠤|2\.000 ┤⠉|2\.000 ┤[⠁-⣿]/)
  t.regex(lossChart([1, Number.NaN, 3]), /3\.000/)
  t.is(lossChart([Number.NaN]), 'loss: no values\n')
  t.is(lossChart([]), 'loss: no values\n')
})

test('a trace has a process for each rank and the rates that were reached', (t) => {
  const trace = chromeTrace([
    {
      name: 'linear',
      category: 'forward',
      rank: 1,
      startSeconds: 10.001,
      endSeconds: 10.003,
      flops: 4e9,
      bytes: 2e6,
      details: { step: 3 },
    },
    { name: 'barrier', category: 'communication', rank: 0, lane: 2, startSeconds: 10, endSeconds: 10 },
  ])
  t.deepEqual(JSON.parse(JSON.stringify(trace)), trace)
  const [first, second, linear, barrier] = trace.traceEvents
  t.deepEqual(first, { ph: 'M', name: 'process_name', pid: 0, args: { name: 'rank 0' } })
  t.like(second, { ph: 'M', pid: 1 })
  t.like(linear, { ph: 'X', name: 'linear', cat: 'forward', pid: 1, tid: 0 })
  t.true(linear?.ph === 'X' && Math.abs(linear.ts - 1000) < 1e-3 && Math.abs(linear.dur - 2000) < 1e-3)
  t.true(linear?.ph === 'X' && Math.abs(Number(linear.args.gflops_per_second) - 2000) < 1e-6)
  t.true(linear?.ph === 'X' && Math.abs(Number(linear.args.gb_per_second) - 1) < 1e-9)
  t.is(linear?.args.step, 3)
  t.like(barrier, { ph: 'X', tid: 2, ts: 0, dur: 0 })
  t.deepEqual(barrier?.args, {})
  t.deepEqual(chromeTrace([]), { displayTimeUnit: 'ms', traceEvents: [] })
})

test('the log is JSON lines with their component, at its level and above', (t) => {
  let text = ''
  const destination = new Writable({
    write(chunk, _, done) {
      text += String(chunk)
      done()
    },
  })
  const log = createLogger('rank 1', { level: 'warn', destination })
  log.info('not this')
  log.warn({ step: 4 }, 'slow')
  const line = JSON.parse(text) as Record<string, unknown>
  t.like(line, { level: 40, component: 'rank 1', step: 4, msg: 'slow' })
})
